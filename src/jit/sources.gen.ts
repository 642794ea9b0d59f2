// Written by `bun run sources`: do not edit.
/// <reference path="./text.d.ts" />
import source0 from "../../kernels/attention/common/finish.h" with { type: "text" };
import source1 from "../../kernels/attention/common/locate.h" with { type: "text" };
import source2 from "../../kernels/attention/common/maps.h" with { type: "text" };
import source3 from "../../kernels/attention/common/records.h" with { type: "text" };
import source4 from "../../kernels/attention/common/rows.h" with { type: "text" };
import source5 from "../../kernels/attention/common/scores.h" with { type: "text" };
import source6 from "../../kernels/attention/hooks.h" with { type: "text" };
import source7 from "../../kernels/attention/merge.cu" with { type: "text" };
import source8 from "../../kernels/attention/row.h" with { type: "text" };
import source9 from "../../kernels/attention/tiled/block.h" with { type: "text" };
import source10 from "../../kernels/attention/tiled/copy.h" with { type: "text" };
import source11 from "../../kernels/attention/tiled/decode.cu" with { type: "text" };
import source12 from "../../kernels/attention/tiled/facts.h" with { type: "text" };
import source13 from "../../kernels/attention/tiled/prefill.cu" with { type: "text" };
import source14 from "../../kernels/attention/tiled/products.h" with { type: "text" };
import source15 from "../../kernels/attention/tiled/warps.h" with { type: "text" };
import source16 from "../../kernels/attention/variant.h" with { type: "text" };
import source17 from "../../kernels/common/chunk.h" with { type: "text" };
import source18 from "../../kernels/common/element.h" with { type: "text" };
import source19 from "../../kernels/page/page.cu" with { type: "text" };
import source20 from "../../kernels/params.h" with { type: "text" };
import source21 from "../../kernels/probe/probe.cu" with { type: "text" };
import source22 from "../../kernels/ptx/barrier.h" with { type: "text" };
import source23 from "../../kernels/ptx/base.h" with { type: "text" };
import source24 from "../../kernels/ptx/cluster.h" with { type: "text" };
import source25 from "../../kernels/ptx/convert.h" with { type: "text" };
import source26 from "../../kernels/ptx/cp_async.h" with { type: "text" };
import source27 from "../../kernels/ptx/fence.h" with { type: "text" };
import source28 from "../../kernels/ptx/ldmatrix.h" with { type: "text" };
import source29 from "../../kernels/ptx/math.h" with { type: "text" };
import source30 from "../../kernels/ptx/mbarrier.h" with { type: "text" };
import source31 from "../../kernels/ptx/memory.h" with { type: "text" };
import source32 from "../../kernels/ptx/mma.h" with { type: "text" };
import source33 from "../../kernels/ptx/pdl.h" with { type: "text" };
import source34 from "../../kernels/ptx/special.h" with { type: "text" };
import source35 from "../../kernels/ptx/stmatrix.h" with { type: "text" };
import source36 from "../../kernels/ptx/tma.h" with { type: "text" };
import source37 from "../../kernels/ptx/wgmma.h" with { type: "text" };
import source38 from "../../kernels/states/states.cu" with { type: "text" };
import source39 from "../../kernels/tensor/tensor.cu" with { type: "text" };

/** Text of every kernel source and header, by its path below kernels/. */
export const sources: Readonly<Record<string, string>> = {
  "attention/common/finish.h": source0,
  "attention/common/locate.h": source1,
  "attention/common/maps.h": source2,
  "attention/common/records.h": source3,
  "attention/common/rows.h": source4,
  "attention/common/scores.h": source5,
  "attention/hooks.h": source6,
  "attention/merge.cu": source7,
  "attention/row.h": source8,
  "attention/tiled/block.h": source9,
  "attention/tiled/copy.h": source10,
  "attention/tiled/decode.cu": source11,
  "attention/tiled/facts.h": source12,
  "attention/tiled/prefill.cu": source13,
  "attention/tiled/products.h": source14,
  "attention/tiled/warps.h": source15,
  "attention/variant.h": source16,
  "common/chunk.h": source17,
  "common/element.h": source18,
  "page/page.cu": source19,
  "params.h": source20,
  "probe/probe.cu": source21,
  "ptx/barrier.h": source22,
  "ptx/base.h": source23,
  "ptx/cluster.h": source24,
  "ptx/convert.h": source25,
  "ptx/cp_async.h": source26,
  "ptx/fence.h": source27,
  "ptx/ldmatrix.h": source28,
  "ptx/math.h": source29,
  "ptx/mbarrier.h": source30,
  "ptx/memory.h": source31,
  "ptx/mma.h": source32,
  "ptx/pdl.h": source33,
  "ptx/special.h": source34,
  "ptx/stmatrix.h": source35,
  "ptx/tma.h": source36,
  "ptx/wgmma.h": source37,
  "states/states.cu": source38,
  "tensor/tensor.cu": source39,
};

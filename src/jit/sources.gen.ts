// Written by `bun run sources`: do not edit.
/// <reference path="./text.d.ts" />
import source0 from "../../kernels/attention/tiled/block.h" with { type: "text" };
import source1 from "../../kernels/attention/tiled/copy.h" with { type: "text" };
import source2 from "../../kernels/attention/tiled/facts.h" with { type: "text" };
import source3 from "../../kernels/attention/tiled/finish.h" with { type: "text" };
import source4 from "../../kernels/attention/tiled/locate.h" with { type: "text" };
import source5 from "../../kernels/attention/tiled/prefill.cu" with { type: "text" };
import source6 from "../../kernels/attention/tiled/products.h" with { type: "text" };
import source7 from "../../kernels/attention/tiled/records.h" with { type: "text" };
import source8 from "../../kernels/attention/tiled/rows.h" with { type: "text" };
import source9 from "../../kernels/attention/tiled/scores.h" with { type: "text" };
import source10 from "../../kernels/common/element.h" with { type: "text" };
import source11 from "../../kernels/merge/merge.cu" with { type: "text" };
import source12 from "../../kernels/page/page.cu" with { type: "text" };
import source13 from "../../kernels/params.h" with { type: "text" };
import source14 from "../../kernels/probe/probe.cu" with { type: "text" };
import source15 from "../../kernels/ptx/barrier.h" with { type: "text" };
import source16 from "../../kernels/ptx/base.h" with { type: "text" };
import source17 from "../../kernels/ptx/convert.h" with { type: "text" };
import source18 from "../../kernels/ptx/cp_async.h" with { type: "text" };
import source19 from "../../kernels/ptx/fence.h" with { type: "text" };
import source20 from "../../kernels/ptx/ldmatrix.h" with { type: "text" };
import source21 from "../../kernels/ptx/math.h" with { type: "text" };
import source22 from "../../kernels/ptx/memory.h" with { type: "text" };
import source23 from "../../kernels/ptx/mma.h" with { type: "text" };
import source24 from "../../kernels/ptx/pdl.h" with { type: "text" };
import source25 from "../../kernels/ptx/special.h" with { type: "text" };
import source26 from "../../kernels/tensor/chunk.h" with { type: "text" };
import source27 from "../../kernels/tensor/tensor.cu" with { type: "text" };

/** Text of every kernel source and header, by its path below kernels/. */
export const sources: Readonly<Record<string, string>> = {
  "attention/tiled/block.h": source0,
  "attention/tiled/copy.h": source1,
  "attention/tiled/facts.h": source2,
  "attention/tiled/finish.h": source3,
  "attention/tiled/locate.h": source4,
  "attention/tiled/prefill.cu": source5,
  "attention/tiled/products.h": source6,
  "attention/tiled/records.h": source7,
  "attention/tiled/rows.h": source8,
  "attention/tiled/scores.h": source9,
  "common/element.h": source10,
  "merge/merge.cu": source11,
  "page/page.cu": source12,
  "params.h": source13,
  "probe/probe.cu": source14,
  "ptx/barrier.h": source15,
  "ptx/base.h": source16,
  "ptx/convert.h": source17,
  "ptx/cp_async.h": source18,
  "ptx/fence.h": source19,
  "ptx/ldmatrix.h": source20,
  "ptx/math.h": source21,
  "ptx/memory.h": source22,
  "ptx/mma.h": source23,
  "ptx/pdl.h": source24,
  "ptx/special.h": source25,
  "tensor/chunk.h": source26,
  "tensor/tensor.cu": source27,
};

// Written by `bun run sources`: do not edit.
/// <reference path="./text.d.ts" />
import source0 from "../../kernels/attention/tiled/facts.h" with { type: "text" };
import source1 from "../../kernels/attention/tiled/locate.h" with { type: "text" };
import source2 from "../../kernels/attention/tiled/records.h" with { type: "text" };
import source3 from "../../kernels/attention/tiled/rows.h" with { type: "text" };
import source4 from "../../kernels/common/element.h" with { type: "text" };
import source5 from "../../kernels/merge/merge.cu" with { type: "text" };
import source6 from "../../kernels/page/page.cu" with { type: "text" };
import source7 from "../../kernels/params.h" with { type: "text" };
import source8 from "../../kernels/probe/probe.cu" with { type: "text" };
import source9 from "../../kernels/ptx/barrier.h" with { type: "text" };
import source10 from "../../kernels/ptx/base.h" with { type: "text" };
import source11 from "../../kernels/ptx/convert.h" with { type: "text" };
import source12 from "../../kernels/ptx/cp_async.h" with { type: "text" };
import source13 from "../../kernels/ptx/fence.h" with { type: "text" };
import source14 from "../../kernels/ptx/ldmatrix.h" with { type: "text" };
import source15 from "../../kernels/ptx/math.h" with { type: "text" };
import source16 from "../../kernels/ptx/memory.h" with { type: "text" };
import source17 from "../../kernels/ptx/mma.h" with { type: "text" };
import source18 from "../../kernels/ptx/pdl.h" with { type: "text" };
import source19 from "../../kernels/ptx/special.h" with { type: "text" };
import source20 from "../../kernels/tensor/element.h" with { type: "text" };
import source21 from "../../kernels/tensor/tensor.cu" with { type: "text" };

/** Text of every kernel source and header, by its path below kernels/. */
export const sources: Readonly<Record<string, string>> = {
  "attention/tiled/facts.h": source0,
  "attention/tiled/locate.h": source1,
  "attention/tiled/records.h": source2,
  "attention/tiled/rows.h": source3,
  "common/element.h": source4,
  "merge/merge.cu": source5,
  "page/page.cu": source6,
  "params.h": source7,
  "probe/probe.cu": source8,
  "ptx/barrier.h": source9,
  "ptx/base.h": source10,
  "ptx/convert.h": source11,
  "ptx/cp_async.h": source12,
  "ptx/fence.h": source13,
  "ptx/ldmatrix.h": source14,
  "ptx/math.h": source15,
  "ptx/memory.h": source16,
  "ptx/mma.h": source17,
  "ptx/pdl.h": source18,
  "ptx/special.h": source19,
  "tensor/element.h": source20,
  "tensor/tensor.cu": source21,
};

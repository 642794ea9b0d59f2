import { expect, test } from "bun:test";
import { readFaults, readResources } from "../../scripts/nvcc.ts";

const clean = `ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'fill' for 'sm_90a'
ptxas info    : Function properties for fill
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 168 registers, used 9 barriers, 1024 bytes smem, 424 bytes cmem[0]
ptxas info    : Compile time = 42.662 ms
ptxas info    : Compiling entry function 'copy' for 'sm_90a'
ptxas info    : Function properties for copy
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 32 registers, used 0 barriers
`;

test("registers and shared memory of each kernel are read from what ptxas says", () => {
  const nothing = { stackBytes: 0, spillBytes: 0 };
  expect(readResources(clean)).toEqual([
    { kernel: "copy", registers: 32, barriers: 0, staticSharedBytes: 0, ...nothing },
    { kernel: "fill", registers: 168, barriers: 9, staticSharedBytes: 1024, ...nothing },
  ]);
  expect(readFaults(clean)).toEqual([]);
});

const faults: [string, string, string, string][] = [
  ["a stack", "0 bytes stack frame", "16 bytes stack frame", "fill keeps a stack of 16 bytes"],
  ["stores", "0 bytes spill stores", "8 bytes spill stores", "fill spills 8 bytes"],
  ["loads", "0 bytes spill loads", "12 bytes spill loads", "fill spills 12 bytes"],
  [
    "serialisation",
    "ptxas info    : 0 bytes gmem",
    "ptxas info    : (C7510) Potential Performance Loss: " +
      "wgmma.mma_async instructions are serialized",
    "(C7510)",
  ],
  [
    "warnings",
    "ptxas info    : 0 bytes gmem",
    "ptxas warning : setmaxnreg ignored to maintain minimum register requirement (C7508)",
    "setmaxnreg ignored",
  ],
];
test.each(faults)("%s fail the build", (_, from, to, said) => {
  expect(readFaults(clean.replace(from, to))).toEqual([expect.stringContaining(said)]);
});

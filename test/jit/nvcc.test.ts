import { expect, test } from "bun:test";
import { readClampFaults } from "../../src/jit/machine-code.ts";
import { readFaults, readResources } from "../../scripts/nvcc.ts";
import { Bytes } from "../../src/debloat/bytes.ts";
import { readElf } from "../../src/debloat/elf/elf.ts";
import { makeCubin } from "../debloat/support/make-cubin.ts";

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

/** A cubin whose kernel `fill` has this instruction, as nvdisasm -hex prints it, and zeros. */
function withInstruction(low: bigint, high: bigint): Uint8Array {
  const image = makeCubin({ arch: 90, seed: 1, kernels: [{ name: "fill", bytes: 64 }] });
  const { sections } = readElf(new Bytes(image, "a cubin"));
  const { offset } = sections.find(({ name }) => name === ".text.fill")!;
  image.fill(0, offset, offset + 64);
  const view = new DataView(image.buffer);
  view.setBigUint64(offset + 16, low, true);
  view.setBigUint64(offset + 24, high, true);
  return image;
}

const clamps: [string, bigint, bigint, boolean][] = [
  ["VIMNMX.RELU R33, P0, P0, R32, 0x4, PT", 0x0000000420217848n, 0x000fe20003801100n, false],
  ["VIMNMX.RELU R37, P1, P1, R36, 0x4, PT", 0x0000000424257848n, 0x000fe20003921100n, false],
  ["VIMNMX.RELU R7, R0, 0x4, PT", 0x0000000400077848n, 0x000fe20003fe1100n, true],
  ["VIMNMX R20, R20, R15, PT", 0x0000000f14147248n, 0x000fe20003fe0100n, true],
];
test.each(clamps)(
  "of clamps at 0 and above those that set a predicate are told: %s",
  (...clamp) => {
    const [, low, high, isRight] = clamp;
    const fault = expect.stringMatching(/^fill compares .* \(1 VIMNMX.RELU\)/);
    expect(readClampFaults(withInstruction(low, high))).toEqual(isRight ? [] : [fault]);
  },
);

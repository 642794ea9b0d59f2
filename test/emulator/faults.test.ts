import { afterEach, describe, expect, test } from "bun:test";
import { available, call, emulated, get, type Launch } from "./cuda.ts";
import { kernelOf, restart, run } from "./rig.ts";

type Shape = Partial<Launch> & { readonly bytes?: number };

/** What the driver says after running a kernel of faults.cu. */
async function failureOf(name: string, shape: Shape = {}): Promise<string> {
  const kernel = await kernelOf("faults.cu", name);
  const data = new Uint32Array(1024).fill(7);
  try {
    const maps = name === "stored_at" ? [{ ...box, address: get("cuMemAlloc", 256n) }] : [];
    const shared = maps.length * 128;
    run({ kernel, bytes: 256, data, maps, shared, ...shape });
  } catch (error) {
    return (error as Error).message;
  }
  return "nothing";
}

async function outputOf(name: string, shape: Shape = {}): Promise<Uint32Array> {
  const kernel = await kernelOf("faults.cu", name);
  const data = new Uint32Array(1024).fill(7);
  return new Uint32Array(run({ kernel, bytes: 256, data, ...shape }));
}

/** Name, what the message must hold, how it is launched. */
type Row = [string, RegExp, Shape?];

const memoryFaults: Row[] = [
  // One word past 256 bytes lies on the guard page.
  [
    "store_at",
    /ILLEGAL_ADDRESS.*thread \(5,0,0\): wrote 256 bytes past the start/,
    { numbers: [64] },
  ],
  ["store_at", /ILLEGAL_ADDRESS.*wrote 4 bytes past the end of/, { bytes: 100, numbers: [26] }],
  ["load_at", /ILLEGAL_ADDRESS.*thread \(6,0,0\): read/, { numbers: [1 << 20] }],
  ["poisoned_pointer", /ILLEGAL_ADDRESS.*wrote at no valid address/],
  ["misaligned_store", /MISALIGNED_ADDRESS.*16 bytes of the access/],
  ["past_dynamic", /ILLEGAL_ADDRESS.*past the end of the dynamic/, { shared: 100, numbers: [100] }],
  ["past_dynamic", /ILLEGAL_ADDRESS.*wrote/, { shared: 1024, numbers: [1024] }],
  ["past_static", /ILLEGAL_ADDRESS.*static shared variable of 32 bytes/, { numbers: [8] }],
  ["past_shared_by_copy", /ILLEGAL_ADDRESS.*16 bytes of shared memory/, { shared: 100 }],
  ["deep_stack", /ILLEGAL_ADDRESS.*stack of the emulated thread is full/],
  ["divide", /LAUNCH_FAILED.*division by zero/],
  ["trapped", /LAUNCH_FAILED.*thread \(3,0,0\): trap/],
];

const box = { type: "i32", extents: [8, 8], strides: [32], box: [8, 4], swizzle: 0 } as const;

/** An H100 refuses these too. */
const tileFaults: Row[] = [
  ["stored_at", /ILLEGAL_INSTRUCTION.*innermost coordinate 2: not/, { numbers: [2, 0] }],
  ["stored_at", /ILLEGAL_INSTRUCTION.*stored at coordinate -1/, { numbers: [0, -1] }],
];

const waitFaults: Row[] = [
  ["never_waits", /LAUNCH_FAILED.*cp.async never waited for/],
  ["load_never_awaited", /LAUNCH_FAILED.*asynchronous copy in flight/],
  ["store_never_awaited", /LAUNCH_FAILED.*bulk store may still read/],
  ["no_pdl_wait", /LAUNCH_FAILED.*no thread calls pdl_wait/, { programmatic: true }],
  ["no_init", /LAUNCH_FAILED.*no mbarrier was initialised/],
  ["barrier_overwritten", /LAUNCH_FAILED.*was written over/],
  ["no_wgmma_fence", /LAUNCH_FAILED.*without a wgmma.fence/, { threads: 128, shared: 2048 }],
];

const disagreements: Row[] = [
  ["missing_at_barrier", /LAUNCH_TIMEOUT.*32 threads wait in barrier 3/, { threads: 64 }],
  ["split_warp", /LAUNCH_FAILED.*the warp has split/],
  ["different_counts", /barrier 1/, { threads: 64 }],
  ["too_few_bytes", /LAUNCH_TIMEOUT.*32 threads wait in mbarrier.try_wait/],
  ["block_gone", /ILLEGAL_ADDRESS.*block 1 of the cluster has ended/, { grid: 2, cluster: 2 }],
];

// Copies that land at once leave nothing behind to complain of.
const eager = process.env["FLASHBUN_EMULATOR"]?.includes("eager") ?? false;
const onlyLate = ["never_waits", "load_never_awaited", "store_never_awaited"];
const rows = [...memoryFaults, ...waitFaults, ...disagreements, ...tileFaults].filter(
  ([name]) => !(eager && onlyLate.includes(name)),
);

describe.skipIf(!available || !emulated)("a kernel that", () => {
  afterEach(restart);

  test.each(rows)("%s fails with %p", async (name, message, shape) => {
    expect(await failureOf(name, shape)).toMatch(message);
    // The failure stays until the context is gone.
    expect(call("cuCtxSynchronize")).not.toBe(0);
    restart();
    expect((await outputOf("add_one", { numbers: [1] }))[0]).toBe(0);
  });

  test("reads before a copy is waited for sees poison", async () => {
    const poisoned = (words: Uint32Array) => words.filter((word) => word === 0xffffffff).length;
    const shapes: [string, Shape, number][] = [
      ["no_wait", {}, 32],
      ["no_barrier", { threads: 64 }, 1],
      ["no_wgmma_wait", { threads: 128, shared: 2048, bytes: 512 }, 128],
    ];
    for (const [name, shape, least] of shapes) {
      if (eager && name !== "no_wgmma_wait") continue;
      expect(poisoned(await outputOf(name, shape))).toBeGreaterThanOrEqual(least);
    }
    const [first] = await outputOf("written_before_read");
    expect(first).toBe(eager ? 1 : 9);
  });
});

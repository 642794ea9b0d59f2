/**
 * Prints the milliseconds that an attention with a variant takes to make, in a fresh process: all
 * of its kernels found or compiled, and loaded. FLASHBUN_CACHE says where they are kept.
 *
 * Usage: bun bench/gpu/create.ts [device]
 */
import type { DeviceKind } from "../../src/device/open.ts";
import { Attention, Device } from "../../src/index.ts";
import { softCap } from "../../src/variant/library.ts";

const shape = { queryHeads: 32, kvHeads: 8, headDim: 128, dtype: "bf16", causal: true } as const;
await using device = await Device.open((process.argv[2] ?? "cuda:0") as DeviceKind);
// What any attention needs once is no part of it.
await using plain = await Attention.create(device, shape);
plain.guard();
const started = performance.now();
await using attention = await Attention.create(device, { ...shape, variant: softCap({ cap: 30 }) });
attention.guard();
process.stdout.write(`${performance.now() - started}\n`);
process.exitCode = 0;

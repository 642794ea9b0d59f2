/**
 * Runs FlashInfer's own tests of attention, pages, cascades, MLA, POD, sparse masks and bits on the
 * CPU device, through the stand-in of test/flashinfer, and says what came of them and what could
 * not be said. They are those of a checkout of FlashInfer; PyTorch for them is installed by pip
 * into .toolchain/flashinfer, once (3 GB). Not part of any check: minutes to hours, by --most.
 *
 * Usage: bun scripts/flashinfer-tests.ts CHECKOUT [--most CASES] [arguments of pytest]
 */
import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import { setup } from "./setup.ts";
import { root, run, toolchain } from "./toolchain.ts";

/** Below tests/attention, but the last two. */
const names = [
  "alibi",
  "attention_sink",
  "batch_attention",
  "batch_decode_kernels",
  "batch_invariant_fa2",
  "batch_prefill",
  "batch_prefill_kernels",
  "block_sparse",
  "decode_prefill_lse",
  "deepseek_mla",
  "logits_cap",
  "mla_decode_kernel",
  "mla_page",
  "non_contiguous_decode",
  "non_contiguous_prefill",
  "page",
  "shared_prefix_kernels",
  "single_prefill",
  "sliding_window",
  "tensor_cores_decode",
];
const files = [
  ...names.map((name) => `tests/attention/test_${name}.py`),
  "tests/utils/test_pod_kernels.py",
  "tests/utils/test_quantization.py",
];

const [checkout, ...args] = process.argv.slice(2);
if (checkout === undefined || !existsSync(join(checkout, "tests", "attention"))) {
  console.error("Usage: bun scripts/flashinfer-tests.ts CHECKOUT [--most CASES] [pytest's]");
  console.error("CHECKOUT is a clone of FlashInfer: a folder with flashinfer/ and tests/.");
  process.exit(1);
}
await setup();
const folder = join(toolchain, "flashinfer");
const python = join(folder, "bin", "python");
if (!existsSync(join(folder, "ready"))) {
  await run(["python3", "-m", "venv", folder]);
  await run([python, "-m", "pip", "install", "-q", "torch==2.11.0", "numpy", "scipy", "pytest"]);
  await Bun.write(join(folder, "ready"), "");
}
const source = resolve(checkout);
const given = args.some((arg) => arg.endsWith(".py") || arg.includes("::")) ? [] : files;
const command = [python, "-m", "pytest", "-p", "shim", "--noconftest", "-q", "--tb=line"];
const child = Bun.spawn([...command, ...given, ...args], {
  cwd: source,
  env: {
    ...process.env,
    BUN: process.execPath,
    FLASHINFER_SOURCE: source,
    PYTHONPATH: [join(root, "test", "flashinfer"), source].join(":"),
    PYTHONDONTWRITEBYTECODE: "1",
  },
  stdio: ["inherit", "inherit", "inherit"],
});
process.exitCode = await child.exited;

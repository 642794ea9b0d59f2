// Runs the kernel of races.cu without one thing, which the argument names: where it is watched, the
// process reports to the race detector's files.
import { kernelOf, run } from "./rig.ts";

const kernel = await kernelOf("races.cu", "exchange", { FB_LESS: process.argv[2] });
run({ kernel, threads: 64, bytes: 256 });

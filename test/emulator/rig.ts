import { readFileSync } from "node:fs";
import { join } from "node:path";
import { type CompilerAnswer, nvrtcWorker } from "../../src/ffi/nvrtc.ts";
import { compileEmulated } from "../../src/jit/emulated.ts";
import { findNvrtc } from "../../src/jit/nvrtc.ts";
import { expandSource, languageFlags } from "../../src/jit/specialization.ts";
import { root } from "../support/zig.ts";
import {
  addressOf,
  call,
  emulated,
  get,
  type Launch,
  launch,
  must,
  nameOf,
  sentenceOf,
  text,
} from "./cuda.ts";

let started = false;

/** Begins to use device 0. */
export function start(): void {
  if (started) return;
  started = true;
  must("cuInit", 0);
  must("cuCtxSetCurrent", get("cuDevicePrimaryCtxRetain", 0));
}

/** Gives the device's context back and takes a new one: a failure is gone with the old one. */
export function restart(): void {
  call("cuDevicePrimaryCtxRelease", 0);
  must("cuCtxSetCurrent", get("cuDevicePrimaryCtxRetain", 0));
}

/** Sources of the kernels, their headers and this folder's, by path below kernels/. */
function sources(): Record<string, string> {
  const files: Record<string, string> = {};
  for (const folder of ["kernels", "test/emulator"])
    for (const path of new Bun.Glob("**/*.{cu,cuh,h}").scanSync(join(root, folder)))
      files[path] = readFileSync(join(root, folder, path), "utf8");
  return files;
}

/** Macros before a source. */
export type Constants = Readonly<Record<string, number | string>>;

const libraries = new Map<string, bigint>();

/** A kernel of a file of this folder, compiled with constants for whatever runs here. */
export async function kernelOf(
  file: string,
  name: string,
  constants: Constants = {},
): Promise<bigint> {
  start();
  const key = JSON.stringify([file, constants]);
  let library = libraries.get(key);
  if (library === undefined) {
    const image = await compile(file, constants);
    library = get("cuLibraryLoadData", image, 0n, 0n, 0, 0n, 0n, 0);
    libraries.set(key, library);
  }
  return get("cuLibraryGetKernel", library, text(name));
}

/** The image of a file of this folder. */
export async function compile(file: string, constants: Constants = {}) {
  const defines = Object.entries(constants).map(([name, value]) => `#define ${name} ${value}\n`);
  const source = defines.join("") + expandSource(file, sources());
  const answer = await (emulated ? compileEmulated(source) : compileForDevice(source, file));
  if ("image" in answer) return answer.image;
  throw new Error(`${answer.failure}\n${answer.log}`);
}

async function compileForDevice(source: string, name: string): Promise<CompilerAnswer> {
  const { library, builtins } = findNvrtc().found!;
  const worker = nvrtcWorker();
  const answer = await new Promise<CompilerAnswer>((resolve) => {
    worker.onmessage = ({ data }: MessageEvent<CompilerAnswer>) => resolve(data);
    const options = ["--gpu-architecture=sm_90a", ...languageFlags];
    worker.postMessage({ library, builtins, name, text: source, options });
  });
  worker.terminate();
  return answer;
}

/** A launch with its input, and the size of its output, which starts as 0xff bytes or zeros. */
export interface Run extends Launch {
  readonly bytes: number;
  readonly data?: NodeJS.TypedArray;
  readonly zeroed?: boolean;
}

/** Runs a kernel over input bytes and returns its output. */
export function run(what: Run): ArrayBuffer {
  const output = get("cuMemAlloc", BigInt(what.bytes));
  const data = what.data;
  const input = data && get("cuMemAlloc", BigInt(data.byteLength));
  if (data && input) must("cuMemcpyAsync", input, addressOf(data), BigInt(data.byteLength), 0n);
  must("cuMemsetD8Async", output, what.zeroed ? 0 : 0xff, BigInt(what.bytes), 0n);
  const result = launch({ ...what, output, ...(input !== undefined && { input }) });
  if (result !== 0) throw new Error(`cuLaunchKernelEx: ${nameOf(result)}`);
  const ended = call("cuCtxSynchronize");
  if (ended !== 0) throw new Error(`${nameOf(ended)}: ${sentenceOf(ended)}`);
  const out = new Uint8Array(what.bytes);
  must("cuMemcpyAsync", addressOf(out), output, BigInt(what.bytes), 0n);
  must("cuCtxSynchronize");
  must("cuMemFree", output);
  if (input) must("cuMemFree", input);
  return out.buffer;
}

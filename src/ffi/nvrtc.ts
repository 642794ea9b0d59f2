import { nvrtcBuiltin, nvrtcSymbols } from "./symbols.ts";

/** One kernel for NVRTC: paths of the two libraries, the text, and the options. */
export interface NvrtcJob {
  readonly library: string;
  readonly builtins: string;
  readonly name: string;
  readonly text: string;
  readonly options: readonly string[];
}

/** A compiled image, or why there is none: `failure` names the call, `log` is the compiler's. */
export type CompilerAnswer =
  { readonly image: Uint8Array<ArrayBuffer> } | { readonly failure: string; readonly log: string };

/**
 * A worker that answers one NvrtcJob a message, since NVRTC blocks its thread. It runs the text of
 * the functions below: a file of its own would be missing from what `bun build --compile` makes.
 */
export function nvrtcWorker(): Worker {
  const program = `(${serve})(${compiler}, ${JSON.stringify(signatures)});`;
  return new Worker(URL.createObjectURL(new Blob([program], { type: "text/javascript" })));
}

let ownCompiler: Compiler | undefined;

/** Compiles a kernel on this thread, which waits. */
export function askNvrtc(job: NvrtcJob): CompilerAnswer {
  ownCompiler ??= compiler(require("bun:ffi") as typeof import("bun:ffi"), signatures);
  return ownCompiler(job);
}

type Compiler = (job: NvrtcJob) => CompilerAnswer;

const signatures = { nvrtc: nvrtcSymbols, builtin: nvrtcBuiltin };

/** The worker's whole program: nothing from outside of this function exists where it runs. */
async function serve(make: typeof compiler, given: typeof signatures): Promise<void> {
  const answer = make(await import("bun:ffi"), given);
  const self = globalThis as unknown as Worker;
  self.onmessage = ({ data }: MessageEvent<NvrtcJob>) => self.postMessage(answer(data));
}

/** NVRTC's functions behind one of our own; a worker has the text of this function alone. */
function compiler(
  { dlopen, ptr }: typeof import("bun:ffi"),
  { nvrtc: functions, builtin }: typeof signatures,
): Compiler {
  const encoder = new TextEncoder();
  const open = (path: string) => dlopen(path, functions).symbols;
  const opened = new Map<string, ReturnType<typeof open>>();

  /** NVRTC looks for its builtins by name only: they must be open before it. */
  function nvrtcOf(library: string, builtins: string): ReturnType<typeof open> {
    let nvrtc = opened.get(library);
    if (nvrtc !== undefined) return nvrtc;
    const version = /\.so\.(\d+)\.(\d+)/.exec(builtins)!;
    const name = `__nvrtc_builtins__${version[1]}_${version[2]}_getArchBuiltins`;
    dlopen(builtins, { [name]: builtin });
    opened.set(library, (nvrtc = open(library)));
    return nvrtc;
  }

  /** Bytes at an address that stays: small typed arrays would move. */
  function fixed(text: string): Uint8Array<ArrayBuffer> {
    const bytes = encoder.encode(`${text}\0`);
    const copy = new Uint8Array(new ArrayBuffer(bytes.length));
    copy.set(bytes);
    return copy;
  }

  function compile({ library, builtins, name, text, options }: NvrtcJob): CompilerAnswer {
    const nvrtc = nvrtcOf(library, builtins);
    const out = new BigUint64Array(new ArrayBuffer(8));
    const texts = options.map(fixed);
    const list = new BigUint64Array(new ArrayBuffer(8 * texts.length));
    texts.forEach((bytes, i) => (list[i] = BigInt(ptr(bytes))));
    const created = nvrtc.nvrtcCreateProgram(ptr(out), fixed(text), fixed(name), 0, null, null);
    if (created !== 0)
      return { failure: `nvrtcCreateProgram: ${nvrtc.nvrtcGetErrorString(created)}`, log: "" };
    const program = out[0];
    const read = (
      size: (program: bigint, out: NodeJS.TypedArray) => number,
      get: (program: bigint, out: NodeJS.TypedArray) => number,
    ) => {
      if (size(program, out) !== 0) return new Uint8Array(0);
      const bytes = new Uint8Array(new ArrayBuffer(Number(out[0])));
      return bytes.length > 0 && get(program, bytes) === 0 ? bytes : new Uint8Array(0);
    };
    const status = nvrtc.nvrtcCompileProgram(program, texts.length, list);
    const log = read(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog);
    const image = status === 0 ? read(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN) : undefined;
    out[0] = program;
    nvrtc.nvrtcDestroyProgram(out);
    if (image !== undefined && image.length > 0) return { image };
    const failure = status === 0 ? "NVRTC gave no cubin" : `${nvrtc.nvrtcGetErrorString(status)}`;
    return { failure, log: new TextDecoder().decode(log).replace(/\0+$/, "") };
  }

  return (job) => {
    try {
      return compile(job);
    } catch (error) {
      return { failure: (error as Error).message, log: "" };
    }
  };
}

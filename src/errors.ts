import { describe } from "./describe.ts";

/** Base of every error that flashbun throws: `code` is stable, the message says what to do. */
export class FlashbunError extends Error {
  readonly code: string;

  constructor(code: string, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
    this.code = code;
  }
}

/** An option or argument outside what is allowed; nothing was changed. */
export class OptionError extends FlashbunError {
  readonly option: string;
  readonly value: unknown;

  /**
   * @param option name of the option as the caller wrote it
   * @param value what was given
   * @param allowed what is allowed, as in "must be <allowed>"
   * @param fix what to do, a sentence without "Fix:"
   */
  constructor(option: string, value: unknown, allowed: string, fix: string) {
    super("OPTION", `${option} must be ${allowed} (got ${describe(value)}). Fix: ${fix}`);
    this.option = option;
    this.value = value;
  }
}

/** The object was disposed; `owner` names it. */
export class DisposedError extends FlashbunError {
  constructor(readonly owner: string) {
    super(
      "DISPOSED",
      `${owner} was disposed and cannot be used. ` +
        "Fix: keep it open until its last use, or make a new one.",
    );
  }
}

/** Device memory ran out; the message says who holds the most. Numbers not known are 0. */
export class OutOfMemoryError extends FlashbunError {
  constructor(
    readonly askedBytes: number,
    readonly freeBytes: number,
    message: string,
  ) {
    super("OUT_OF_MEMORY", message);
  }
}

/** No page is free for a step: preempt a sequence or evict a prefix, then try again. */
export class OutOfPagesError extends FlashbunError {
  constructor(
    readonly pagesMissing: number,
    readonly group: number,
  ) {
    super(
      "OUT_OF_PAGES",
      `page group ${group} lacks ${pagesMissing} free pages for this step; nothing was changed. ` +
        "Fix: free or preempt a sequence, evict from the prefix index, " +
        "or create the cache with more pages.",
    );
  }
}

/** A plan that is missing, stale or made for something else. */
export class PlanError extends FlashbunError {
  constructor(message: string) {
    super("PLAN", message);
  }
}

/** The native library is missing or of another version. */
export class LibraryError extends FlashbunError {
  constructor(message: string, options?: ErrorOptions) {
    super("LIBRARY", message, options);
  }
}

/** A native call or a launched kernel failed; `status` is the native code. */
export class DeviceError extends FlashbunError {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super("DEVICE", message);
  }
}

/** The CUDA driver is missing, too old or shows no device. */
export class DriverError extends FlashbunError {
  /** @param absent true where the machine has no driver or no device, rather than an unfit one */
  constructor(
    message: string,
    readonly absent = false,
  ) {
    super("DRIVER", message);
  }
}

/** A CUDA driver call or a launched kernel failed. */
export class CudaError extends DeviceError {
  /**
   * @param cudaResult the driver's number of the failure (CUresult), such as 700
   * @param driverName its name, such as CUDA_ERROR_ILLEGAL_ADDRESS
   */
  constructor(
    status: number,
    readonly cudaResult: number,
    readonly driverName: string,
    message: string,
  ) {
    super(status, message);
  }
}

/** Ranks that should work together cannot: one is late, gone or another, a library is missing. */
export class CommError extends FlashbunError {
  constructor(message: string, options?: ErrorOptions) {
    super("COMM", message, options);
  }
}

/** A kernel did not compile, or nothing on this machine can compile it; `log` is the compiler's. */
export class CompileError extends FlashbunError {
  constructor(
    message: string,
    readonly log: string,
  ) {
    super("COMPILE", message);
  }
}

/** Input from outside that cannot be read: which input, where, and why. */
export class InputError extends FlashbunError {
  constructor(
    readonly source: string,
    readonly line: number | undefined,
    readonly reason: string,
    fix: string,
  ) {
    const place = line === undefined ? source : `${source}, line ${line}`;
    super("INPUT", `${place}: ${reason}. Fix: ${fix}`);
  }
}

/** A file or folder that cannot be written: which, and why. */
export class OutputError extends FlashbunError {
  /**
   * @param path what cannot be written
   * @param reason why, without a full stop
   * @param fix what to do, a sentence without "Fix:"
   */
  constructor(
    readonly path: string,
    readonly reason: string,
    fix: string,
  ) {
    super("OUTPUT", `${path}: ${reason}. Fix: ${fix}`);
  }
}

/** A library, profile or sidecar that debloat cannot work with; the file was not changed. */
export class DebloatError extends FlashbunError {
  /**
   * @param file the file that cannot be worked with
   * @param reason what is wrong with it, without a full stop
   * @param fix what to do, a sentence without "Fix:"
   */
  constructor(
    readonly file: string,
    readonly reason: string,
    readonly fix: string,
    options?: ErrorOptions,
  ) {
    super("DEBLOAT", `${file}: ${reason}. Fix: ${fix}`, options);
  }
}

/** A variant's hook that cannot be traced or compiled: which one, where, and why. */
export class VariantError extends FlashbunError {
  /**
   * @param variant name of the variant
   * @param hook name of the hook; undefined: the variant as a whole
   * @param place the user's line, where known
   * @param problem what is wrong, without a full stop
   * @param fix what to do, without "Fix:" and a full stop
   */
  constructor(
    readonly variant: string,
    readonly hook: string | undefined,
    readonly place: { readonly file: string; readonly line: number } | undefined,
    problem: string,
    fix: string,
  ) {
    const at = place === undefined ? "" : ` at ${place.file}:${place.line}`;
    const part = hook === undefined ? "" : `, ${hook} hook`;
    const what = problem.endsWith("?") ? problem : `${problem}.`;
    super("VARIANT", `variant ${describe(variant)}${part}${at}: ${what} Fix: ${fix}.`);
  }
}

/**
 * The signatures of all foreign functions: the only place with FFI types. An argument of a native
 * function is written as in C: its kind, then its name where the kind does not say it.
 */

declare const kind: unique symbol;

/** An object of the native library. Only native functions make handles. */
export type Handle<Kind extends string> = number & { readonly [kind]: Kind };
/** A native device. */
export type DeviceHandle = Handle<"device">;
/** A native stream. */
export type StreamHandle = Handle<"stream">;
/** A native event. */
export type EventHandle = Handle<"event">;
/** A captured graph. */
export type GraphHandle = Handle<"graph">;
/** A loaded image. */
export type ModuleHandle = Handle<"module">;
/** A kernel, built in or of a module. */
export type KernelHandle = Handle<"kernel">;

/** A communicator between processes. */
export type CommHandle = Handle<"comm">;

/** An address in native memory, as a number below 2^53. */
export type Address = number;

/** Room for one handle or address that a native function writes. */
export type Out<Value extends number> = BigUint64Array<ArrayBuffer> & {
  readonly [kind]?: Value;
};

/** What each kind of argument is in TypeScript. */
export interface ArgumentTypes {
  readonly device: DeviceHandle;
  readonly stream: StreamHandle;
  readonly event: EventHandle;
  readonly graph: GraphHandle;
  readonly module: ModuleHandle;
  readonly kernel: KernelHandle;
  readonly comm: CommHandle;
  readonly address: Address;
  /** 0 to 2^53 - 1. */
  readonly u64: number;
  readonly i32: number;
  /** Memory that the function reads or writes before it returns; not empty. */
  readonly view: ArrayBufferView;
  /** The same, or null. */
  readonly "view?": ArrayBufferView | null;
}

/** A kind of argument. */
export type Kind = keyof ArgumentTypes;

/** How each kind crosses the border. */
const crossings: Readonly<Record<Kind, "ptr" | "u64" | "i32">> = {
  device: "ptr",
  stream: "ptr",
  event: "ptr",
  graph: "ptr",
  module: "ptr",
  kernel: "ptr",
  comm: "ptr",
  address: "u64",
  u64: "u64",
  i32: "i32",
  view: "ptr",
  "view?": "ptr",
};

/** The native functions that TypeScript calls, in the order of zig/abi.zig; all return int32. */
export const functions = {
  fb_abi_version: [],
  fb_last_failure: ["view failure"],
  fb_driver_open: ["view? path", "view properties"],
  fb_device_open: ["i32 kind", "i32 count", "i32 level", "u64 limit_bytes", "device*"],
  fb_device_close: ["device"],
  fb_device_properties: ["device", "view properties"],
  fb_device_failure: ["device"],
  fb_memory_alloc: ["device", "u64 bytes", "i32 pinned", "address*"],
  fb_memory_free: ["device", "address"],
  fb_memory_freeze: ["device", "i32 frozen"],
  fb_memory_stats: ["device", "view stats"],
  fb_memory_copy: ["stream", "address target", "address source", "u64 bytes"],
  fb_memory_fill: ["stream", "address target", "i32 byte", "u64 bytes"],
  fb_stream_create: ["device", "stream*"],
  fb_stream_wrap: ["device", "address native", "stream*"],
  fb_stream_destroy: ["stream"],
  fb_stream_wait: ["stream"],
  fb_stream_query: ["stream", "view tickets"],
  fb_stream_notify: ["stream", "view ticket"],
  fb_event_create: ["device", "event*"],
  fb_event_destroy: ["event"],
  fb_event_record: ["event", "stream"],
  fb_event_wait: ["event", "stream"],
  fb_event_query: ["event"],
  fb_event_elapsed: ["event first", "event second", "view milliseconds"],
  fb_capture_begin: ["stream"],
  fb_capture_end: ["stream", "graph*"],
  fb_graph_launch: ["graph", "stream"],
  fb_graph_update: ["graph", "graph source"],
  fb_graph_free: ["graph"],
  fb_module_load: ["device", "view image", "u64 bytes", "module*"],
  fb_module_unload: ["module"],
  fb_module_kernel: ["module", "view name", "view traits", "view facts", "kernel*"],
  fb_images: ["address*", "address* bytes"],
  fb_tensor_map_encode: ["device", "view spec", "view map"],
  fb_kernel_find: ["device", "view name", "kernel*", "view facts"],
  fb_launch: ["stream", "kernel", "view params", "i32 bytes", "i32 grid"],
  fb_cublaslt_open: ["view path", "view version"],
  fb_cublaslt_matmul: ["stream", "view product", "address workspace", "u64 bytes"],
  fb_comm_open: ["i32 kind", "view path", "i32 timeout_ms", "view facts"],
  fb_comm_identify: ["view? address", "view id"],
  fb_comm_create: ["device", "i32 ranks", "i32 rank", "view? id", "i32 timeout_ms", "comm*"],
  fb_comm_state: ["comm"],
  fb_comm_queue: [
    "comm",
    "stream",
    "i32 operation",
    "i32 dtype",
    "i32 to",
    "i32 from",
    "u64 count",
    "u64 source",
    "u64 target",
  ],
  fb_comm_abort: ["comm"],
  fb_comm_free: ["comm"],
  fb_comm_end: ["i32 code", "i32 timeout_ms"],
  fb_dlpack_create: ["u64 bytes", "address*"],
  fb_dlpack_destroy: ["address"],
} as const satisfies Readonly<Record<string, readonly Argument[]>>;

/** An argument as the table writes it: `view params`, `stream`, `graph*`. */
export type Argument = Kind | `${Kind} ${string}` | `${Kind}*` | `${Kind}* ${string}`;

type TypeOf<Written extends string> = Written extends `${infer First} ${string}`
  ? TypeOf<First>
  : Written extends `${infer Pointed}*`
    ? Out<Extract<ArgumentTypes[Pointed & Kind], number>>
    : ArgumentTypes[Written & Kind];

type Values<List extends readonly string[]> = { [At in keyof List]: TypeOf<List[At]> };

/** The native functions, typed by their table. */
export type Native = {
  readonly [Name in keyof typeof functions]: (
    ...values: Values<(typeof functions)[Name]>
  ) => number;
};

/** An argument's kind and name; a pointer to a value that is written is a view. */
export function partsOf(written: Argument): { kind: Kind; name: string } {
  const [first, name] = written.split(" ") as [Kind | `${Kind}*`, string?];
  if (!first.endsWith("*")) return { kind: first as Kind, name: name ?? first };
  return { kind: "view", name: name ?? first.slice(0, -1) };
}

/** A function as bun:ffi takes it. */
interface Signature {
  readonly args: readonly string[];
  readonly returns: string;
}

/** Everything that the native library exports. */
export const symbols: Readonly<Record<string, Signature>> = {
  ...Object.fromEntries(
    Object.entries<readonly Argument[]>(functions).map(([name, list]) => {
      const args = list.map((written) => crossings[partsOf(written).kind]);
      return [name, { args, returns: "i32" }];
    }),
  ),
  // Called by other libraries; TypeScript only hands on where it lies.
  fb_dlpack_deleter: { args: ["ptr"], returns: "void" },
};

/** The C library. */
export const libcSymbols = {
  dlopen: { args: ["ptr", "i32"], returns: "u64" },
  dlerror: { args: [], returns: "cstring" },
  mmap: { args: ["u64", "u64", "i32", "i32", "i32", "i64"], returns: "u64" },
  munmap: { args: ["u64", "u64"], returns: "i32" },
  madvise: { args: ["u64", "u64", "i32"], returns: "i32" },
  copy_file_range: { args: ["i32", "ptr", "i32", "ptr", "u64", "u32"], returns: "i64" },
} as const;

/** NVRTC; a program is a handle that the first function writes. */
export const nvrtcSymbols = {
  nvrtcCreateProgram: { args: ["ptr", "ptr", "ptr", "i32", "ptr", "ptr"], returns: "i32" },
  nvrtcCompileProgram: { args: ["u64", "i32", "ptr"], returns: "i32" },
  nvrtcGetProgramLogSize: { args: ["u64", "ptr"], returns: "i32" },
  nvrtcGetProgramLog: { args: ["u64", "ptr"], returns: "i32" },
  nvrtcGetCUBINSize: { args: ["u64", "ptr"], returns: "i32" },
  nvrtcGetCUBIN: { args: ["u64", "ptr"], returns: "i32" },
  nvrtcDestroyProgram: { args: ["ptr"], returns: "i32" },
  nvrtcGetErrorString: { args: ["i32"], returns: "cstring" },
} as const;

/** Any function of the library of NVRTC's builtins, which is opened and never called. */
export const nvrtcBuiltin = { args: [], returns: "void" } as const;

/** `void (*)(DLManagedTensorVersioned*)` of another library. */
export const dlpackDeleter = { args: ["u64"], returns: "void" } as const;

import type { FFIFunction } from "bun:ffi";

const status = "i32";

/**
 * Every native function, in the order of zig/abi.zig. This is the only place with FFI types; a test
 * compares the names with what the library exports.
 */
export const symbols = {
  fb_abi_version: { args: [], returns: "i32" },
  fb_last_error: { args: ["ptr", "i32"], returns: "i32" },
  fb_driver_open: { args: ["ptr", "ptr"], returns: status },
  fb_device_open: { args: ["i32", "i32", "i32", "u64", "ptr"], returns: status },
  fb_device_close: { args: ["ptr"], returns: status },
  fb_device_properties: { args: ["ptr", "ptr"], returns: status },
  fb_device_failure: { args: ["ptr"], returns: status },
  fb_memory_alloc: { args: ["ptr", "u64", "i32", "ptr"], returns: status },
  fb_memory_free: { args: ["ptr", "u64"], returns: status },
  fb_memory_freeze: { args: ["ptr", "i32"], returns: status },
  fb_memory_stats: { args: ["ptr", "ptr"], returns: status },
  fb_memory_copy: { args: ["ptr", "u64", "u64", "u64"], returns: status },
  fb_memory_fill: { args: ["ptr", "u64", "i32", "u64"], returns: status },
  fb_stream_create: { args: ["ptr", "ptr"], returns: status },
  fb_stream_wrap: { args: ["ptr", "u64", "ptr"], returns: status },
  fb_stream_destroy: { args: ["ptr"], returns: status },
  fb_stream_wait: { args: ["ptr"], returns: status },
  fb_stream_query: { args: ["ptr", "ptr"], returns: status },
  fb_stream_notify: { args: ["ptr", "ptr"], returns: status },
  fb_event_create: { args: ["ptr", "ptr"], returns: status },
  fb_event_destroy: { args: ["ptr"], returns: status },
  fb_event_record: { args: ["ptr", "ptr"], returns: status },
  fb_event_wait: { args: ["ptr", "ptr"], returns: status },
  fb_event_query: { args: ["ptr"], returns: status },
  fb_event_elapsed: { args: ["ptr", "ptr", "ptr"], returns: status },
  fb_capture_begin: { args: ["ptr"], returns: status },
  fb_capture_end: { args: ["ptr", "ptr"], returns: status },
  fb_graph_launch: { args: ["ptr", "ptr"], returns: status },
  fb_graph_update: { args: ["ptr", "ptr"], returns: status },
  fb_graph_free: { args: ["ptr"], returns: status },
  fb_module_load: { args: ["ptr", "ptr", "u64", "ptr"], returns: status },
  fb_module_unload: { args: ["ptr"], returns: status },
  fb_module_kernel: { args: ["ptr", "ptr", "ptr", "ptr", "ptr"], returns: status },
  fb_images: { args: ["ptr", "ptr"], returns: status },
  fb_tensor_map_encode: { args: ["ptr", "ptr", "ptr"], returns: status },
  fb_kernel_find: { args: ["ptr", "ptr", "ptr", "ptr"], returns: status },
  fb_launch: { args: ["ptr", "ptr", "ptr", "i32", "i32"], returns: status },
  fb_dlpack_create: { args: ["u64", "ptr"], returns: status },
  fb_dlpack_destroy: { args: ["u64"], returns: status },
  fb_dlpack_deleter: { args: ["ptr"], returns: "void" },
} as const satisfies Record<string, FFIFunction>;

//! Which context a thread's driver calls go to: remembered per thread, since every entry needs its
//! device's.
const std = @import("std");
const driver = @import("driver.zig");

/// Contexts come and go at the same addresses: a change of generation makes every thread set its
/// own again.
var generation: std.atomic.Value(u32) = .init(1);

threadlocal var current: ?driver.Context = null;
threadlocal var current_generation: u32 = 0;

pub fn forget_all() void {
    _ = generation.fetchAdd(1, .monotonic);
}

/// Makes the context current unless this thread did so before.
pub fn ensure(api: *const driver.Functions, context: driver.Context) void {
    if (current == context and current_generation == generation.load(.monotonic)) return;
    set(api, context);
}

/// Makes the context current, whatever other code of the process did since.
pub fn set(api: *const driver.Functions, context: driver.Context) void {
    current_generation = generation.load(.monotonic);
    current = if (api.cuCtxSetCurrent(context) == driver.success) context else null;
}

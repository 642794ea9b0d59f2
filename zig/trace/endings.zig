//! Signals that would end the program: what is known only at the end is said before it. A handler
//! of ours stands where the program left the system's default, which is all that the program sees.
const std = @import("std");
const signals = @import("signals.zig");
const linux = std.os.linux;

/// What by default ends a process and can be handled; breakpoints are the tracer's own.
const ending = [_]linux.SIG{
    .HUP, .INT, .QUIT, .ILL, .ABRT, .BUS, .FPE, .USR1, .SEGV, .USR2, .PIPE, .ALRM, .TERM,
};

var at_end: *const fn () void = undefined;

/// From now on `say` is called before the program ends by a signal.
pub fn watch(say: *const fn () void) void {
    at_end = say;
    var set: u64 = 0;
    for (ending) |number| set |= @as(u64, 1) << @intCast(@backingInt(number) - 1);
    signals.stand_in(&on_end, set);
    for (ending) |number| {
        var before: linux.Sigaction = undefined;
        if (linux.errno(linux.sigaction(number, null, &before)) != .SUCCESS) continue;
        if (before.handler.handler != linux.SIG.DFL) continue;
        const action: linux.Sigaction = .{
            .handler = .{ .handler = @ptrCast(&on_end) },
            .mask = linux.sigemptyset(),
            .flags = signals.stand_in_flags,
        };
        _ = linux.sigaction(number, &action, null);
    }
}

/// The default is back when this is called: the same signal, sent again, ends the program.
fn on_end(number: c_int) callconv(.c) void {
    at_end();
    _ = linux.kill(linux.getpid(), @fromBackingInt(@intCast(number)));
}

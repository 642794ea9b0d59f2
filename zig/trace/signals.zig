//! A signal that is ours in a program which may want it as well. The program installs its own handler
//! and blocks signals as ever, through the functions that this exports over libc's: it gets what is
//! not for us, and cannot block what we must see.
//!
//! Those who install handlers by system calls of their own are not seen.
const std = @import("std");
const system = @import("system.zig");
const linux = std.os.linux;

/// libc's `struct sigaction` of 64-bit Linux.
pub const Action = extern struct {
    handler: usize,
    mask: [16]u64 = @splat(0),
    flags: c_int = 0,
    restorer: ?*anyopaque = null,
};

const default_handler = 0;
const ignoring_handler = 1;
const reset_hand: c_int = @bitCast(@as(c_uint, linux.SA.RESETHAND));

const SigactionFn = *const fn (c_int, ?*const Action, ?*Action) callconv(.c) c_int;
const SigmaskFn = *const fn (c_int, ?*const [16]u64, ?*[16]u64) callconv(.c) c_int;
pub const Handler = fn (number: c_int, info: *const linux.siginfo_t, context: *anyopaque) callconv(.c) void;

pub const next_library: *anyopaque = @ptrFromInt(std.math.maxInt(usize));
pub extern "c" fn dlsym(handle: ?*anyopaque, name: [*:0]const u8) ?*anyopaque;

/// The function that ours hides.
pub fn hidden(comptime Function: type, name: [*:0]const u8) Function {
    return @ptrCast(@alignCast(dlsym(next_library, name).?));
}

/// `take` says whether the signal was for us. It runs in the handler.
pub fn Owned(
    comptime signal: linux.SIG,
    comptime take: fn (info: *const linux.siginfo_t, context: *anyopaque) bool,
) type {
    return struct {
        const number: c_int = @intCast(@backingInt(signal));
        const bit = @as(u64, 1) << (number - 1);

        /// What the program installed. Never overwritten in place: a handler may be reading it.
        var slots: [8]Action = @splat(.{ .handler = default_handler });
        var slot: std.atomic.Value(usize) = .init(0);
        var installed: std.atomic.Value(bool) = .init(false);

        pub fn install() void {
            // A handler on the thread's own stack could not see that stack overflow.
            const stack = if (signal == .SEGV) linux.SA.ONSTACK else 0;
            var before: linux.Sigaction = undefined;
            const ours: linux.Sigaction = .{
                .handler = .{ .sigaction = @ptrCast(&on_signal) },
                .mask = linux.sigemptyset(),
                .flags = linux.SA.SIGINFO | linux.SA.RESTART | linux.SA.NODEFER | stack,
            };
            if (system.value(linux.sigaction(signal, &ours, &before)) == null) return;
            var known: Action = .{ .handler = @intFromPtr(before.handler.handler) };
            known.mask[0] = before.mask[0];
            known.flags = @bitCast(@as(c_uint, @truncate(before.flags)));
            remember(&known);
            installed.store(true, .release);
            // Whoever started this program may have left it blocked.
            const set: linux.sigset_t = .{bit};
            _ = linux.sigprocmask(linux.SIG.UNBLOCK, &set, null);
        }

        fn hidden_bits() u64 {
            return if (installed.load(.acquire)) bit else 0;
        }

        fn remember(action: *const Action) void {
            const next = (slot.load(.monotonic) + 1) % slots.len;
            slots[next] = action.*;
            slot.store(next, .release);
        }

        fn on_signal(_: c_int, info: *const linux.siginfo_t, context: *anyopaque) callconv(.c) void {
            if (take(info, context)) return;
            const action = slots[slot.load(.acquire)];
            if (action.handler <= ignoring_handler) return die(action, info);
            if (action.flags & reset_hand != 0) remember(&.{ .handler = default_handler });
            const set: linux.sigset_t = .{action.mask[0] & ~bit};
            _ = linux.sigprocmask(linux.SIG.BLOCK, &set, null);
            @as(*const Handler, @ptrFromInt(action.handler))(number, info, context);
        }

        /// What the kernel does without a handler. It ignores no fault.
        fn die(action: Action, info: *const linux.siginfo_t) void {
            const sent = info.code <= 0;
            if (sent and action.handler == ignoring_handler) return;
            const none: linux.Sigaction = .{
                .handler = .{ .handler = linux.SIG.DFL },
                .mask = linux.sigemptyset(),
                .flags = 0,
            };
            _ = linux.sigaction(signal, &none, null);
            // The instruction that faulted runs again.
            if (signal == .SEGV and !sent) return;
            _ = linux.tgkill(linux.getpid(), linux.gettid(), signal);
        }

        fn sigaction(which: c_int, action: ?*const Action, old: ?*Action) callconv(.c) c_int {
            const real = hidden(SigactionFn, "sigaction");
            if (which == number and installed.load(.acquire)) {
                const before = slots[slot.load(.acquire)];
                if (action) |given| remember(given);
                if (old) |to| to.* = before;
                return 0;
            }
            var copy = (action orelse return real(which, null, old)).*;
            copy.mask[0] &= ~hidden_bits();
            return real(which, &copy, old);
        }

        fn old_signal(which: c_int, handler: usize) callconv(.c) usize {
            if (which == number and installed.load(.acquire)) {
                const before = slots[slot.load(.acquire)].handler;
                remember(&.{ .handler = handler, .flags = linux.SA.RESTART });
                return before;
            }
            return hidden(*const fn (c_int, usize) callconv(.c) usize, "signal")(which, handler);
        }

        fn masked(comptime name: [*:0]const u8) type {
            return struct {
                fn call(how: c_int, set: ?*const [16]u64, old: ?*[16]u64) callconv(.c) c_int {
                    const real = hidden(SigmaskFn, name);
                    const given = set orelse return real(how, null, old);
                    var copy = given.*;
                    if (how != linux.SIG.UNBLOCK) copy[0] &= ~hidden_bits();
                    return real(how, &copy, old);
                }
            };
        }

        comptime {
            @export(&sigaction, .{ .name = "sigaction" });
            @export(&old_signal, .{ .name = "signal" });
            @export(&masked("sigprocmask").call, .{ .name = "sigprocmask" });
            @export(&masked("pthread_sigmask").call, .{ .name = "pthread_sigmask" });
        }
    };
}

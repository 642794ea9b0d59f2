//! A signal that is ours in a program which may want it as well. The program installs its own
//! handler and blocks signals as usual, through the functions that this exports in place of libc's:
//! it gets what is not for us, and cannot block what we must see.
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

/// Says whether the signal was for us. It runs in the handler.
pub const Take = fn (info: *const linux.siginfo_t, context: *anyopaque) bool;

const default_handler = 0;
const ignoring_handler = 1;
const reset_hand: c_int = @bitCast(@as(c_uint, linux.SA.RESETHAND));

const Handler = fn (
    number: c_int,
    info: *const linux.siginfo_t,
    context: *anyopaque,
) callconv(.c) void;
const SigactionFn = fn (c_int, ?*const Action, ?*Action) callconv(.c) c_int;
const SignalFn = fn (c_int, usize) callconv(.c) usize;
const SigmaskFn = fn (c_int, ?*const [16]u64, ?*[16]u64) callconv(.c) c_int;

pub const next_library: *anyopaque = @ptrFromInt(std.math.maxInt(usize));
pub extern "c" fn dlsym(handle: ?*anyopaque, name: [*:0]const u8) ?*anyopaque;

/// The function that ours hides.
pub fn hidden(comptime Function: type, name: [*:0]const u8) *const Function {
    return @ptrCast(@alignCast(dlsym(next_library, name).?));
}

var ours: linux.SIG = undefined;
var take: *const Take = undefined;
/// The bit of our signal in a set of signals; none before it is ours.
var bit: std.atomic.Value(u64) = .init(0);

/// What the program installed. Never overwritten in place: a handler may be reading it.
var slots: [8]Action = @splat(.{ .handler = default_handler });
var slot: std.atomic.Value(usize) = .init(0);

/// Makes a signal ours.
pub fn install(wanted: linux.SIG, for_us: *const Take) void {
    ours = wanted;
    take = for_us;
    // A handler on the thread's own stack could not see that stack overflow.
    const stack: c_ulong = if (wanted == .SEGV) linux.SA.ONSTACK else 0;
    var before: linux.Sigaction = undefined;
    const action: linux.Sigaction = .{
        .handler = .{ .sigaction = @ptrCast(&on_signal) },
        .mask = linux.sigemptyset(),
        .flags = linux.SA.SIGINFO | linux.SA.RESTART | linux.SA.NODEFER | stack,
    };
    if (system.value(linux.sigaction(wanted, &action, &before)) == null) return;
    var known: Action = .{ .handler = @intFromPtr(before.handler.handler) };
    known.mask[0] = before.mask[0];
    known.flags = @bitCast(@as(c_uint, @truncate(before.flags)));
    remember(&known);
    bit.store(@as(u64, 1) << @intCast(@backingInt(wanted) - 1), .release);
    // Whoever started this program may have left it blocked.
    const set: linux.sigset_t = .{bit.raw};
    _ = linux.sigprocmask(linux.SIG.UNBLOCK, &set, null);
}

fn is_ours(number: c_int) bool {
    return bit.load(.acquire) != 0 and number == @as(c_int, @intCast(@backingInt(ours)));
}

fn installed() *const Action {
    return &slots[slot.load(.acquire)];
}

fn remember(action: *const Action) void {
    const next = (slot.load(.monotonic) + 1) % slots.len;
    slots[next] = action.*;
    slot.store(next, .release);
}

fn on_signal(number: c_int, info: *const linux.siginfo_t, context: *anyopaque) callconv(.c) void {
    if (take(info, context)) return;
    const action = installed().*;
    if (action.handler <= ignoring_handler) return die(action, info);
    if (action.flags & reset_hand != 0) remember(&.{ .handler = default_handler });
    const set: linux.sigset_t = .{action.mask[0] & ~bit.raw};
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
    _ = linux.sigaction(ours, &none, null);
    // The instruction that faulted runs again.
    if (ours == .SEGV and !sent) return;
    _ = linux.tgkill(linux.getpid(), linux.gettid(), ours);
}

export fn sigaction(number: c_int, action: ?*const Action, old: ?*Action) c_int {
    if (is_ours(number)) {
        const before = installed().*;
        if (action) |given| remember(given);
        if (old) |to| to.* = before;
        return 0;
    }
    const real = hidden(SigactionFn, "sigaction");
    defer if (old) |to| show_default(to);
    var copy = (action orelse return real(number, null, old)).*;
    copy.mask[0] &= ~bit.load(.acquire);
    if (copy.handler == default_handler and stands_in(number)) copy = ending_action;
    return real(number, &copy, old);
}

/// Stands where the program has the system's default, for signals that end it.
var ending_action: Action = .{ .handler = default_handler };
var ending_set: u64 = 0;
pub const stand_in_flags: c_ulong = linux.SA.RESETHAND | linux.SA.NODEFER;

/// Puts a handler where the program leaves or restores the default of these signals.
pub fn stand_in(handler: *const fn (c_int) callconv(.c) void, set: u64) void {
    const flags: c_uint = stand_in_flags;
    ending_action = .{ .handler = @intFromPtr(handler), .flags = @bitCast(flags) };
    ending_set = set;
}

fn stands_in(number: c_int) bool {
    return number > 0 and number < 64 and ending_set >> @intCast(number - 1) & 1 != 0;
}

fn show_default(action: *Action) void {
    if (ending_set != 0 and action.handler == ending_action.handler)
        action.* = .{ .handler = default_handler };
}

export fn signal(number: c_int, handler: usize) usize {
    if (stands_in(number)) {
        const action: Action = .{ .handler = handler, .flags = linux.SA.RESTART };
        var old: Action = undefined;
        return if (sigaction(number, &action, &old) == 0) old.handler else std.math.maxInt(usize);
    }
    if (!is_ours(number)) return hidden(SignalFn, "signal")(number, handler);
    const before = installed().handler;
    remember(&.{ .handler = handler, .flags = linux.SA.RESTART });
    return before;
}

export fn sigprocmask(how: c_int, set: ?*const [16]u64, old: ?*[16]u64) c_int {
    return mask("sigprocmask", how, set, old);
}

export fn pthread_sigmask(how: c_int, set: ?*const [16]u64, old: ?*[16]u64) c_int {
    return mask("pthread_sigmask", how, set, old);
}

fn mask(name: [*:0]const u8, how: c_int, set: ?*const [16]u64, old: ?*[16]u64) c_int {
    const real = hidden(SigmaskFn, name);
    var copy = (set orelse return real(how, null, old)).*;
    if (how != linux.SIG.UNBLOCK) copy[0] &= ~bit.load(.acquire);
    return real(how, &copy, old);
}

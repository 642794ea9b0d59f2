//! The tracer: a library that the loader puts into a program (LD_PRELOAD) and that CUDA loads as an
//! observer (CUDA_INJECTION64_PATH). It says what the program uses of its libraries, as JSON lines.
//!
//! FLASHBUN_TRACE is the folder to write to, FLASHBUN_TRACE_HOST what of the host code to watch:
//! functions, pages, or nothing when it is unset.
const std = @import("std");
const builtin = @import("builtin");
const cupti = @import("cupti.zig");
const endings = @import("endings.zig");
const exec = @import("exec.zig");
const functions = @import("functions.zig");
const loaded = @import("loaded.zig");
const log = @import("log.zig");
const pages = @import("pages.zig");
const signals = @import("signals.zig");
const system = @import("system.zig");
const trap = @import("trap.zig");
const linux = std.os.linux;

pub const panic = std.debug.no_panic;

const Mode = enum { off, pages, functions };
var mode: Mode = .off;
var active = false;

/// Addresses of the breakpoints that stay.
var list_changed: usize = 0;
var process_ends: usize = 0;
/// Nanoseconds that one breakpoint costs.
var trap_ns: u64 = 0;

export const fb_trace_start: *const Constructor linksection(".init_array") = &start;
export const fb_trace_end: *const Destructor linksection(".fini_array") = &end_unless_trapped;

const Destructor = fn () callconv(.c) void;
const Constructor = fn (c_int, [*]const [*:0]const u8, system.Environment) callconv(.c) void;

fn start(
    argc: c_int,
    argv: [*]const [*:0]const u8,
    environment: system.Environment,
) callconv(.c) void {
    log.use_folder(system.variable(environment, "FLASHBUN_TRACE") orelse return);
    const before = system.now();
    active = true;
    exec.before = &end;
    loaded.find();
    if (system.variable(environment, "FLASHBUN_TRACE_HOST")) |name| {
        mode = std.meta.stringToEnum(Mode, name) orelse .off;
    }
    cupti.path = system.variable(environment, "FLASHBUN_CUPTI");
    var line: log.Line = .begin("start");
    line.number("process", @intCast(log.process()));
    line.key("command");
    line.raw("[");
    for (0..@intCast(argc)) |index| {
        if (index > 0) line.raw(",");
        line.quoted(std.mem.span(argv[index]));
    }
    line.raw("]");
    line.end();
    _ = __register_atfork(null, null, &forked, null);
    endings.watch(&end);
    if (mode != .off) watch();
    _ = log.spent.fetchAdd(system.now() - before, .monotonic);
}

/// libc's pthread_atfork, which old versions do not export.
extern "c" fn __register_atfork(
    prepare: ?*const fn () callconv(.c) void,
    parent: ?*const fn () callconv(.c) void,
    child: ?*const fn () callconv(.c) void,
    library: ?*anyopaque,
) c_int;

/// Says that there is one more process, which has to say that it ends.
fn forked() callconv(.c) void {
    // The parent says what it spent.
    log.spent.store(0, .monotonic);
    var line: log.Line = .begin("start");
    line.number("process", @intCast(log.process()));
    line.end();
}

fn watch() void {
    if (!can_trap()) {
        var line: log.Line = .begin("problem");
        line.text("problem", "host code can be watched on x86-64 with glibc only");
        line.end();
        mode = .off;
        return;
    }
    trap_ns = cost_of_trap();
    if (mode == .functions) functions.follow();
}

/// Places the breakpoints that stay, where that is possible.
fn can_trap() bool {
    if (builtin.cpu.arch != .x86_64) return false;
    const list = loaded.list() orelse return false;
    if (!returns_at_once(list.breakpoint)) return false;
    const ends = signals.dlsym(signals.next_library, "_exit") orelse return false;
    list_changed = list.breakpoint;
    process_ends = @intFromPtr(ends);
    // No breakpoint may be hit before the handler is installed.
    signals.install(.TRAP, on_trap);
    return trap.place(list_changed) and trap.place(process_ends);
}

fn returns_at_once(address: usize) bool {
    const code: [*]const u8 = @ptrFromInt(address);
    const ret = 0xc3;
    if (code[0] == ret) return true;
    return std.mem.eql(u8, code[0..4], &.{ 0xf3, 0x0f, 0x1e, 0xfa }) and code[4] == ret;
}

fn on_trap(info: *const linux.siginfo_t, context: *anyopaque) bool {
    const from_kernel = 0x80;
    if (info.code != from_kernel) return false;
    const registers: trap.Context = .of(context);
    const address = registers.address();
    if (address == list_changed) {
        on_list();
        registers.return_to_caller();
    } else if (address == process_ends) {
        end();
        linux.exit_group(@bitCast(@as(u32, @truncate(registers.argument()))));
    } else return calibrating or functions.take(registers);
    return true;
}

fn on_list() void {
    const before = system.now();
    const list = loaded.list().?;
    switch (mode) {
        // What goes away takes along which of its pages were touched.
        .pages => if (list.state == .delete) pages.say_all(true),
        .functions => switch (list.state) {
            .consistent => functions.follow(),
            .delete => pages.say_all(false),
            else => {},
        },
        .off => {},
    }
    _ = log.spent.fetchAdd(system.now() - before, .monotonic);
}

var calibrating = false;

fn cost_of_trap() u64 {
    if (builtin.cpu.arch != .x86_64) return 0;
    const rounds = 64;
    calibrating = true;
    const before = system.now();
    for (0..rounds) |_| asm volatile ("int3" ::: .{ .memory = true });
    const after = system.now();
    calibrating = false;
    return (after - before) / rounds;
}

/// What is known only at the end: of a process that is killed it is lost.
fn end() void {
    if (!active) return;
    const before = system.now();
    if (mode != .off) pages.say_all(mode == .pages);
    var libraries = loaded.iterate();
    while (libraries.next()) |library| {
        var buffer: [loaded.path_bytes_max]u8 = undefined;
        const path = library.path(&buffer) orelse continue;
        var line: log.Line = .begin("library");
        line.text("library", path);
        line.end();
    }
    const ending = system.now() - before;
    _ = log.spent.fetchAdd(ending, .monotonic);
    var line: log.Line = .begin("end");
    line.number("openingNanoseconds", log.opening);
    line.number("imageNanoseconds", log.images.swap(0, .monotonic));
    line.number("endingNanoseconds", ending);
    // A child that shares this memory until it execs says what was spent so far.
    line.number("nanoseconds", log.spent.swap(0, .monotonic));
    line.number("trapNanoseconds", trap_ns);
    line.end();
}

/// The breakpoint comes later, when nothing else is to run.
fn end_unless_trapped() callconv(.c) void {
    if (mode == .off) end();
}

/// Programs that end without running what was registered for the end.
fn end_at_once(status: c_int) callconv(.c) noreturn {
    end();
    linux.exit_group(status);
}

comptime {
    @export(&end_at_once, .{ .name = "_exit" });
    @export(&end_at_once, .{ .name = "_Exit" });
}

/// CUDA calls this when the program initialises it.
export fn InitializeInjection() c_int {
    if (active) cupti.start();
    return 1;
}

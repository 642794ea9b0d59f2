//! The pager: a library that the loader puts into a program (LD_PRELOAD) which runs with shrunk
//! libraries. A page of host or device code that was removed and is needed after all comes back
//! from the library's sidecar, and that is said.
//!
//! FLASHBUN_SIDECARS lists the folders of sidecars, separated by colons;
//! src/debloat/shrink/sidecar.ts gives their format. FLASHBUN_PAGER_LOG is a file for JSON lines;
//! without it they go to standard error.
const std = @import("std");
const builtin = @import("builtin");
const loaded = @import("loaded.zig");
const log = @import("log.zig");
const sidecars_of = @import("sidecar.zig");
const signals = @import("signals.zig");
const system = @import("system.zig");
const linux = std.os.linux;
const Run = sidecars_of.Run;

pub const panic = std.debug.no_panic;

const Known = struct {
    library: std.atomic.Value(?*const loaded.Library) = .init(null),
    ready: std.atomic.Value(bool) = .init(false),
    base: usize = 0,
    dynamic: usize = 0,
    file: i32 = 0,
    /// Of that file, and its name: a program may close it, and have another under its number.
    identity: system.Identity = undefined,
    name: ?[*:0]const u8 = null,
    runs: ?[*]const Run = null,
    run_count: usize = 0,
    path: ?[*:0]const u8 = null,
};

/// A handler may have only a few kilobytes of stack: what is larger is kept here, for one thread at
/// a time.
const Scratch = struct {
    busy: std.atomic.Value(bool) = .init(false),
    line: [loaded.line_bytes_max]u8 = undefined,
    name: [loaded.path_bytes_max]u8 = undefined,
};
var scratch: Scratch = .{};

/// By library; those without a sidecar have no runs.
var sidecars: [1 << 13]Known = @splat(.{});
var folders: [:0]const u8 = "";

export const fb_pager_start: *const Constructor linksection(".init_array") = &start;

const Constructor = fn (c_int, [*]const [*:0]const u8, system.Environment) callconv(.c) void;

fn start(
    _: c_int,
    _: [*]const [*:0]const u8,
    environment: system.Environment,
) callconv(.c) void {
    folders = system.variable(environment, "FLASHBUN_SIDECARS") orelse return;
    if (system.variable(environment, "FLASHBUN_PAGER_LOG")) |path| {
        log.use_file(path);
    } else log.use_standard_error();
    loaded.find();
    signals.install(.SEGV, on_fault);
}

fn on_fault(info: *const linux.siginfo_t, context: *anyopaque) bool {
    const unmapped = 1;
    const forbidden = 2;
    if (info.code != unmapped and info.code != forbidden) return false;
    const address = @intFromPtr(info.fields.sigfault.addr);
    const library = loaded.below(address) orelse return false;
    const sidecar = sidecar_of(library) orelse return false;
    const page = std.mem.alignBackward(u64, address - library.base, system.page_bytes);
    const run = run_of(sidecar, page) orelse return false;
    const rights = run.rights();
    if (is_write(context) and !rights.WRITE) return false;
    const offset = run.file_offset + (page - run.vaddr());
    if (rights.WRITE) return bring_writable(sidecar, offset, library.base, page, rights);
    if (!bring(sidecar, offset, library.base + page, rights)) return false;
    say(sidecar, page);
    return true;
}

/// What another thread wrote must not be lost: the second to come finds the page there.
fn bring_writable(
    sidecar: *const Known,
    offset: u64,
    base: usize,
    page: u64,
    rights: linux.PROT,
) bool {
    const before = lock();
    defer unlock(before);
    if (is_readable(base + page)) return true;
    if (!bring(sidecar, offset, base + page, rights)) return false;
    say(sidecar, page);
    return true;
}

/// The kernel reads a set of signals before it sees that nothing is to be done with it.
fn is_readable(address: usize) bool {
    const nothing: usize = 99;
    const result = linux.syscall4(.rt_sigprocmask, nothing, address, 0, @sizeOf(u64));
    return linux.errno(result) != .FAULT;
}

fn is_write(context: *anyopaque) bool {
    if (builtin.cpu.arch != .x86_64) return false;
    const registers: *const [23]u64 = @ptrFromInt(@intFromPtr(context) + 40);
    const error_code = 19;
    const write = 2;
    return registers[error_code] & write != 0;
}

fn run_of(sidecar: *const Known, page: u64) ?Run {
    const runs = (sidecar.runs orelse return null)[0..sidecar.run_count];
    const at = std.sort.upperBound(Run, runs, page, order);
    if (at == 0) return null;
    const run = runs[at - 1];
    return if (page < run.vaddr() + run.bytes) run else null;
}

fn order(page: u64, run: Run) std.math.Order {
    return std.math.order(page, run.vaddr());
}

/// Another thread may be bringing the same page: the second takes the place of the first, whole.
fn bring(sidecar: *const Known, offset: u64, address: usize, rights: linux.PROT) bool {
    if (same(sidecar, sidecar.file)) return bring_from(sidecar.file, offset, address, rights);
    const file = system.open(sidecar.name orelse return false, .{}) orelse return false;
    defer system.close(file);
    return same(sidecar, file) and bring_from(file, offset, address, rights);
}

fn same(sidecar: *const Known, file: i32) bool {
    const found = system.identity(file, "") orelse return false;
    return std.meta.eql(found, sidecar.identity);
}

fn bring_from(file: i32, offset: u64, address: usize, rights: linux.PROT) bool {
    const at: [*]u8 = @ptrFromInt(address);
    const here: linux.MAP = .{ .TYPE = .PRIVATE, .FIXED = true };
    const mapped = linux.mmap(at, system.page_bytes, rights, here, file, @intCast(offset));
    if (system.value(mapped) != null) return true;
    // The folder may forbid code, or be of a kind that cannot be mapped.
    const copy = system.allocate(system.page_bytes) orelse return false;
    if (!system.read_at(file, copy[0..system.page_bytes], offset)) return false;
    if (system.value(linux.mprotect(copy, system.page_bytes, rights)) == null) return false;
    const flags: linux.MREMAP = .{ .MAYMOVE = true, .FIXED = true };
    const moved = linux.mremap(copy, system.page_bytes, system.page_bytes, flags, at);
    return system.value(moved) != null;
}

fn say(sidecar: *const Known, page: u64) void {
    var line: log.Line = .begin("page");
    line.text("library", std.mem.span(sidecar.path orelse ""));
    line.number("page", page / system.page_bytes);
    line.end();
}

/// The sidecar of a library, opened by the first fault that asks.
fn sidecar_of(library: *const loaded.Library) ?*const Known {
    const hash = @intFromPtr(library) / @alignOf(loaded.Library);
    for (0..sidecars.len) |step| {
        const sidecar = &sidecars[(hash +% step) % sidecars.len];
        const before = sidecar.library.cmpxchgStrong(null, library, .acq_rel, .acquire) orelse {
            fill(sidecar, library);
            return sidecar;
        };
        if (before != library) continue;
        while (!sidecar.ready.load(.acquire)) std.atomic.spinLoopHint();
        if (sidecar.base == library.base and sidecar.dynamic == library.dynamic) return sidecar;
    }
    return null;
}

/// With signals held: a handler that faulted here would wait for itself.
fn lock() linux.sigset_t {
    var before: linux.sigset_t = undefined;
    const all = linux.sigfillset();
    _ = linux.sigprocmask(linux.SIG.BLOCK, &all, &before);
    while (scratch.busy.swap(true, .acquire)) std.atomic.spinLoopHint();
    return before;
}

fn unlock(before: linux.sigset_t) void {
    scratch.busy.store(false, .release);
    _ = linux.sigprocmask(linux.SIG.SETMASK, &before, null);
}

fn fill(sidecar: *Known, library: *const loaded.Library) void {
    const before = lock();
    sidecar.base = library.base;
    sidecar.dynamic = library.dynamic;
    open(sidecar, library);
    sidecar.ready.store(true, .release);
    unlock(before);
}

fn open(sidecar: *Known, library: *const loaded.Library) void {
    const kept = system.allocate(loaded.path_bytes_max) orelse return;
    const path_bytes = kept[0..loaded.path_bytes_max];
    const path = loaded.mapped_at(library.dynamic, &scratch.line, path_bytes) orelse return;
    sidecar.path = path;
    const file = system.open(path, .{}) orelse return;
    defer system.close(file);
    const found = sidecars_of.of(file, folders, &scratch.name) orelse return;
    sidecar.identity = system.identity(found.file, "") orelse return;
    sidecar.name = name_of(std.mem.sliceTo(&scratch.name, 0));
    sidecar.runs = found.runs.ptr;
    sidecar.run_count = found.runs.len;
    sidecar.file = found.file;
}

/// The name kept, with the folder that it is in now.
fn name_of(name: []const u8) ?[*:0]const u8 {
    const kept = system.allocate(loaded.path_bytes_max) orelse return null;
    const whole = system.join(kept[0..loaded.path_bytes_max], &.{name}) orelse return null;
    return system.absolute(whole) orelse null;
}

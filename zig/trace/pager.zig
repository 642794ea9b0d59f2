//! The pager: a library that the loader puts into a program (LD_PRELOAD) which runs with shrunk
//! libraries. A page of host code that was removed and is needed after all comes back from the
//! library's sidecar, and that is said.
//!
//! FLASHBUN_SIDECARS lists the folders of sidecars, separated by colons;
//! src/debloat/shrink/sidecar.ts gives their format. FLASHBUN_PAGER_LOG is a file for JSON lines;
//! without it they go to standard error.
const std = @import("std");
const builtin = @import("builtin");
const loaded = @import("loaded.zig");
const log = @import("log.zig");
const signals = @import("signals.zig");
const system = @import("system.zig");
const linux = std.os.linux;

pub const panic = std.debug.no_panic;

/// The start of a sidecar, as far as a page needs it.
const Header = extern struct {
    magic: [8]u8,
    original_bytes: u64,
    shrunk_bytes: u64,
    hashes: [64]u8,
    table_offset: u64,
    table_count: u64,
};

const Run = extern struct { vaddr: u64, bytes: u64, file_offset: u64 };

const Sidecar = struct {
    library: std.atomic.Value(?*const loaded.Library) = .init(null),
    ready: std.atomic.Value(bool) = .init(false),
    base: usize = 0,
    dynamic: usize = 0,
    file: i32 = 0,
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
var sidecars: [1 << 13]Sidecar = @splat(.{});
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
    // Code is never written to.
    if (is_write(context)) return false;
    const address = @intFromPtr(info.fields.sigfault.addr);
    const library = loaded.below(address) orelse return false;
    const sidecar = sidecar_of(library) orelse return false;
    const page = std.mem.alignBackward(u64, address - library.base, system.page_bytes);
    const run = run_of(sidecar, page) orelse return false;
    const offset = run.file_offset + (page - run.vaddr);
    if (!bring(sidecar.file, offset, library.base + page)) return false;
    say(sidecar, page);
    return true;
}

fn is_write(context: *anyopaque) bool {
    if (builtin.cpu.arch != .x86_64) return false;
    const registers: *const [23]u64 = @ptrFromInt(@intFromPtr(context) + 40);
    const error_code = 19;
    const write = 2;
    return registers[error_code] & write != 0;
}

fn run_of(sidecar: *const Sidecar, page: u64) ?Run {
    const runs = (sidecar.runs orelse return null)[0..sidecar.run_count];
    const at = std.sort.upperBound(Run, runs, page, order);
    if (at == 0) return null;
    const run = runs[at - 1];
    return if (page < run.vaddr + run.bytes) run else null;
}

fn order(page: u64, run: Run) std.math.Order {
    return std.math.order(page, run.vaddr);
}

/// Another thread may be bringing the same page: the second takes the place of the first, whole.
fn bring(file: i32, offset: u64, address: usize) bool {
    const code: linux.PROT = .{ .READ = true, .EXEC = true };
    const at: [*]u8 = @ptrFromInt(address);
    const here: linux.MAP = .{ .TYPE = .PRIVATE, .FIXED = true };
    const mapped = linux.mmap(at, system.page_bytes, code, here, file, @intCast(offset));
    if (system.value(mapped) != null) return true;
    // The folder may forbid code, or be of a kind that cannot be mapped.
    const copy = system.allocate(system.page_bytes) orelse return false;
    if (!system.read_at(file, copy[0..system.page_bytes], offset)) return false;
    if (system.value(linux.mprotect(copy, system.page_bytes, code)) == null) return false;
    const flags: linux.MREMAP = .{ .MAYMOVE = true, .FIXED = true };
    const moved = linux.mremap(copy, system.page_bytes, system.page_bytes, flags, at);
    return system.value(moved) != null;
}

fn say(sidecar: *const Sidecar, page: u64) void {
    var line: log.Line = .begin("page");
    line.text("library", std.mem.span(sidecar.path orelse ""));
    line.number("page", page / system.page_bytes);
    line.end();
}

/// The sidecar of a library, opened by the first fault that asks.
fn sidecar_of(library: *const loaded.Library) ?*const Sidecar {
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
fn fill(sidecar: *Sidecar, library: *const loaded.Library) void {
    var before: linux.sigset_t = undefined;
    const all = linux.sigfillset();
    _ = linux.sigprocmask(linux.SIG.BLOCK, &all, &before);
    while (scratch.busy.swap(true, .acquire)) std.atomic.spinLoopHint();
    sidecar.base = library.base;
    sidecar.dynamic = library.dynamic;
    open(sidecar, library);
    sidecar.ready.store(true, .release);
    scratch.busy.store(false, .release);
    _ = linux.sigprocmask(linux.SIG.SETMASK, &before, null);
}

fn open(sidecar: *Sidecar, library: *const loaded.Library) void {
    const kept = system.allocate(loaded.path_bytes_max) orelse return;
    const path_bytes = kept[0..loaded.path_bytes_max];
    const path = loaded.mapped_at(library.dynamic, &scratch.line, path_bytes) orelse return;
    sidecar.path = path;
    const file = system.open(path, .{}) orelse return;
    defer system.close(file);
    const library_bytes = system.size_of(file) orelse return;
    var id_buffer: [loaded.build_id_bytes_max]u8 = undefined;
    const id = loaded.build_id(file, &id_buffer);
    if (id.len == 0) return;
    var digits: [2 * loaded.build_id_bytes_max]u8 = undefined;
    for (id, 0..) |byte, index| {
        digits[2 * index] = "0123456789abcdef"[byte >> 4];
        digits[2 * index + 1] = "0123456789abcdef"[byte & 15];
    }
    var names = std.mem.splitScalar(u8, folders, ':');
    while (names.next()) |folder| {
        const parts = [_][]const u8{ folder, "/", digits[0 .. 2 * id.len], ".side" };
        const name = system.join(&scratch.name, &parts) orelse continue;
        const found = system.open(name, .{}) orelse continue;
        const runs = read_runs(found, library_bytes) orelse {
            system.close(found);
            continue;
        };
        sidecar.runs = runs.ptr;
        sidecar.run_count = runs.len;
        sidecar.file = found;
        return;
    }
}

/// The page table, when all of it lies in the file and it is of this library.
fn read_runs(file: i32, library_bytes: u64) ?[]const Run {
    const bytes = system.size_of(file) orelse return null;
    var header: Header = undefined;
    if (!system.read_at(file, std.mem.asBytes(&header), 0)) return null;
    if (!std.mem.eql(u8, &header.magic, "FBSIDE\x00\x01")) return null;
    if (library_bytes != header.shrunk_bytes) return null;
    if (header.table_count > bytes / @sizeOf(Run)) return null;
    const table_bytes = header.table_count * @sizeOf(Run);
    if (header.table_offset > bytes - table_bytes) return null;
    if (header.table_offset % @alignOf(Run) != 0) return null;
    const memory = system.map_shared(file, bytes, false) orelse return null;
    const runs = std.mem.bytesAsSlice(Run, memory[header.table_offset..][0..table_bytes]);
    for (runs) |run| {
        const aligned = (run.vaddr | run.bytes | run.file_offset) % system.page_bytes == 0;
        if (!aligned or run.bytes > bytes or run.file_offset > bytes - run.bytes) return null;
    }
    return @alignCast(runs);
}

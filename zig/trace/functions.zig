//! Which functions of libraries a process enters: each gets a breakpoint that its first call
//! removes.
//!
//! What was entered is kept in files that all processes of the trace map: nothing is lost when one
//! is killed, forks or starts another program.
const std = @import("std");
const frames = @import("frames.zig");
const loaded = @import("loaded.zig");
const log = @import("log.zig");
const pages = @import("pages.zig");
const system = @import("system.zig");
const trap = @import("trap.zig");
const linux = std.os.linux;

const magic = "FBCALLS\x01".*;

/// A file: this, the entries, the library's path.
const Header = extern struct { magic: [8]u8, count: u64, path_bytes: u64, reserved: u64 = 0 };

const Entry = extern struct {
    vaddr: u64,
    bytes: u32,
    /// The byte that the breakpoint covers.
    original: u8,
    entered: u8 = 0,
    reserved: u16 = 0,
};

const Table = struct {
    library: *const loaded.Library,
    base: usize,
    entries: []Entry,
    active: std.atomic.Value(bool),
};

var tables: [4096]Table = undefined;
var table_count: std.atomic.Value(usize) = .init(0);

/// Executable segments of the library that is being armed.
var code: [4096]struct { start: usize, end: usize } = undefined;

/// Names of libraries that stay as they are: some of their functions run while signals are blocked
/// by the kernel's hand, or are ours.
const untouched = [_][]const u8{
    "/ld-linux",     "/libc.so",    "/libc-2",     "/libpthread", "/libdl",
    "/libflashbun-", "/libcuda.so", "/libnvidia-", "/libcupti",
};

/// Arms what was loaded since the last call, and forgets what is gone.
pub fn follow() void {
    const known = tables[0..table_count.load(.acquire)];
    for (known) |*table| {
        if (table.active.load(.acquire) and !is_loaded(table)) table.active.store(false, .release);
    }
    var libraries = loaded.iterate();
    next: while (libraries.next()) |library| {
        for (known) |*table| {
            if (table.active.load(.acquire) and table.library == library) continue :next;
        }
        var buffer: [loaded.path_bytes_max]u8 = undefined;
        const path = library.path(&buffer) orelse continue;
        for (untouched) |name| {
            if (std.mem.indexOf(u8, path, name) != null) continue :next;
        }
        if (!arm(library, path)) {
            var line: log.Line = .begin("untraced");
            line.text("library", path);
            line.end();
        }
    }
}

fn is_loaded(table: *const Table) bool {
    var libraries = loaded.iterate();
    while (libraries.next()) |library| {
        if (library == table.library and library.base == table.base) return true;
    }
    return false;
}

/// Whether a breakpoint of ours was met; if so its function goes on.
pub fn take(context: trap.Context) bool {
    const address = context.address();
    const entry = find(address) orelse return false;
    entry.entered = 1;
    // The program may have changed the protection since.
    _ = trap.unlock(address, address + 1);
    trap.write(address, entry.original);
    context.resume_at(address);
    return true;
}

fn find(address: usize) ?*Entry {
    for (tables[0..table_count.load(.acquire)]) |*table| {
        if (!table.active.load(.acquire) or address < table.base) continue;
        const vaddr = address - table.base;
        const at = std.sort.lowerBound(Entry, table.entries, vaddr, order);
        if (at < table.entries.len and table.entries[at].vaddr == vaddr) return &table.entries[at];
    }
    return null;
}

fn order(vaddr: u64, entry: Entry) std.math.Order {
    return std.math.order(vaddr, entry.vaddr);
}

fn arm(library: *const loaded.Library, path: [:0]const u8) bool {
    const slot = table_count.load(.monotonic);
    if (slot == tables.len) return false;
    const file = system.open(path, .{}) orelse return false;
    defer system.close(file);
    const image = read_segments(file, library.base) orelse return false;
    // A library without unwind tables has no function that could be left out.
    const table_at = image.unwind_table orelse return true;
    const functions = frames.Iterator.of(image.memory, table_at) orelse return false;
    // What ran of it before now met no breakpoint.
    pages.say_code(library);
    const entries = shared_entries(library.base, path, functions, image.code) orelse return false;
    tables[slot] = .{
        .library = library,
        .base = library.base,
        .entries = entries,
        .active = .init(true),
    };
    table_count.store(slot + 1, .release);
    for (image.code) |range| {
        if (!trap.unlock(range.start, range.end)) return false;
    }
    for (entries) |entry| {
        if (entry.entered == 0) trap.write(library.base + entry.vaddr, trap.instruction);
    }
    return true;
}

const Image = struct {
    memory: frames.Memory,
    unwind_table: ?usize,
    code: []const @TypeOf(code[0]),
};

fn read_segments(file: i32, base: usize) ?Image {
    var segments = loaded.Segments.of(file) orelse return null;
    var image: Image = .{
        .memory = .{ .start = std.math.maxInt(usize), .end = 0 },
        .unwind_table = null,
        .code = &.{},
    };
    var count: usize = 0;
    while (segments.next()) |segment| {
        const start = base + segment.vaddr;
        const end = start + segment.memsz;
        if (segment.type == std.elf.PT.GNU_EH_FRAME) image.unwind_table = start;
        if (segment.type != .LOAD) continue;
        image.memory.start = @min(image.memory.start, start);
        image.memory.end = @max(image.memory.end, end);
        if (!segment.flags.X) continue;
        if (count == code.len) return null;
        code[count] = .{ .start = start, .end = base + segment.vaddr + segment.filesz };
        count += 1;
    }
    image.code = code[0..count];
    return image;
}

/// The library's entries as all processes share them, made by the first that comes.
fn shared_entries(
    base: usize,
    path: []const u8,
    functions: frames.Iterator,
    ranges: []const @TypeOf(code[0]),
) ?[]Entry {
    var digits: [2][16]u8 = undefined;
    const hash = system.hex(std.hash.Fnv1a_64.hash(path), &digits[0]);
    var buffers: [2][4096]u8 = undefined;
    const name = log.path(&buffers[0], &.{ hash, ".calls" }) orelse return null;
    if (map_entries(name)) |entries| return entries;
    const process = system.hex(@intCast(log.process()), &digits[1]);
    const draft = log.path(&buffers[1], &.{ hash, "-", process, ".draft" }) orelse return null;
    defer _ = linux.unlink(draft);
    if (!write_entries(draft, base, path, functions, ranges)) return null;
    // Of processes that do this at once, one wins and the others take its file.
    _ = linux.link(draft, name);
    return map_entries(name);
}

fn map_entries(name: [:0]const u8) ?[]Entry {
    const file = system.open(name, .{ .ACCMODE = .RDWR }) orelse return null;
    defer system.close(file);
    const bytes = system.size_of(file) orelse return null;
    const memory = system.map_shared(file, bytes, true) orelse return null;
    const header: *const Header = @ptrCast(memory);
    const entries: [*]Entry = @ptrCast(@alignCast(memory + @sizeOf(Header)));
    return entries[0..header.count];
}

fn write_entries(
    name: [:0]const u8,
    base: usize,
    path: []const u8,
    functions: frames.Iterator,
    ranges: []const @TypeOf(code[0]),
) bool {
    const flags: linux.O = .{ .ACCMODE = .RDWR, .CREAT = true, .TRUNC = true };
    const file = system.open(name, flags) orelse return false;
    defer system.close(file);
    const most = @sizeOf(Header) + @as(usize, functions.count) * @sizeOf(Entry);
    if (system.value(linux.ftruncate(file, @intCast(most + path.len))) == null) return false;
    const memory = system.map_shared(file, most + path.len, true) orelse return false;
    defer _ = linux.munmap(memory, most + path.len);
    const entries: [*]Entry = @ptrCast(@alignCast(memory + @sizeOf(Header)));
    var count: usize = 0;
    var iterator = functions;
    while (iterator.next()) |function| {
        const vaddr = function.address -% base;
        if (!is_within(function, ranges)) continue;
        // Binary search needs ascending addresses, one entry each.
        if (count > 0 and entries[count - 1].vaddr >= vaddr) continue;
        const original = @as(*const u8, @ptrFromInt(function.address)).*;
        if (original == trap.instruction) continue;
        entries[count] = .{ .vaddr = vaddr, .bytes = function.bytes, .original = original };
        count += 1;
    }
    const path_at = @sizeOf(Header) + count * @sizeOf(Entry);
    @memcpy(memory[path_at..][0..path.len], path);
    const header: *Header = @ptrCast(memory);
    header.* = .{ .magic = magic, .count = count, .path_bytes = path.len };
    return system.value(linux.ftruncate(file, @intCast(path_at + path.len))) != null;
}

fn is_within(function: frames.Function, ranges: []const @TypeOf(code[0])) bool {
    for (ranges) |range| {
        if (function.address >= range.start and function.address < range.end) return true;
    }
    return false;
}

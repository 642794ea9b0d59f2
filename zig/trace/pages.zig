//! Which pages of libraries are in this process's memory: those it touched, and those that the
//! kernel brought along with them (up to 64 KiB around).
const std = @import("std");
const loaded = @import("loaded.zig");
const log = @import("log.zig");
const system = @import("system.zig");

/// Bits of an entry of /proc/self/pagemap: in memory, or in swap.
const touched: u64 = 3 << 62;

/// Says which pages of code were touched, and which pages of whatever there is.
pub fn say_all(with_code: bool) void {
    var libraries = loaded.iterate();
    while (libraries.next()) |library| {
        if (with_code) say_code(library);
        say(library, "touched", false);
    }
}

/// Says which pages of a library's code were touched.
pub fn say_code(library: *const loaded.Library) void {
    say(library, "pages", true);
}

fn say(library: *const loaded.Library, event: []const u8, only_code: bool) void {
    const map = system.open("/proc/self/pagemap", .{}) orelse return;
    defer system.close(map);
    var buffer: [loaded.path_bytes_max]u8 = undefined;
    const path = library.path(&buffer) orelse return;
    const file = system.open(path, .{}) orelse return;
    defer system.close(file);
    var segments = loaded.Segments.of(file) orelse return;
    var line: log.Line = .begin(event);
    line.text("library", path);
    line.key("pages");
    line.raw("[");
    var runs: Runs = .{ .line = &line };
    var whole = true;
    while (segments.next()) |segment| {
        if (segment.type != .LOAD or (only_code and !segment.flags.X)) continue;
        whole = read(map, library.base, segment, &runs) and whole;
    }
    runs.end();
    line.raw("]");
    if (!whole) line.number("unread", 1);
    line.end();
}

fn read(map: i32, base: usize, segment: loaded.Segment, runs: *Runs) bool {
    var page = segment.vaddr / system.page_bytes;
    const end = (segment.vaddr + segment.filesz + system.page_bytes - 1) / system.page_bytes;
    var entries: [256]u64 = undefined;
    while (page < end) {
        const count = @min(entries.len, end - page);
        const bytes = std.mem.sliceAsBytes(entries[0..count]);
        const at = (base / system.page_bytes + page) * @sizeOf(u64);
        if (!system.read_at(map, bytes, at)) return false;
        for (entries[0..count]) |entry| {
            if (entry & touched != 0) runs.add(page);
            page += 1;
        }
    }
    return true;
}

/// Writes [first page, count] for pages that follow each other.
const Runs = struct {
    line: *log.Line,
    first: u64 = 0,
    count: u64 = 0,
    written: bool = false,

    fn add(runs: *Runs, page: u64) void {
        if (runs.count > 0 and page == runs.first + runs.count) {
            runs.count += 1;
            return;
        }
        runs.end();
        runs.first = page;
        runs.count = 1;
    }

    fn end(runs: *Runs) void {
        if (runs.count == 0) return;
        runs.line.raw(if (runs.written) ",[" else "[");
        runs.line.digits(runs.first);
        runs.line.raw(",");
        runs.line.digits(runs.count);
        runs.line.raw("]");
        runs.written = true;
        runs.count = 0;
    }
};

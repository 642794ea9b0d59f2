//! The functions of a loaded library, from its unwind tables: they are there even when symbols are
//! stripped (LSB, "Exception Frames").
const std = @import("std");

/// Bytes of a loaded library, from `start` up to `end`; nothing outside is read.
pub const Memory = struct {
    start: usize,
    end: usize,

    fn get(memory: Memory, comptime T: type, address: usize) ?T {
        if (address < memory.start or address > memory.end -| @sizeOf(T)) return null;
        return std.mem.readInt(T, @as(*const [@sizeOf(T)]u8, @ptrFromInt(address)), .little);
    }
};

pub const Function = struct { address: usize, bytes: u32 };

/// Functions in ascending order of their addresses.
pub const Iterator = struct {
    memory: Memory,
    table: usize,
    entries: usize,
    count: u32,
    index: u32 = 0,
    /// Pointers of records that share `shared` have `width` bytes.
    shared: usize = 0,
    width: usize = 0,

    /// `table` is the address of the header that the segment PT_GNU_EH_FRAME holds.
    pub fn of(memory: Memory, table: usize) ?Iterator {
        const head = memory.get(u32, table) orelse return null;
        const pointer_bytes = encoded_bytes(@truncate(head >> 8)) orelse return null;
        // Version 1; a count of four bytes; pairs of four bytes relative to the table.
        if (head & 0xff != 1 or head >> 16 != 0x3b03) return null;
        const count_at = table + 4 + pointer_bytes;
        const count = memory.get(u32, count_at) orelse return null;
        return .{ .memory = memory, .table = table, .entries = count_at + 4, .count = count };
    }

    pub fn next(iterator: *Iterator) ?Function {
        while (iterator.index < iterator.count) {
            const at = iterator.entries + 8 * @as(usize, iterator.index);
            iterator.index += 1;
            const address = iterator.relative(at) orelse return null;
            const record = iterator.relative(at + 4) orelse return null;
            const bytes = iterator.range_of(record) orelse continue;
            if (bytes > 0) return .{ .address = address, .bytes = bytes };
        }
        return null;
    }

    fn relative(iterator: *const Iterator, at: usize) ?usize {
        const offset = iterator.memory.get(i32, at) orelse return null;
        return iterator.table +% @as(usize, @bitCast(@as(isize, offset)));
    }

    fn range_of(iterator: *Iterator, record: usize) ?u32 {
        const memory = iterator.memory;
        const length = memory.get(u32, record) orelse return null;
        if (length == std.math.maxInt(u32)) return null;
        const shared = record + 4 -% (memory.get(u32, record + 4) orelse return null);
        if (shared != iterator.shared) {
            iterator.width = pointer_bytes_of(memory, shared) orelse return null;
            iterator.shared = shared;
        }
        if (iterator.width == 4) return memory.get(u32, record + 12);
        const bytes = memory.get(u64, record + 16) orelse return null;
        return if (iterator.width == 8) std.math.cast(u32, bytes) else null;
    }
};

/// Bytes of a pointer in the records that share the one at `shared`.
fn pointer_bytes_of(memory: Memory, shared: usize) ?usize {
    var reader: Reader = .{ .memory = memory, .at = shared + 9 };
    const letters = reader.at;
    while (try_byte(&reader)) |byte| {
        if (byte == 0) break;
    }
    if (memory.get(u8, letters) != 'z') return if (memory.get(u8, letters) == 0) 8 else null;
    // Code alignment, data alignment, the return address, the length of what follows.
    for (0..4) |_| reader.skip_number();
    var letter = letters + 1;
    while (memory.get(u8, letter)) |kind| : (letter += 1) switch (kind) {
        'R' => return encoded_bytes(try_byte(&reader) orelse return null),
        'L' => reader.at += 1,
        'P' => {
            const encoding = try_byte(&reader) orelse return null;
            reader.at += encoded_bytes(encoding) orelse return null;
        },
        'S', 'B' => {},
        else => return 8,
    };
    return null;
}

const Reader = struct {
    memory: Memory,
    at: usize,

    fn skip_number(reader: *Reader) void {
        while (try_byte(reader)) |byte| {
            if (byte & 0x80 == 0) return;
        }
    }
};

fn try_byte(reader: *Reader) ?u8 {
    defer reader.at += 1;
    return reader.memory.get(u8, reader.at);
}

/// Bytes of a pointer by its encoding.
fn encoded_bytes(encoding: u8) ?usize {
    return switch (encoding & 15) {
        0, 4, 12 => 8,
        2, 10 => 2,
        3, 11 => 4,
        else => null,
    };
}

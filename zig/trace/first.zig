//! Marks a library so that the loader runs its constructor before those of all others
//! (DF_1_INITFIRST), which no option of the linker does: first <library> <marked copy>.
const std = @import("std");
const elf = std.elf;

const flags_1 = 0x6ffffffb;
const init_first = 0x20;

pub fn main(init: std.process.Init) !void {
    const io = init.io;
    const arguments = try init.minimal.args.toSlice(init.arena.allocator());
    const folder = std.Io.Dir.cwd();
    const most: std.Io.Limit = .limited(1 << 24);
    const bytes = try folder.readFileAlloc(io, arguments[1], init.arena.allocator(), most);
    try mark(bytes);
    try folder.writeFile(io, .{
        .sub_path = arguments[2],
        .data = bytes,
        .flags = .{ .permissions = .executable_file },
    });
}

fn mark(bytes: []u8) !void {
    const header = std.mem.bytesAsValue(elf.Elf64.Ehdr, bytes[0..@sizeOf(elf.Elf64.Ehdr)]);
    for (0..header.phnum) |index| {
        const at: usize = @intCast(header.phoff + index * header.phentsize);
        const segment_bytes = bytes[at..][0..@sizeOf(elf.Elf64.Phdr)];
        const segment = std.mem.bytesAsValue(elf.Elf64.Phdr, segment_bytes);
        if (segment.type != .DYNAMIC) continue;
        const start: usize = @intCast(segment.offset);
        const end = start + @as(usize, @intCast(segment.filesz));
        var entry = start;
        while (entry < end) : (entry += 16) {
            const pair = std.mem.bytesAsValue([2]u64, bytes[entry..][0..16]);
            if (pair[0] != flags_1) continue;
            pair[1] |= init_first;
            return;
        }
    }
    return error.NoFlags;
}

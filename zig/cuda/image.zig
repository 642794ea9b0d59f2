//! Kernel images: ELF files (cubins, and shared objects for the emulated driver), checked before a
//! driver sees them.
//!
//! The driver is given an address without a length, so whatever the headers name must lie within
//! the bytes.
const std = @import("std");

const Header = extern struct {
    magic: [4]u8,
    class: u8,
    identification: [11]u8,
    kind: u16,
    machine: u16,
    version: u32,
    entry: u64,
    segments_at: u64,
    sections_at: u64,
    flags: u32,
    header_bytes: u16,
    segment_bytes: u16,
    segment_count: u16,
    section_bytes: u16,
    section_count: u16,
    names_index: u16,
};

const Section = extern struct {
    name: u32,
    kind: u32,
    flags: u64,
    address: u64,
    offset: u64,
    size: u64,
    link: u32,
    info: u32,
    alignment: u64,
    entry_bytes: u64,

    const without_bytes = 8;
};

/// What is wrong with the image, or null.
pub fn complaint(bytes: []const u8) ?[]const u8 {
    if (bytes.len < @sizeOf(Header)) return "it is shorter than an ELF header";
    const header = std.mem.bytesToValue(Header, bytes[0..@sizeOf(Header)]);
    if (!std.mem.eql(u8, &header.magic, "\x7fELF") or header.class != 2) {
        return "it is no 64-bit ELF file";
    }
    if (!fits(bytes, header.segments_at, header.segment_bytes, header.segment_count)) {
        return "its segments lie past its end";
    }
    if (header.section_count == 0 or header.section_bytes != @sizeOf(Section)) {
        return "it has no section table";
    }
    if (!fits(bytes, header.sections_at, header.section_bytes, header.section_count)) {
        return "its section table lies past its end";
    }
    for (0..header.section_count) |i| {
        const at = header.sections_at + i * @sizeOf(Section);
        const section = std.mem.bytesToValue(Section, bytes[at..][0..@sizeOf(Section)]);
        if (section.kind == Section.without_bytes) continue;
        if (!fits(bytes, section.offset, section.size, 1)) return "a section lies past its end";
    }
    return null;
}

fn fits(bytes: []const u8, at: u64, each: u64, count: u64) bool {
    const size = std.math.mul(u64, each, count) catch return false;
    const end = std.math.add(u64, at, size) catch return false;
    return end <= bytes.len;
}

fn sample() [@sizeOf(Header) + 2 * @sizeOf(Section)]u8 {
    var header = std.mem.zeroes(Header);
    header.magic = "\x7fELF".*;
    header.class = 2;
    header.sections_at = @sizeOf(Header);
    header.section_bytes = @sizeOf(Section);
    header.section_count = 2;
    return std.mem.toBytes(header) ++ @as([2 * @sizeOf(Section)]u8, @splat(0));
}

test "an image whose headers stay within it passes" {
    try std.testing.expectEqual(null, complaint(&sample()));
}

test "cut and forged images are refused" {
    var bytes = sample();
    for (0..bytes.len) |length| try std.testing.expect(complaint(bytes[0..length]) != null);
    try std.testing.expect(complaint(&@as([100]u8, @splat('x'))) != null);
    const size_at = @sizeOf(Header) + @offsetOf(Section, "size");
    std.mem.writeInt(u64, bytes[size_at..][0..8], std.math.maxInt(u64), .little);
    try std.testing.expectEqualStrings("a section lies past its end", complaint(&bytes).?);
    std.mem.writeInt(u64, bytes[@offsetOf(Header, "sections_at")..][0..8], 1 << 63, .little);
    try std.testing.expect(complaint(&bytes) != null);
}

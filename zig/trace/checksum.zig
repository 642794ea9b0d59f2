//! CRC-32 as zlib has it, of images with many megabytes.
const std = @import("std");
const builtin = @import("builtin");

/// Bit n is the coefficient of x^(31 - n); x^32 is left out.
const polynomial = 0xedb8_8320;

pub fn checksum(bytes: []const u8) u32 {
    if (builtin.cpu.arch == .x86_64 and bytes.len >= fold_bytes and multiplies_without_carry())
        return fold(bytes);
    return ~by_tables(0xffff_ffff, bytes);
}

/// Eight bytes at a time.
fn by_tables(start: u32, bytes: []const u8) u32 {
    var crc = start;
    var at: usize = 0;
    while (at + 8 <= bytes.len) : (at += 8) {
        const word = std.mem.readInt(u64, bytes[at..][0..8], .little) ^ crc;
        crc = 0;
        inline for (0..8) |index| {
            crc ^= tables[7 - index][@as(u8, @truncate(word >> (8 * index)))];
        }
    }
    for (bytes[at..]) |byte| crc = crc >> 8 ^ tables[0][@as(u8, @truncate(crc)) ^ byte];
    return crc;
}

/// Table n: the checksum of a byte with n zero bytes behind it.
const tables: [8][256]u32 = made: {
    @setEvalBranchQuota(100_000);
    var made: [8][256]u32 = undefined;
    for (&made[0], 0..) |*crc, byte| {
        crc.* = byte;
        for (0..8) |_| crc.* = crc.* >> 1 ^ if (crc.* & 1 == 1) polynomial else 0;
    }
    for (1..8) |n| for (&made[n], made[n - 1]) |*crc, before| {
        crc.* = before >> 8 ^ made[0][before & 255];
    };
    break :made made;
};

const Words = @Vector(2, u64);
const lanes = 4;
const fold_bytes = @sizeOf(Words) * lanes;

/// Sixteen bytes stand for all before them (Gopal and others, "Fast CRC Computation for Generic
/// Polynomials Using PCLMULQDQ Instruction"): these and the rest have the same checksum.
fn fold(bytes: []const u8) u32 {
    var lane: [lanes]Words = words_at(bytes, 0);
    lane[0][0] ^= 0xffff_ffff;
    var at: usize = fold_bytes;
    while (at + fold_bytes <= bytes.len) : (at += fold_bytes) {
        const next = words_at(bytes, at);
        inline for (&lane, next) |*words, more| words.* = ahead(words.*, fold_bytes) ^ more;
    }
    var words = lane[0];
    inline for (lane[1..]) |more| words = ahead(words, @sizeOf(Words)) ^ more;
    const stand_in: [@sizeOf(Words)]u8 = @bitCast(words);
    return ~by_tables(by_tables(0, &stand_in), bytes[at..]);
}

/// As one load each: a cast of the bytes would put them together one by one.
inline fn words_at(bytes: []const u8, at: usize) [lanes]Words {
    var words: [lanes]Words = undefined;
    const from: *align(1) const [lanes]Words = @ptrCast(bytes[at..][0..fold_bytes]);
    inline for (&words, 0..) |*word, index| word.* = from[index];
    return words;
}

/// What stands `count` bytes further on for the same remainder.
inline fn ahead(words: Words, comptime count: comptime_int) Words {
    const by: Words = comptime .{ power(8 * count + 32), power(8 * count - 32) };
    return multiply(words, by, "0x00") ^ multiply(words, by, "0x11");
}

/// The product of the lower or the upper halves, as polynomials.
inline fn multiply(a: Words, b: Words, comptime halves: []const u8) Words {
    var product = a;
    asm ("pclmulqdq $" ++ halves ++ ", %[b], %[product]"
        : [product] "+x" (product),
        : [b] "x" (b),
    );
    return product;
}

/// x^n modulo the polynomial, one bit up.
fn power(comptime n: comptime_int) u64 {
    @setEvalBranchQuota(10_000);
    var value: u64 = 1 << 31;
    for (0..n) |_| value = value >> 1 ^ if (value & 1 == 1) polynomial else 0;
    return value << 1;
}

fn multiplies_without_carry() bool {
    var features: u32 = undefined;
    asm volatile ("cpuid"
        : [features] "={ecx}" (features),
        : [leaf] "{eax}" (1),
          [subleaf] "{ecx}" (0),
        : .{ .ebx = true, .edx = true, .eax = true });
    return features & 0b10 != 0;
}

test checksum {
    var bytes: [1000]u8 = undefined;
    for (&bytes, 0..) |*byte, index| byte.* = @truncate(index * index * 37 + 11);
    for (0..bytes.len) |length| {
        const expected = std.hash.Crc32.hash(bytes[0..length]);
        try std.testing.expectEqual(expected, checksum(bytes[0..length]));
        try std.testing.expectEqual(expected, ~by_tables(0xffff_ffff, bytes[0..length]));
    }
}

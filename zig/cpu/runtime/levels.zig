//! The CPU kernels, built once a level, and the choice between them at load.
const std = @import("std");
const builtin = @import("builtin");
const Table = @import("../kernel.zig").Table;

pub const Level = enum(i32) { baseline = 0, v3 = 1, v4 = 2 };

extern const fb_cpu_table_baseline: Table;
extern const fb_cpu_table_v3: Table;
extern const fb_cpu_table_v4: Table;

pub fn table(level: Level) *const Table {
    if (builtin.cpu.arch != .x86_64) return &fb_cpu_table_baseline;
    return switch (level) {
        .baseline => &fb_cpu_table_baseline,
        .v3 => &fb_cpu_table_v3,
        .v4 => &fb_cpu_table_v4,
    };
}

const Leaf = struct { eax: u32, ebx: u32, ecx: u32, edx: u32 };

fn cpuid(leaf: u32, subleaf: u32) Leaf {
    var eax: u32 = undefined;
    var ebx: u32 = undefined;
    var ecx: u32 = undefined;
    var edx: u32 = undefined;
    asm volatile ("cpuid"
        : [_] "={eax}" (eax),
          [_] "={ebx}" (ebx),
          [_] "={ecx}" (ecx),
          [_] "={edx}" (edx),
        : [_] "{eax}" (leaf),
          [_] "{ecx}" (subleaf),
    );
    return .{ .eax = eax, .ebx = ebx, .ecx = ecx, .edx = edx };
}

fn xgetbv() u32 {
    var eax: u32 = undefined;
    asm volatile ("xgetbv"
        : [_] "={eax}" (eax),
        : [_] "{ecx}" (@as(u32, 0)),
        : .{ .edx = true });
    return eax;
}

fn bits(value: u32, comptime wanted: []const u5) bool {
    inline for (wanted) |bit| if (value & (@as(u32, 1) << bit) == 0) return false;
    return true;
}

/// The highest level that this processor and its operating system run.
pub fn best() Level {
    if (builtin.cpu.arch != .x86_64) return .baseline;
    if (cpuid(0, 0).eax < 7) return .baseline;
    const one = cpuid(1, 0);
    // SSE3, SSSE3, FMA, SSE4.1, SSE4.2, MOVBE, POPCNT, OSXSAVE, AVX, F16C.
    if (!bits(one.ecx, &.{ 0, 9, 12, 19, 20, 22, 23, 27, 28, 29 })) return .baseline;
    const saved = xgetbv();
    if (saved & 0x6 != 0x6) return .baseline;
    const seven = cpuid(7, 0);
    // BMI1, AVX2, BMI2; LZCNT is in the extended leaf.
    if (!bits(seven.ebx, &.{ 3, 5, 8 })) return .baseline;
    if (!bits(cpuid(0x80000001, 0).ecx, &.{5})) return .baseline;
    // AVX-512 F, DQ, CD, BW, VL, and the system saves the wide registers.
    if (saved & 0xe6 != 0xe6 or !bits(seven.ebx, &.{ 16, 17, 28, 30, 31 })) return .v3;
    return .v4;
}

/// The processor's own name, without padding; empty where it has none.
pub fn brand(buffer: *[48]u8) []const u8 {
    if (builtin.cpu.arch != .x86_64) return "";
    if (cpuid(0x80000000, 0).eax < 0x80000004) return "";
    for (0..3) |i| {
        const leaf = cpuid(0x80000002 + @as(u32, @intCast(i)), 0);
        inline for (.{ leaf.eax, leaf.ebx, leaf.ecx, leaf.edx }, 0..) |word, j| {
            std.mem.writeInt(u32, buffer[i * 16 + j * 4 ..][0..4], word, .little);
        }
    }
    return std.mem.trim(u8, std.mem.sliceTo(buffer, 0), " ");
}

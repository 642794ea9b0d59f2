//! Instructions beyond a level that a processor may have, asked for once.
const std = @import("std");
const builtin = @import("builtin");

/// Whether vdpbf16ps runs here (AVX512_BF16).
pub fn has_bf16_products() bool {
    return runs(&bf16_products, 1, .eax, 5);
}

/// Whether vpdpbusd runs here on 512 bits (AVX512_VNNI).
pub fn has_byte_products() bool {
    return runs(&byte_products, 0, .ecx, 11);
}

const Known = enum(u8) { unknown, no, yes };

var bf16_products: std.atomic.Value(Known) = .init(.unknown);
var byte_products: std.atomic.Value(Known) = .init(.unknown);

/// Whether a bit of leaf 7 is set.
fn runs(
    known: *std.atomic.Value(Known),
    subleaf: u32,
    comptime register: enum { eax, ecx },
    comptime bit: u5,
) bool {
    if (!comptime builtin.cpu.has(.x86, .avx512f)) return false;
    const seen = known.load(.monotonic);
    if (seen != .unknown) return seen == .yes;
    const registers = cpuid_7(subleaf);
    const found = @field(registers, @tagName(register)) & (1 << bit) != 0;
    known.store(if (found) .yes else .no, .monotonic);
    return found;
}

fn cpuid_7(subleaf: u32) struct { eax: u32, ecx: u32 } {
    var eax: u32 = undefined;
    var ecx: u32 = undefined;
    asm volatile ("cpuid"
        : [_] "={eax}" (eax),
          [_] "={ecx}" (ecx),
        : [_] "{eax}" (@as(u32, 7)),
          [_] "{ecx}" (subleaf),
        : .{ .ebx = true, .edx = true });
    return .{ .eax = eax, .ecx = ecx };
}

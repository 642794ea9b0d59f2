//! Instructions beyond a level that a processor may have, asked for once.
const std = @import("std");
const builtin = @import("builtin");

/// Whether vdpbf16ps runs here (AVX512_BF16).
pub fn has_bf16_products() bool {
    if (!comptime builtin.cpu.has(.x86, .avx512f)) return false;
    const seen = known.load(.monotonic);
    if (seen != unknown) return seen == yes;
    const found: u8 = if (cpuid_7_1_eax() & (1 << 5) != 0) yes else no;
    known.store(found, .monotonic);
    return found == yes;
}

const unknown: u8 = 0;
const no: u8 = 1;
const yes: u8 = 2;
var known: std.atomic.Value(u8) = .init(unknown);

fn cpuid_7_1_eax() u32 {
    return asm volatile ("cpuid"
        : [_] "={eax}" (-> u32),
        : [_] "{eax}" (@as(u32, 7)),
          [_] "{ecx}" (@as(u32, 1)),
        : .{ .ebx = true, .ecx = true, .edx = true });
}

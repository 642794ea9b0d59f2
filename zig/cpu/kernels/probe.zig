//! Probes: ceilings of this machine for benchmarks, and time and failures to order for tests.
const std = @import("std");
const builtin = @import("builtin");
const params = @import("params");
const Kernel = @import("../kernel.zig").Kernel;
const pointers = @import("pointers.zig");
const simd = @import("simd.zig");

const F = simd.F;
const Params = params.fb_probe_params;

pub const kernels = [_]Kernel{
    .of("probe_spin", Params, 1, run_spin),
    .of("probe_read", Params, 1, run_read),
    .of("probe_fma", Params, 1, run_fma),
};

/// Busy for `microseconds`; returns `fail` as the status.
fn run_spin(p: *const Params, _: u32, _: [*]align(64) u8) i32 {
    const end = now() + @as(u64, @intCast(@max(0, p.microseconds))) * 1000;
    while (now() < end) std.atomic.spinLoopHint();
    return p.fail;
}

fn now() u64 {
    if (builtin.os.tag != .linux) return 0;
    var t: std.os.linux.timespec = undefined;
    _ = std.os.linux.clock_gettime(.MONOTONIC, &t);
    return @as(u64, @intCast(t.sec)) * 1_000_000_000 + @as(u64, @intCast(t.nsec));
}

/// Reads slice `index` of `iterations` equal slices; out[index] is a checksum.
fn run_read(p: *const Params, index: u32, _: [*]align(64) u8) i32 {
    if (p.fail != 0) return p.fail;
    const step = 8 * @sizeOf(F);
    const slices: u64 = @intCast(@max(1, p.iterations));
    const slice = p.bytes / slices / step * step;
    const data = pointers.items(u8, p.data) + slice * index;
    const Bits = @Vector(simd.lanes, u32);
    var sums: [8]Bits = @splat(@splat(0));
    var at: u64 = 0;
    while (at < slice) : (at += step) {
        @prefetch(data + at + 4096, .{ .locality = 3 });
        inline for (0..8) |j|
            sums[j] +%= @as(*align(1) const Bits, @ptrCast(data + at + j * @sizeOf(F))).*;
    }
    inline for (1..8) |j| sums[0] +%= sums[j];
    pointers.items(f64, p.out)[index] = @floatFromInt(@reduce(.Add, sums[0]));
    return 0;
}

/// Chains of multiply-adds, `iterations` long; out[index] counts the operations, two for each.
fn run_fma(p: *const Params, index: u32, _: [*]align(64) u8) i32 {
    if (p.fail != 0) return p.fail;
    const chains = if (simd.registers == 32) 24 else 12;
    var sums: [chains]F = undefined;
    inline for (0..chains) |j| sums[j] = simd.splat(@floatFromInt(j));
    var factor = simd.splat(0.999);
    std.mem.doNotOptimizeAway(&factor);
    const term = simd.splat(0.001);
    const x = factor;
    for (0..@intCast(@max(0, p.iterations))) |_| {
        inline for (0..chains) |j| sums[j] = simd.mul_add(sums[j], x, term);
    }
    inline for (1..chains) |j| sums[0] += sums[j];
    std.mem.doNotOptimizeAway(@reduce(.Add, sums[0]));
    const each: f64 = 2 * chains * simd.lanes;
    pointers.items(f64, p.out)[index] = each * @as(f64, @floatFromInt(@max(0, p.iterations)));
    return 0;
}

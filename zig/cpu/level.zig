//! Root of one CPU level: this file compiled with the features of baseline, v3 or v4.
//! It exports one hidden table of kernels, from which zig/cpu picks at load.
const options = @import("options");
const Table = @import("kernel.zig").Table;

const kernels = @import("kernels/argmax.zig").kernels ++
    @import("kernels/attention/contents.zig").kernels ++
    @import("kernels/attention/merge.zig").kernels ++
    @import("kernels/attention/row.zig").kernels ++
    @import("kernels/attention/tile.zig").kernels ++
    @import("kernels/bits.zig").kernels ++
    @import("kernels/gather.zig").kernels ++
    @import("kernels/matmul/matmul.zig").kernels ++
    @import("kernels/map.zig").kernels ++
    @import("kernels/moe.zig").kernels ++
    @import("kernels/norm.zig").kernels ++
    @import("kernels/page.zig").kernels ++
    @import("kernels/probe.zig").kernels ++
    @import("kernels/quantize.zig").kernels ++
    @import("kernels/rope.zig").kernels ++
    @import("kernels/sampling/adjust.zig").kernels ++
    @import("kernels/sampling/drafts.zig").kernels ++
    @import("kernels/sampling/place.zig").kernels ++
    @import("kernels/sampling/sample.zig").kernels ++
    @import("kernels/sampling/top_k.zig").kernels ++
    @import("kernels/states.zig").kernels ++
    @import("kernels/tensor.zig").kernels ++
    @import("kernels/variant/probe.zig").kernels;

const table: Table = .{ .kernels = &kernels, .count = kernels.len };

comptime {
    @export(&table, .{ .name = "fb_cpu_table_" ++ options.level, .visibility = .hidden });
}

test {
    _ = @import("kernels/sampling/philox.zig");
    _ = @import("kernels/simd.zig");
    _ = @import("kernels/variant/math.zig");
}

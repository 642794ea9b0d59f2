//! Root of one CPU level: this file compiled with the features of baseline, v3 or v4.
//! It exports one hidden table of kernels, from which zig/cpu picks at load.
const params = @import("params");
const options = @import("options");
const row = @import("kernels/attention/row.zig");
const tile = @import("kernels/attention/tile.zig");
const merge = @import("kernels/states.zig");
const page = @import("kernels/page.zig");
const tensor = @import("kernels/tensor.zig");
const probe = @import("kernels/probe.zig");
const gather = @import("kernels/gather.zig");
const variant_probe = @import("kernels/variant/probe.zig");

pub const Run = *const fn (
    params: *const anyopaque,
    index: u32,
    scratch: [*]align(64) u8,
) callconv(.c) i32;

/// One kernel: run() does item `index` of the grid and returns 0 or a status.
pub const Kernel = extern struct {
    name: [*:0]const u8,
    params_bytes: u32,
    /// Rows, tokens or elements that one item of the grid covers.
    item_rows: u32,
    run: Run,
};

pub const Table = extern struct { kernels: [*]const Kernel, count: usize };

const kernels = [_]Kernel{
    kernel("attention_row", params.fb_attention_params, 1, row.run),
    kernel("attention_tile", params.fb_attention_params, 1, tile.run),
    kernel("attention_merge", params.fb_attention_params, 1, merge.run_attention),
    kernel("merge_states", params.fb_merge_params, merge.state_rows, merge.run_states),
    kernel("append", params.fb_append_params, page.append_tokens, page.run_append),
    kernel("copy_tokens", params.fb_copy_params, 1, page.run_copy),
    kernel("table_update", params.fb_table_params, 1, page.run_table),
    kernel("random_normal", params.fb_random_params, tensor.block, tensor.run_normal),
    kernel("convert", params.fb_convert_params, tensor.block, tensor.run_convert),
    kernel("gather_rows", params.fb_gather_params, gather.gather_rows, gather.run),
    kernel("fill", params.fb_random_params, tensor.block, tensor.run_fill),
    kernel("variant_probe", params.fb_variant_probe_params, 1, variant_probe.run),
    kernel("probe_spin", params.fb_probe_params, 1, probe.run_spin),
    kernel("probe_read", params.fb_probe_params, 1, probe.run_read),
    kernel("probe_fma", params.fb_probe_params, 1, probe.run_fma),
};

fn kernel(
    name: [*:0]const u8,
    comptime Params: type,
    item_rows: u32,
    comptime body: fn (*const Params, u32, [*]align(64) u8) i32,
) Kernel {
    const Entry = struct {
        fn run(p: *const anyopaque, index: u32, scratch: [*]align(64) u8) callconv(.c) i32 {
            return body(@ptrCast(@alignCast(p)), index, scratch);
        }
    };
    return .{
        .name = name,
        .params_bytes = @sizeOf(Params),
        .item_rows = item_rows,
        .run = Entry.run,
    };
}

const table: Table = .{ .kernels = &kernels, .count = kernels.len };

comptime {
    @export(&table, .{ .name = "fb_cpu_table_" ++ options.level, .visibility = .hidden });
}

test {
    _ = @import("kernels/simd.zig");
    _ = @import("kernels/variant/math.zig");
}

//! Prefill: many query rows against blocks of tokens.
const common = @import("attention_common.zig");
const row = @import("attention_row.zig");

/// Runs record `index` of the grid.
pub fn run(p: *const common.Params, index: u32, scratch: [*]align(64) u8) i32 {
    return row.run(p, index, scratch);
}

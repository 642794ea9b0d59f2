//! Root of libflashbun: nothing but the C ABI is exported.
const std = @import("std");

comptime {
    _ = @import("abi.zig");
}

/// Signals are the host program's; a stack for them would cost each of its threads 256 KB.
pub const std_options: std.Options = .{ .signal_stack_size = null };

test {
    _ = @import("cpu/runtime/memory.zig");
    _ = @import("cpu/kernels/variant/math.zig");
    _ = @import("comm/sums.zig");
    _ = @import("cuda/failure.zig");
    _ = @import("cuda/image.zig");
    _ = @import("cuda/device_test.zig");
}

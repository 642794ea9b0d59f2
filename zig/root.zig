//! Root of libflashbun: nothing but the C ABI is exported.
comptime {
    _ = @import("abi.zig");
}

test {
    _ = @import("cpu/memory.zig");
    _ = @import("cuda/failure.zig");
    _ = @import("cuda/image.zig");
    _ = @import("cuda/device_test.zig");
}

//! Addresses of parameters as pointers.

/// The address as a pointer to items of T.
pub inline fn items(comptime T: type, address: u64) [*]T {
    return @ptrFromInt(@as(usize, @intCast(address)));
}

/// Byte address of `element` items of `bytes` bytes past `address`.
pub inline fn offset(address: u64, element: i64, bytes: usize) usize {
    const distance: usize = @bitCast(element *% @as(i64, @intCast(bytes)));
    return @as(usize, @intCast(address)) +% distance;
}

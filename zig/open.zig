//! Opening a library at run time and finding its functions by their names.
const std = @import("std");
const status_file = @import("status.zig");
const fail = status_file.fail;

/// Null where it cannot be opened; the failure is recorded.
pub fn library(path: [*:0]const u8) ?*anyopaque {
    // MPI's plugins look for the library's symbols in the whole process.
    return std.c.dlopen(path, .{ .NOW = true, .GLOBAL = true }) orelse {
        const cause = std.mem.span(std.c.dlerror() orelse "no reason given");
        _ = fail(.not_found, "{s}", .{cause});
        return null;
    };
}

/// Fills a struct of function pointers; the name of the first that is missing, else null.
pub fn functions(comptime Table: type, from: *anyopaque, table: *Table) ?[:0]const u8 {
    inline for (comptime std.meta.fieldNames(Table)) |name| {
        const symbol = std.c.dlsym(from, name) orelse return name;
        @field(table, name) = @ptrCast(@alignCast(symbol));
    }
    return null;
}

//! Prints src/ffi/params.gen.ts: one packer a struct of kernels/params.h, by reflection over its translation.
//!
//! A struct may hold 32-bit integers, 64-bit integers, f32, arrays, bytes, nested structs and tensor maps.
//! Bit-fields (opaque to the translation), unions, pointers and padding are refused at compile time.
const std = @import("std");
const params = @import("params");

pub fn main(init: std.process.Init) !void {
    var buffer: [1 << 16]u8 = undefined;
    var file = std.Io.File.stdout().writer(init.io, &buffer);
    const out = &file.interface;
    try out.writeAll(
        \\// Generated from kernels/params.h by `zig build abi`. Do not edit: change the header and build again.
        \\import { Params } from "./params.ts";
        \\
        \\
    );
    @setEvalBranchQuota(100_000);
    inline for (comptime std.meta.declarations(params)) |declaration| {
        const name = declaration;
        if (comptime std.mem.startsWith(u8, name, "FB_") and @TypeOf(@field(params, name)) == c_int) {
            try out.print("export const {s} = {d};\n", .{ name, @as(i64, @field(params, name)) });
        }
    }
    inline for (comptime std.meta.declarations(params)) |declaration| {
        const name = declaration;
        if (comptime std.mem.startsWith(u8, name, "struct_fb_")) try emit(out, name["struct_fb_".len..], @field(params, name));
    }
    try out.flush();
}

fn emit(out: *std.Io.Writer, comptime name: []const u8, comptime Struct: type) !void {
    try out.print("\n/** Packs `struct fb_{s}` ({d} bytes). */\nexport class ", .{ name, @sizeOf(Struct) });
    try write_case(out, name, true);
    try out.print(" extends Params {{\n  static readonly byteLength = {d};\n", .{@sizeOf(Struct)});
    try out.print("  constructor(memory: ArrayBuffer = new ArrayBuffer({d}), offset = 0) {{\n", .{@sizeOf(Struct)});
    try out.print("    super(memory, offset, {d});\n  }}\n", .{@sizeOf(Struct)});
    comptime require_no_padding(name, Struct);
    try fields(out, "", Struct, 0);
    try out.writeAll("}\n");
}

fn fields(out: *std.Io.Writer, comptime prefix: []const u8, comptime Struct: type, comptime base: usize) !void {
    inline for (comptime std.meta.fieldNames(Struct)) |field| {
        const path = if (prefix.len == 0) field else prefix ++ "_" ++ field;
        if (comptime std.mem.startsWith(u8, field, "reserved")) continue;
        try member(out, path, @FieldType(Struct, field), base + @offsetOf(Struct, field));
    }
}

fn member(out: *std.Io.Writer, comptime path: []const u8, comptime Type: type, comptime offset: usize) !void {
    switch (@typeInfo(Type)) {
        .@"struct" => |info| {
            if (info.layout != .@"extern") @compileError(path ++ ": only extern structs cross the border");
            try fields(out, path, Type, offset);
        },
        .array => |info| try array(out, path, info.child, info.len, offset),
        else => try scalar(out, path, Type, offset),
    }
}

fn scalar(out: *std.Io.Writer, comptime path: []const u8, comptime Type: type, comptime offset: usize) !void {
    switch (Type) {
        i32, u32 => try accessor(out, path, "this.i32[{d}]", offset),
        f32 => try accessor(out, path, "this.f32[{d}]", offset),
        u64, i64 => {
            try out.writeAll("  set ");
            try write_case(out, path, false);
            try out.print("(value: number) {{\n    this.write64({d}, value);\n  }}\n  get ", .{offset / 4});
            try write_case(out, path, false);
            try out.print("(): number {{\n    return this.read64({d});\n  }}\n", .{offset / 4});
        },
        else => @compileError(path ++ ": " ++ @typeName(Type) ++ " cannot cross the border"),
    }
}

fn accessor(out: *std.Io.Writer, comptime path: []const u8, comptime place: []const u8, comptime offset: usize) !void {
    try out.writeAll("  set ");
    try write_case(out, path, false);
    try out.print("(value: number) {{\n    " ++ place ++ " = value;\n  }}\n  get ", .{offset / 4});
    try write_case(out, path, false);
    try out.print("(): number {{\n    return " ++ place ++ "!;\n  }}\n", .{offset / 4});
}

/// Arrays get setters by index; an array of structs gets one for each of its fields.
fn array(
    out: *std.Io.Writer,
    comptime path: []const u8,
    comptime Child: type,
    comptime length: usize,
    comptime offset: usize,
) !void {
    // Opaque memory (names, tensor maps) is reached through `view`.
    if (Child == u8 or Child == u64 and length > 8) return;
    if (@typeInfo(Child) != .@"struct") return element(out, path, Child, offset, @sizeOf(Child));
    inline for (comptime std.meta.fieldNames(Child)) |field| {
        const at = offset + @offsetOf(Child, field);
        try element(out, path ++ "_" ++ field, @FieldType(Child, field), at, @sizeOf(Child));
    }
}

fn element(
    out: *std.Io.Writer,
    comptime path: []const u8,
    comptime Type: type,
    comptime offset: usize,
    comptime step: usize,
) !void {
    const place = std.fmt.comptimePrint("{d} + index * {d}", .{ offset / 4, step / 4 });
    try out.writeAll("  set");
    try write_case(out, path, true);
    try out.writeAll("(index: number, value: number): void {\n    ");
    switch (Type) {
        i32, u32 => try out.writeAll("this.i32[" ++ place ++ "] = value"),
        f32 => try out.writeAll("this.f32[" ++ place ++ "] = value"),
        u64, i64 => try out.writeAll("this.write64(" ++ place ++ ", value)"),
        else => @compileError(path ++ ": " ++ @typeName(Type) ++ " cannot cross the border"),
    }
    try out.writeAll(";\n  }\n");
}

/// Padding would carry garbage across the border: reserved fields must name it.
fn require_no_padding(comptime name: []const u8, comptime Struct: type) void {
    var end: usize = 0;
    for (std.meta.fieldNames(Struct)) |field| {
        if (@offsetOf(Struct, field) != end) @compileError("fb_" ++ name ++ " has padding before " ++ field);
        end += @sizeOf(@FieldType(Struct, field));
    }
    if (end != @sizeOf(Struct)) @compileError("fb_" ++ name ++ " has padding at its end");
}

/// snake_case as lowerCamel or UpperCamel.
fn write_case(out: *std.Io.Writer, comptime name: []const u8, comptime upper: bool) !void {
    comptime var raise = upper;
    inline for (name) |letter| {
        if (letter == '_') {
            raise = true;
        } else {
            try out.writeByte(if (raise) std.ascii.toUpper(letter) else letter);
            raise = false;
        }
    }
}

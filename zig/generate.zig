//! Prints what TypeScript knows of the structs of kernels/params, by reflection over their
//! translation: src/ffi/params.gen.ts has one packer for each struct, src/plan/record.gen.ts the
//! offsets of records. Each begins with a line that names it; scripts/abi.ts writes them there.
//!
//! A struct may hold 32-bit integers, 64-bit integers, f32, arrays, bytes, nested structs and
//! tensor maps. Bit-fields (opaque to the translation), unions, pointers and padding are refused at
//! compile time.
const std = @import("std");
const params = @import("params");

const Struct = struct { name: []const u8, Type: type };

/// Every struct of the headers, without the prefix of its name.
const structs: []const Struct = find: {
    @setEvalBranchQuota(100_000);
    const prefix = "struct_fb_";
    var found: []const Struct = &.{};
    for (std.meta.declarations(params)) |name| {
        if (!std.mem.startsWith(u8, name, prefix)) continue;
        found = found ++ .{Struct{ .name = name[prefix.len..], .Type = @field(params, name) }};
    }
    break :find found;
};

pub fn main(init: std.process.Init) !void {
    var buffer: [1 << 16]u8 = undefined;
    var file = std.Io.File.stdout().writer(init.io, &buffer);
    const out = &file.interface;
    try packers(out);
    try records(out);
    try out.flush();
}

fn begin(out: *std.Io.Writer, comptime path: []const u8) !void {
    try out.writeAll("// file " ++ path ++ "\n" ++
        "// Generated from kernels/params by `bun run abi`. Do not edit: change the header.\n");
}

// ---- packers

fn packers(out: *std.Io.Writer) !void {
    try begin(out, "src/ffi/params.gen.ts");
    try out.writeAll("import { Params } from \"./params.ts\";\n\n");
    @setEvalBranchQuota(100_000);
    inline for (comptime std.meta.declarations(params)) |name| {
        if (comptime std.mem.startsWith(u8, name, "FB_") and @TypeOf(@field(params, name)) == c_int)
            try out.print("export const {s} = {d};\n", .{ name, @as(i64, @field(params, name)) });
    }
    inline for (structs) |each| try packer(out, each.name, each.Type);
}

fn packer(out: *std.Io.Writer, comptime name: []const u8, comptime Type: type) !void {
    comptime require_no_padding(name, Type);
    const bytes = @sizeOf(Type);
    try out.print("\n/** Packs `struct fb_{s}` ({d} bytes). */\nexport class ", .{ name, bytes });
    try write_case(out, name, true);
    try out.print(" extends Params {{\n  static readonly byteLength = {d};\n", .{bytes});
    try parts(out, Type, .declared);
    const signature = "constructor(memory: ArrayBuffer = new ArrayBuffer({d}), offset = 0)";
    try out.print("  " ++ signature ++ " {{\n", .{bytes});
    try out.print("    super(memory, offset, {d});\n", .{bytes});
    try parts(out, Type, .made);
    try out.writeAll("  }\n");
    try fields(out, "", Type, 0);
    try out.writeAll("}\n");
}

/// Tensor maps and other kernels' parameters within a struct have packers of their own, over the
/// same memory.
fn part_name(comptime Type: type) ?[]const u8 {
    for (structs) |each| {
        if (each.Type != Type) continue;
        const is_map = std.mem.eql(u8, each.name, "tensor_map");
        return if (is_map or std.mem.endsWith(u8, each.name, "_params")) each.name else null;
    }
    return null;
}

fn parts(
    out: *std.Io.Writer,
    comptime Type: type,
    comptime place: enum { declared, made },
) !void {
    inline for (comptime std.meta.fieldNames(Type)) |field| {
        const name = comptime part_name(@FieldType(Type, field)) orelse continue;
        try out.writeAll(if (place == .declared) "  readonly " else "    this.");
        try write_case(out, field, false);
        try out.writeAll(if (place == .declared) ": " else " = new ");
        try write_case(out, name, true);
        if (place == .made) try out.print("(memory, offset + {d})", .{@offsetOf(Type, field)});
        try out.writeAll(";\n");
    }
}

fn fields(
    out: *std.Io.Writer,
    comptime prefix: []const u8,
    comptime Type: type,
    comptime base: usize,
) !void {
    inline for (comptime std.meta.fieldNames(Type)) |field| {
        const path = if (prefix.len == 0) field else prefix ++ "_" ++ field;
        if (comptime std.mem.startsWith(u8, field, "reserved")) continue;
        try member(out, path, @FieldType(Type, field), base + @offsetOf(Type, field));
    }
}

fn member(
    out: *std.Io.Writer,
    comptime path: []const u8,
    comptime Type: type,
    comptime offset: usize,
) !void {
    if (comptime part_name(Type) != null) return;
    switch (@typeInfo(Type)) {
        .@"struct" => |info| {
            if (info.layout != .@"extern")
                @compileError(path ++ ": only extern structs cross the border");
            try fields(out, path, Type, offset);
        },
        .array => |info| try array(out, path, info.child, info.len, offset),
        else => try scalar(out, path, Type, offset),
    }
}

fn scalar(
    out: *std.Io.Writer,
    comptime path: []const u8,
    comptime Type: type,
    comptime offset: usize,
) !void {
    switch (Type) {
        i32, u32 => try accessor(out, path, "this.i32[{d}]", offset),
        f32 => try accessor(out, path, "this.f32[{d}]", offset),
        u64, i64 => {
            try out.writeAll("  set ");
            try write_case(out, path, false);
            const setter = "(value: number) {{\n    this.write64({d}, value);\n  }}\n  get ";
            try out.print(setter, .{offset / 4});
            try write_case(out, path, false);
            try out.print("(): number {{\n    return this.read64({d});\n  }}\n", .{offset / 4});
        },
        else => @compileError(path ++ ": " ++ @typeName(Type) ++ " cannot cross the border"),
    }
}

fn accessor(
    out: *std.Io.Writer,
    comptime path: []const u8,
    comptime place: []const u8,
    comptime offset: usize,
) !void {
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
    if (Child == u8) return text(out, path, length, offset);
    // Opaque memory (the inside of a tensor map) is reached through `view`.
    if (Child == u64 and length > 8) return;
    if (@typeInfo(Child) != .@"struct") return element(out, path, Child, offset, @sizeOf(Child));
    inline for (comptime std.meta.fieldNames(Child)) |field| {
        const at = offset + @offsetOf(Child, field);
        try element(out, path ++ "_" ++ field, @FieldType(Child, field), at, @sizeOf(Child));
    }
}

/// Bytes hold a text that ends with a zero.
fn text(
    out: *std.Io.Writer,
    comptime path: []const u8,
    comptime length: usize,
    comptime offset: usize,
) !void {
    try out.writeAll("  get ");
    try write_case(out, path, false);
    try out.print("(): string {{\n    return this.textAt({d}, {d});\n  }}\n", .{ offset, length });
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

// ---- records

/// Records lie in arrays of 32-bit integers, where a field is found by its place.
fn records(out: *std.Io.Writer) !void {
    try begin(out, "src/plan/record.gen.ts");
    inline for (structs) |each| {
        if (comptime std.mem.endsWith(u8, each.name, "_record"))
            try places(out, each.name, each.Type);
    }
}

fn places(out: *std.Io.Writer, comptime name: []const u8, comptime Type: type) !void {
    try out.print("\n/** Ints of a `struct fb_{s}`. */\nexport const ", .{name});
    try write_case(out, name, false);
    try out.print("Ints = {d};\n\n", .{@sizeOf(Type) / 4});
    try out.writeAll("/** Where its fields lie among them. */\nexport const ");
    try write_case(out, name ++ "_field", true);
    try out.writeAll(" = {\n");
    inline for (comptime std.meta.fieldNames(Type)) |field| {
        if (comptime std.mem.startsWith(u8, field, "reserved")) continue;
        if (@FieldType(Type, field) != i32)
            @compileError(name ++ "." ++ field ++ ": a record holds 32-bit integers");
        try out.writeAll("  ");
        try write_case(out, field, false);
        try out.print(": {d},\n", .{@offsetOf(Type, field) / 4});
    }
    try out.writeAll("} as const;\n");
}

// ---- for both

/// Padding would carry garbage across the border: reserved fields must name it.
fn require_no_padding(comptime name: []const u8, comptime Type: type) void {
    var end: usize = 0;
    for (std.meta.fieldNames(Type)) |field| {
        if (@offsetOf(Type, field) != end)
            @compileError("fb_" ++ name ++ " has padding before " ++ field);
        end += @sizeOf(@FieldType(Type, field));
    }
    if (end != @sizeOf(Type)) @compileError("fb_" ++ name ++ " has padding at its end");
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

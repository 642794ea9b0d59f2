//! Bytecode of an attention variant: its numbers, and what makes a program safe to run. Programs
//! come from src/variant/emit-bytecode.ts, which has the same numbers.
const std = @import("std");
const params = @import("params");
const simd = @import("../simd.zig");
const pointers = @import("../pointers.zig");
const Matrix = @import("matrix.zig").Matrix;

/// Words of a program before its instructions, and of an instruction.
const header_words = 42;
const magic = 0x31564246;

pub const registers_max = 256;
/// Words of each row, key and element: inputs first, then what the program keeps.
pub const row_words_max = 96;
pub const key_words_max = 64;
pub const element_words_max = 32;

/// What every program finds in registers 0 and 1: x, and -1 for pairs that see each other.
pub const x_register = 0;
pub const visible_register = 1;

/// Inputs of rows; positions [low, high] are visible.
pub const Row = enum(u32) {
    low,
    high,
    query,
    query_token,
    query_index,
    request,
    head,
    kv_head,
    query_length,
    kv_length,
    lse,
};
pub const row_inputs = std.enums.values(Row).len;

/// Inputs of keys.
pub const Key = enum(u32) { key, slot };
pub const key_inputs = std.enums.values(Key).len;
/// The only input of elements is their index.
pub const element_inputs = 1;

/// Parts of a program. Once per pass: uniform, elements, rows; once per block of keys: keys. The
/// others leave their result in register x, but visible in its own. Those called before are of rows
/// that a matrix multiplies then.
pub const Section = enum(u32) {
    uniform,
    elements,
    rows,
    keys,
    visible,
    logits,
    query,
    key,
    value,
    output,
    before_query,
    before_output,
};
const section_count = std.enums.values(Section).len;

/// Operations on whole registers; _f: f32, _i: i32 or bool, which is 0 or -1.
pub const Op = enum(u32) {
    constant, // a: bits
    scalar, // a: index
    row, // a: word
    key,
    element,
    keep, // word `to` of the section's own axis = a
    load, // a: tensor, b to e: indices
    store, // a: value, b: tensor, c to f: indices; where visible
    reduce_sum,
    reduce_max,
    partner, // b: elements that take part, negative for neighbours
    copy,
    mul_add, // a * b + c
    add_f,
    sub_f,
    mul_f,
    div_f,
    mod_f,
    min_f,
    max_f,
    pow,
    neg_f,
    abs_f,
    floor,
    exp,
    log,
    tanh,
    sigmoid,
    sqrt,
    rsqrt,
    sin,
    cos,
    to_f,
    to_i,
    lt_f,
    le_f,
    eq_f,
    ne_f,
    add_i,
    sub_i,
    mul_i,
    div_i,
    mod_i,
    min_i,
    max_i,
    neg_i,
    abs_i,
    lt_i,
    le_i,
    eq_i,
    ne_i,
    @"and",
    @"or",
    xor,
    not,
    shl,
    shr,
    select,

    /// Registers that an operation on lanes reads: a, b, c.
    pub fn arity(op: Op) usize {
        return switch (op) {
            .constant, .scalar, .row, .key, .element, .load => 0,
            .mul_add, .select => 3,
            .keep, .store, .reduce_sum, .reduce_max, .partner, .copy => 1,
            .neg_f, .abs_f, .floor, .exp, .log, .tanh, .sigmoid, .sqrt, .rsqrt, .sin, .cos => 1,
            .to_f, .to_i, .neg_i, .abs_i, .not => 1,
            else => 2,
        };
    }
};

pub const Instruction = extern struct {
    op: Op,
    to: u32,
    a: u32,
    b: u32,
    c: u32,
    d: u32,
    e: u32,
    f: u32,
};

/// A tensor of the variant.
pub const Tensor = struct {
    data: u64,
    kind: simd.Dtype,
    axes: usize,
    sizes: *const [params.FB_VARIANT_AXES]i32,
    strides: *const [params.FB_VARIANT_AXES]i32,
};

const Header = extern struct {
    magic: u32,
    flags: packed struct(u32) { weighs: bool, stores: bool, rest: u30 },
    registers: u32,
    row_words: u32,
    key_words: u32,
    element_words: u32,
    /// Register, after uniform, of what scale * q.k is multiplied by; 0: nothing.
    score_factor: u32,
    tensors: u32,
    /// Dtype, and axes << 8.
    tensor: [params.FB_VARIANT_TENSORS]u32,
    /// First instruction and their count.
    sections: [section_count][2]u32,
    /// Tensors that rows of queries and of outputs are multiplied by; -1: none.
    matrices: [2]i32,
};

comptime {
    std.debug.assert(@sizeOf(Header) == header_words * 4);
}

/// Rows that a matrix may multiply.
pub const Side = enum(u32) { query, output };

/// A program that was found safe.
pub const Program = struct {
    given: *const params.fb_variant,
    header: *const Header,

    pub const Error = error{BadProgram};

    /// Looks at every word of a program; what it accepts stays within its registers, tables and
    /// tensors, whatever it computes.
    pub fn open(given: *const params.fb_variant) Error!Program {
        const words = given.program_words;
        if (given.program % 4 != 0 or words < header_words) return error.BadProgram;
        const header = &pointers.items(Header, given.program)[0];
        const p: Program = .{ .given = given, .header = header };
        try must(header.magic == magic and header.registers >= 2);
        try must(header.registers <= registers_max and header.score_factor < header.registers);
        try must(header.row_words >= row_inputs and header.row_words <= row_words_max);
        try must(header.key_words >= key_inputs and header.key_words <= key_words_max);
        try must(header.element_words >= element_inputs);
        try must(header.element_words <= element_words_max);
        try must(header.tensors <= params.FB_VARIANT_TENSORS);
        for (0..header.tensors) |i| try p.check_tensor(i);
        for (header.matrices) |index| try p.check_matrix(index);
        const count = (@as(u32, @intCast(words)) - header_words) / 8;
        for (std.enums.values(Section)) |s| {
            const first, const length = header.sections[@backingInt(s)];
            try must(first <= count and length <= count - first);
            for (p.section(s)) |*i| try p.check(s, i);
        }
        return p;
    }

    pub fn section(p: *const Program, which: Section) []const Instruction {
        const first, const length = p.header.sections[@backingInt(which)];
        return pointers.items(Instruction, p.given.program + header_words * 4)[first..][0..length];
    }

    pub fn has(p: *const Program, which: Section) bool {
        return p.header.sections[@backingInt(which)][1] > 0;
    }

    pub fn tensor(p: *const Program, index: usize) Tensor {
        const bits = p.header.tensor[index];
        const at = index * params.FB_VARIANT_AXES;
        return .{
            .data = p.given.data[index],
            .kind = @fromBackingInt(@intCast(bits & 0xff)),
            .axes = bits >> 8,
            .sizes = p.given.sizes[at..][0..params.FB_VARIANT_AXES],
            .strides = p.given.strides[at..][0..params.FB_VARIANT_AXES],
        };
    }

    /// What rows of queries or of outputs are multiplied by.
    pub fn matrix(p: *const Program, side: Side) ?Matrix {
        const index = p.header.matrices[@backingInt(side)];
        return if (index < 0) null else .{ .tensor = p.tensor(@intCast(index)) };
    }

    fn check_matrix(p: *const Program, index: i32) Error!void {
        if (index == -1) return;
        try must(index >= 0 and index < p.header.tensors);
        const t = p.tensor(@intCast(index));
        try must(t.axes == 2 or t.axes == 3);
        try must(t.kind != .i32 and t.kind != .u8 and t.kind != .bool);
    }

    fn check_tensor(p: *const Program, index: usize) Error!void {
        const kind = std.enums.fromInt(simd.Dtype, p.header.tensor[index] & 0xff);
        try must(kind != null and kind != .i8 and kind != .i64);
        const t = p.tensor(index);
        try must(t.data != 0 and t.axes <= params.FB_VARIANT_AXES);
        for (t.sizes[0..t.axes]) |size| try must(size > 0);
    }

    fn check(p: *const Program, s: Section, i: *const Instruction) Error!void {
        const h = p.header;
        const op = std.enums.fromInt(Op, @as(*const u32, @ptrCast(&i.op)).*) orelse
            return error.BadProgram;
        const operands = [_]u32{ i.a, i.b, i.c };
        for (operands[0..op.arity()]) |r| try must(r < h.registers);
        switch (op) {
            .scalar => try must(i.a < params.FB_VARIANT_SCALARS),
            .row => try must(i.a < h.row_words),
            .key => try must(i.a < h.key_words),
            .element => try must(i.a < h.element_words),
            .keep => return must(p.keeps(s, i.to)),
            .load => try p.check_indices(i.a, &.{ i.b, i.c, i.d, i.e }),
            .store => {
                try must(s == .logits and h.flags.stores);
                try p.check_indices(i.b, &.{ i.c, i.d, i.e, i.f });
            },
            .partner => try must(i.to != i.a),
            else => {},
        }
        try must(i.to < h.registers);
    }

    fn check_indices(p: *const Program, index: u32, indices: *const [4]u32) Error!void {
        try must(index < p.header.tensors);
        for (indices[0 .. p.header.tensor[index] >> 8]) |r| try must(r < p.header.registers);
    }

    /// Whether a section may write a word of its axis: what it adds, and the bounds of rows.
    fn keeps(p: *const Program, s: Section, word: u32) bool {
        return switch (s) {
            .rows => word < p.header.row_words and (word >= row_inputs or
                word <= @backingInt(Row.high)),
            .keys => word < p.header.key_words and word >= key_inputs,
            .elements => word < p.header.element_words and word >= element_inputs,
            else => false,
        };
    }
};

fn must(right: bool) Program.Error!void {
    if (!right) return error.BadProgram;
}

//! Products by cuBLASLt, NVIDIA's library, which is opened at run time where one is asked for. Its
//! names and numbers are those of cublasLt.h in the PyPI packages nvidia-cublas-cu12 12.4.5.8 and
//! nvidia-cublas 13.1.0.3, which agree, and whose libraries have all of these functions.
//!
//! Its matrices are column by column: a row of ours is a column of theirs, and out = x weight^T is
//! D = A^T B + C with the weight as A, x as B, the residual as C and out as D.
const std = @import("std");
const params = @import("params");
const driver = @import("driver.zig");
const lock = @import("../lock.zig");
const open_file = @import("../open.zig");
const status_file = @import("../status.zig");
const Stream = @import("stream.zig").Stream;
const Product = params.struct_fb_matmul_params;
const Fn = driver.Fn;
const fail = status_file.fail;

const allocator = std.heap.c_allocator;

const Result = c_int;
const success = 0;
const alloc_failed = 3;
const arch_mismatch = 8;
const not_supported = 15;

const Handle = *opaque {};
const Description = *opaque {};
const Layout = *opaque {};
const Preference = *opaque {};
const Algorithm = extern struct { data: [8]u64 };
const Choice = extern struct {
    algorithm: Algorithm,
    workspace_bytes: usize,
    state: Result,
    waves: f32,
    reserved: [4]c_int,
};

const Value = *const anyopaque;

const Functions = struct {
    cublasLtGetVersion: *const fn () callconv(.c) usize,
    cublasLtGetStatusName: *const fn (Result) callconv(.c) ?[*:0]const u8,
    cublasLtCreate: Fn(.{*?Handle}),
    cublasLtDestroy: Fn(.{Handle}),
    /// Type of the sums, type of alpha and beta.
    cublasLtMatmulDescCreate: Fn(.{ *?Description, c_int, c_int }),
    cublasLtMatmulDescDestroy: Fn(.{Description}),
    cublasLtMatmulDescSetAttribute: Fn(.{ Description, c_int, Value, usize }),
    /// Type, rows, columns, elements from one column to the next.
    cublasLtMatrixLayoutCreate: Fn(.{ *?Layout, c_int, u64, u64, i64 }),
    cublasLtMatrixLayoutDestroy: Fn(.{Layout}),
    cublasLtMatmulPreferenceCreate: Fn(.{*?Preference}),
    cublasLtMatmulPreferenceDestroy: Fn(.{Preference}),
    cublasLtMatmulPreferenceSetAttribute: Fn(.{ Preference, c_int, Value, usize }),
    cublasLtMatmulAlgoGetHeuristic: Fn(.{
        Handle, Description, Layout, Layout,  Layout,
        Layout, Preference,  c_int,  *Choice, *c_int,
    }),
    /// Alpha, A, B, beta, C, D, the algorithm, the workspace and its bytes.
    cublasLtMatmul: Fn(.{
        Handle, Description, *const f32, u64,    Layout,           u64, Layout, *const f32,
        u64,    Layout,      u64,        Layout, *const Algorithm, u64, usize,  driver.Stream,
    }),
};

const oldest_version = 120000;
const compute_f32 = 68;
const type_f32 = 0;
const epilogue_bias: u32 = 4;
const transposed: i32 = 1;
/// Sums of parts of the inputs are added in f32, not rounded to the result's type before.
const reduced_in_f32: u32 = 2;

const attribute = struct {
    const transpose_a = 3;
    const epilogue = 7;
    const bias = 8;
    const scale_a = 17;
    const scale_b = 18;
    const bias_type = 26;
};
const preference = struct {
    const workspace_bytes = 1;
    const reductions = 3;
    /// Of A; then B, C and D.
    const alignment = 5;
};

var api: Functions = undefined;
/// 0 before it was opened.
var version: i32 = 0;
var opening: lock.Mutex = .{};

/// out: its version, as in 130100 for 13.1.0.
pub fn open(path: [*:0]const u8, out: *i32) i32 {
    opening.lock();
    defer opening.unlock();
    if (version == 0) {
        const library = open_file.library(path) orelse return status_file.last_failure().status;
        if (open_file.functions(Functions, library, &api)) |missing| {
            return fail(.unsupported, "{s} is no cuBLASLt: it lacks {s}", .{ path, missing });
        }
        const found = std.math.cast(i32, api.cublasLtGetVersion()) orelse 0;
        if (found < oldest_version) {
            const sentence = "{s} is older than 12.0, its version is {d}";
            return fail(.unsupported, sentence, .{ path, found });
        }
        version = found;
    }
    out.* = version;
    return 0;
}

const Failure = error{ Refused, OutOfMemory };

/// What was refused is the thread's last failure.
fn call(comptime function: []const u8, arguments: anytype) Failure!void {
    const result = @call(.auto, @field(api, function), arguments);
    if (result != success) return refuse(function, result);
}

fn refuse(function: []const u8, result: Result) Failure {
    const name = std.mem.span(api.cublasLtGetStatusName(result) orelse "unknown");
    const kind: status_file.Status = switch (result) {
        alloc_failed => .out_of_memory,
        arch_mismatch, not_supported => .unsupported,
        else => .system,
    };
    _ = fail(kind, "{s}: {s} ({d})", .{ function, name, result });
    return error.Refused;
}

/// Sets one attribute to a value of its own size.
fn set(comptime function: []const u8, object: anytype, which: c_int, value: anytype) Failure!void {
    try call(function, .{ object, which, &value, @sizeOf(@TypeOf(value)) });
}

const describe = "cublasLtMatmulDescSetAttribute";
const prefer = "cublasLtMatmulPreferenceSetAttribute";

/// What the choice of an algorithm depends on, of one tensor.
const Matrix = struct {
    dtype: i32 = -1,
    stride: i64 = 0,
    alignment: u32 = 0,

    fn of(address: u64, dtype: i32, stride: i64) Matrix {
        if (address == 0) return .{};
        // Algorithms ask for 256 bytes at most.
        const alignment = @as(u32, 1) << @intCast(@min(8, @ctz(address)));
        return .{ .dtype = dtype, .stride = stride, .alignment = alignment };
    }

    fn layout(matrix: Matrix, rows: i32, columns: i32) Failure!Layout {
        var made: ?Layout = null;
        // A single column has no distance to the next, and it must not be shorter than a column.
        const distance = if (columns == 1) @max(matrix.stride, rows) else matrix.stride;
        const size = .{ @as(u64, @intCast(rows)), @as(u64, @intCast(columns)) };
        const kind = try type_of(matrix.dtype);
        try call("cublasLtMatrixLayoutCreate", .{ &made, kind, size[0], size[1], distance });
        return made.?;
    }
};

/// CUDA's number of an element type.
fn type_of(dtype: i32) Failure!c_int {
    return switch (dtype) {
        params.FB_F32 => type_f32,
        params.FB_F16 => 2,
        params.FB_BF16 => 14,
        params.FB_F8E4M3 => 28,
        params.FB_F8E5M2 => 29,
        else => {
            _ = fail(.unsupported, "cuBLASLt takes no elements of dtype {d}", .{dtype});
            return error.Refused;
        },
    };
}

fn is_fp8(dtype: i32) bool {
    return dtype == params.FB_F8E4M3 or dtype == params.FB_F8E5M2;
}

/// Products of one shape are made alike.
const Shape = struct {
    rows: i32,
    outputs: i32,
    inputs: i32,
    weight: Matrix,
    x: Matrix,
    residual: Matrix,
    out: Matrix,
    bias: Matrix,
    workspace_bytes: u64,

    fn of(product: *const Product, workspace_bytes: u64) Shape {
        const p = product;
        return .{
            .rows = p.row_count,
            .outputs = p.outputs,
            .inputs = p.inputs,
            .weight = .of(p.weight, p.weight_dtype, p.weight_stride),
            .x = .of(p.x, p.x_dtype, p.x_stride),
            .residual = .of(p.residual, p.residual_dtype, p.residual_stride),
            .out = .of(p.out, p.out_dtype, p.out_stride),
            .bias = .of(p.bias, p.bias_dtype, 1),
            .workspace_bytes = workspace_bytes,
        };
    }
};

/// How products of a shape are made.
const Plan = struct {
    description: ?Description = null,
    /// Of A, B, C and D.
    layouts: [4]?Layout = @splat(null),
    algorithm: Algorithm = undefined,

    fn create(handle: Handle, shape: Shape, product: *const Product) Failure!Plan {
        var plan: Plan = .{};
        errdefer plan.destroy();
        try call("cublasLtMatmulDescCreate", .{ &plan.description, compute_f32, type_f32 });
        try set(describe, plan.description.?, attribute.transpose_a, transposed);
        if (shape.bias.dtype >= 0) {
            try set(describe, plan.description.?, attribute.epilogue, epilogue_bias);
            const kind = try type_of(shape.bias.dtype);
            try set(describe, plan.description.?, attribute.bias_type, kind);
        }
        const c = if (shape.residual.dtype >= 0) shape.residual else shape.out;
        plan.layouts[0] = try shape.weight.layout(shape.inputs, shape.outputs);
        plan.layouts[1] = try shape.x.layout(shape.inputs, shape.rows);
        plan.layouts[2] = try c.layout(shape.outputs, shape.rows);
        plan.layouts[3] = try shape.out.layout(shape.outputs, shape.rows);
        try plan.aim(product);
        const alignments = [4]u32{
            shape.weight.alignment, shape.x.alignment, c.alignment, shape.out.alignment,
        };
        try plan.choose(handle, alignments, shape.workspace_bytes);
        return plan;
    }

    /// The fastest algorithm, as cuBLASLt guesses.
    fn choose(plan: *Plan, handle: Handle, alignments: [4]u32, bytes: u64) Failure!void {
        var made: ?Preference = null;
        try call("cublasLtMatmulPreferenceCreate", .{&made});
        const wanted = made.?;
        defer _ = api.cublasLtMatmulPreferenceDestroy(wanted);
        try set(prefer, wanted, preference.workspace_bytes, bytes);
        try set(prefer, wanted, preference.reductions, reduced_in_f32);
        for (alignments, 0..) |alignment, i| {
            try set(prefer, wanted, preference.alignment + @as(c_int, @intCast(i)), alignment);
        }
        const function = "cublasLtMatmulAlgoGetHeuristic";
        var choice: Choice = undefined;
        var count: c_int = 0;
        const a, const b, const c, const d = plan.layouts;
        try call(function, .{
            handle, plan.description.?, a.?, b.?, c.?, d.?, wanted, 1, &choice, &count,
        });
        if (count < 1) return refuse(function, not_supported);
        if (choice.state != success) return refuse(function, choice.state);
        plan.algorithm = choice.algorithm;
    }

    /// Says where what is no matrix lies.
    fn aim(plan: *const Plan, product: *const Product) Failure!void {
        const description = plan.description.?;
        if (product.bias != 0) try set(describe, description, attribute.bias, product.bias);
        if (!is_fp8(product.x_dtype)) return;
        try set(describe, description, attribute.scale_a, product.scales);
        try set(describe, description, attribute.scale_b, product.x_scales);
    }

    fn destroy(plan: *Plan) void {
        for (plan.layouts) |layout| {
            if (layout) |made| _ = api.cublasLtMatrixLayoutDestroy(made);
        }
        if (plan.description) |made| _ = api.cublasLtMatmulDescDestroy(made);
    }
};

/// Shapes that are remembered; with one more all are forgotten.
const plans_most = 4096;

/// A device's handle, and its plans.
pub const Products = struct {
    mutex: lock.Mutex = .{},
    handle: ?Handle = null,
    plans: std.AutoHashMapUnmanaged(Shape, Plan) = .empty,

    /// The plan of a shape, which is made when it first comes.
    fn plan_of(products: *Products, product: *const Product, bytes: u64) Failure!*const Plan {
        const shape: Shape = .of(product, bytes);
        if (products.plans.getPtr(shape)) |known| return known;
        if (products.handle == null) try call("cublasLtCreate", .{&products.handle});
        if (products.plans.count() >= plans_most) products.forget();
        try products.plans.ensureUnusedCapacity(allocator, 1);
        const plan: Plan = try .create(products.handle.?, shape, product);
        products.plans.putAssumeCapacity(shape, plan);
        return products.plans.getPtr(shape).?;
    }

    fn run(
        products: *Products,
        product: *const Product,
        workspace: u64,
        bytes: u64,
        stream: driver.Stream,
    ) Failure!void {
        const plan = try products.plan_of(product, bytes);
        try plan.aim(product);
        const adds = product.residual != 0;
        const alpha: f32 = 1;
        const beta: f32 = if (adds) 1 else 0;
        const a, const b, const c, const d = plan.layouts;
        const added = if (adds) product.residual else product.out;
        try call("cublasLtMatmul", .{
            products.handle.?, plan.description.?, &alpha,      product.weight,
            a.?,               product.x,          b.?,         &beta,
            added,             c.?,                product.out, d.?,
            &plan.algorithm,   workspace,          bytes,       stream,
        });
    }

    fn forget(products: *Products) void {
        var each = products.plans.valueIterator();
        while (each.next()) |plan| plan.destroy();
        products.plans.clearRetainingCapacity();
    }

    /// Nothing that it queued may run any more.
    pub fn deinit(products: *Products) void {
        products.forget();
        products.plans.deinit(allocator);
        if (products.handle) |handle| _ = api.cublasLtDestroy(handle);
    }
};

/// Queues a product of dense or fp8 operands, with bias and residual; `workspace` is the stream's.
pub fn multiply(stream: *Stream, product: *const Product, workspace: u64, bytes: u64) i32 {
    if (version == 0) return fail(.not_found, "no cuBLASLt is open", .{});
    const device = stream.device;
    if (stream.refuses(.capturable)) |status| return status;
    inline for (.{ "row_count", "outputs", "inputs", "weight", "x", "out" }) |name| {
        const given = @field(product, name);
        if (given < 1) return fail(.invalid_argument, "{s} must be 1 or more", .{name});
    }
    // Its kernels go to the thread's context, whose ever that is.
    device.make_current();
    const products = &device.products;
    products.mutex.lock();
    defer products.mutex.unlock();
    products.run(product, workspace, bytes, stream.native) catch |cause| return switch (cause) {
        error.Refused => status_file.last_failure().status,
        error.OutOfMemory => status_file.out_of_host_memory(),
    };
    device.last_launched.store("cublasLtMatmul", .monotonic);
    return stream.submitted(driver.success);
}

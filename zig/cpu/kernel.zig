//! What a kernel of the CPU device is: the levels make them, the runtime runs them.

/// Scratch memory of a thread, which every call of a kernel may use. Its first eight bytes are 0
/// before the first item that a thread takes of a launch, for kernels that keep what is there for
/// the next ones.
pub const scratch_bytes = 4 << 20;

/// What run() returns where an index tensor leads out of its target.
pub const leads_out: i32 = 3;

/// What an exchange between ranks returns where one did not come in time, and where one is gone.
pub const rank_late: i32 = 20;
pub const rank_lost: i32 = 21;

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

    /// The kernel of a function over its parameters.
    pub fn of(
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
};

/// The kernels of one level.
pub const Table = extern struct { kernels: [*]const Kernel, count: usize };

//! One-byte breakpoints in this process's own code, x86-64.
const std = @import("std");
const system = @import("system.zig");
const linux = std.os.linux;

pub const instruction = 0xcc;

/// The registers that a handler may change, in libc's `ucontext_t`.
pub const Context = struct {
    registers: *[23]u64,

    const first = 40;
    const stack_pointer = 15;
    const instruction_pointer = 16;
    const first_argument = 8;

    pub fn of(context: *anyopaque) Context {
        return .{ .registers = @ptrFromInt(@intFromPtr(context) + first) };
    }

    /// Where the breakpoint was: the processor is just past it.
    pub fn address(context: Context) usize {
        return context.registers[instruction_pointer] - 1;
    }

    pub fn resume_at(context: Context, where: usize) void {
        context.registers[instruction_pointer] = where;
    }

    /// Does what the instruction `ret` does.
    pub fn return_to_caller(context: Context) void {
        const top: *const usize = @ptrFromInt(context.registers[stack_pointer]);
        context.registers[instruction_pointer] = top.*;
        context.registers[stack_pointer] += @sizeOf(usize);
    }

    pub fn argument(context: Context) u64 {
        return context.registers[first_argument];
    }
};

/// Makes the pages of [start, end) writable beside what code needs.
pub fn unlock(start: usize, end: usize) bool {
    return protect(start, end, .{ .READ = true, .WRITE = true, .EXEC = true });
}

/// Takes that back.
pub fn lock(start: usize, end: usize) bool {
    return protect(start, end, .{ .READ = true, .EXEC = true });
}

fn protect(start: usize, end: usize, protection: linux.PROT) bool {
    const first = std.mem.alignBackward(usize, start, system.page_bytes);
    const last = std.mem.alignForward(usize, end, system.page_bytes);
    return system.value(linux.mprotect(@ptrFromInt(first), last - first, protection)) != null;
}

/// Other threads may be running the code: they see the one byte or the other.
pub fn write(address: usize, byte: u8) void {
    @atomicStore(u8, @as(*u8, @ptrFromInt(address)), byte, .seq_cst);
}

/// Puts a breakpoint that stays.
pub fn place(address: usize) bool {
    if (!unlock(address, address + 1)) return false;
    write(address, instruction);
    return lock(address, address + 1);
}

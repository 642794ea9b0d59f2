//! Calls that wait for other processes, and an end to the waiting.
const std = @import("std");
const lock = @import("../lock.zig");

const Call = *const fn () c_int;

/// One thread, started when first needed, that makes all calls: MPI wants to end where it began.
pub const Caller = struct {
    mutex: lock.Mutex = .{},
    asked: lock.Condition = .{},
    runs: bool = false,
    call: ?Call = null,
    result: ?c_int = null,

    /// What the call returned; null when it has not within so long, and then nothing is called any
    /// more.
    pub fn within(caller: *Caller, timeout_ms: i32, call: Call) !?c_int {
        caller.mutex.lock();
        defer caller.mutex.unlock();
        if (!caller.runs) {
            const thread = try std.Thread.spawn(.{}, serve, .{caller});
            thread.detach();
            caller.runs = true;
        }
        caller.result = null;
        caller.call = call;
        caller.asked.signal();
        var left = timeout_ms;
        while (caller.result == null and left > 0) : (left -= 1) {
            caller.mutex.unlock();
            const millisecond: std.c.timespec = .{ .sec = 0, .nsec = std.time.ns_per_ms };
            _ = nanosleep(&millisecond, null);
            caller.mutex.lock();
        }
        return caller.result;
    }

    fn serve(caller: *Caller) void {
        caller.mutex.lock();
        while (true) {
            const call = caller.call orelse {
                caller.asked.wait(&caller.mutex);
                continue;
            };
            caller.call = null;
            caller.mutex.unlock();
            const result = call();
            caller.mutex.lock();
            caller.result = result;
        }
    }
};

extern "c" fn nanosleep(wanted: *const std.c.timespec, left: ?*std.c.timespec) c_int;

//! The CPU device's threads: streams are ordered queues, launches are items that threads take from
//! a counter.
//!
//! Any idle thread leads the next ready stream and publishes its launch; the others help until the
//! counter runs out. So one slow core delays only the item that it holds.
const std = @import("std");
const lock = @import("../../lock.zig");
const kernels = @import("../kernel.zig");
const Stream = @import("stream.zig").Stream;

const allocator = std.heap.c_allocator;

/// A running launch. It lives on its leader's stack until no helper is left in it.
pub const Job = struct {
    kernel: *const kernels.Kernel,
    params: *const anyopaque,
    grid: u32,
    next: std.atomic.Value(u32) = .init(0),
    status: std.atomic.Value(i32) = .init(0),
    /// Changed under the pool's mutex.
    helpers: std.atomic.Value(u32) = .init(0),
    following: ?*Job = null,

    fn work(job: *Job, scratch: [*]align(64) u8) void {
        @as(*u64, @ptrCast(scratch)).* = 0;
        while (true) {
            const index = job.next.fetchAdd(1, .monotonic);
            if (index >= job.grid) return;
            const status = job.kernel.run(job.params, index, scratch);
            if (status == 0) continue;
            _ = job.status.cmpxchgStrong(0, status, .monotonic, .monotonic);
            job.next.store(job.grid, .monotonic);
            return;
        }
    }
};

/// Looks of a thread for what comes next before it sleeps, some 40 ns each: the launches of a step
/// follow each other faster than a sleeping thread wakes.
const looks_most = 1000;

pub const Pool = struct {
    mutex: lock.Mutex = .{},
    work: lock.Condition = .{},
    idle: lock.Condition = .{},
    jobs: ?*Job = null,
    ready_first: ?*Stream = null,
    ready_last: ?*Stream = null,
    stopping: bool = false,
    sleeping: u32 = 0,
    /// Threads that lead a stream.
    leaders: u32 = 0,
    /// Counts what was published.
    news: std.atomic.Value(u32) = .init(0),
    threads: []std.Thread = &.{},
    scratch: []align(64) u8 = &.{},

    pub fn start(pool: *Pool, count: usize) !void {
        pool.scratch = try allocator.alignedAlloc(u8, .@"64", count * kernels.scratch_bytes);
        errdefer allocator.free(pool.scratch);
        const threads = try allocator.alloc(std.Thread, count);
        var started: usize = 0;
        errdefer {
            pool.threads = threads[0..started];
            pool.join();
            allocator.free(threads);
        }
        while (started < count) : (started += 1) {
            const scratch: [*]align(64) u8 =
                @alignCast(pool.scratch.ptr + started * kernels.scratch_bytes);
            const stack: std.Thread.SpawnConfig = .{ .stack_size = 1 << 20 };
            threads[started] = try std.Thread.spawn(stack, run, .{ pool, scratch });
        }
        pool.threads = threads;
    }

    /// Every stream must be drained.
    pub fn stop(pool: *Pool) void {
        pool.join();
        allocator.free(pool.threads);
        allocator.free(pool.scratch);
    }

    fn join(pool: *Pool) void {
        pool.mutex.lock();
        pool.stopping = true;
        pool.work.broadcast();
        pool.mutex.unlock();
        for (pool.threads) |thread| thread.join();
    }

    /// Puts a stream that has work behind the others. Holds the mutex.
    pub fn make_ready(pool: *Pool, stream: *Stream) void {
        stream.following = null;
        if (pool.ready_last) |last| last.following = stream else pool.ready_first = stream;
        pool.ready_last = stream;
        _ = pool.news.fetchAdd(1, .release);
        if (pool.sleeping > 0) pool.work.signal();
    }

    /// Runs every item of a launch on this thread and all that are idle; returns the first failure
    /// or 0.
    pub fn launch(
        pool: *Pool,
        kernel: *const kernels.Kernel,
        params: *const anyopaque,
        grid: u32,
        scratch: [*]align(64) u8,
    ) i32 {
        var job: Job = .{ .kernel = kernel, .params = params, .grid = grid };
        if (grid <= 1 or pool.threads.len == 1) {
            job.work(scratch);
            return job.status.load(.monotonic);
        }
        pool.mutex.lock();
        job.following = pool.jobs;
        pool.jobs = &job;
        _ = pool.news.fetchAdd(1, .release);
        if (pool.sleeping > 0) pool.work.broadcast();
        pool.mutex.unlock();
        job.work(scratch);
        pool.mutex.lock();
        defer pool.mutex.unlock();
        pool.unlink(&job);
        if (job.helpers.load(.monotonic) > 0) {
            pool.mutex.unlock();
            var looks: u32 = 0;
            while (looks < looks_most and job.helpers.load(.acquire) > 0) : (looks += 1)
                std.atomic.spinLoopHint();
            pool.mutex.lock();
        }
        while (job.helpers.load(.monotonic) > 0) pool.idle.wait(&pool.mutex);
        return job.status.load(.monotonic);
    }

    fn unlink(pool: *Pool, job: *Job) void {
        var at = &pool.jobs;
        while (at.*) |candidate| : (at = &candidate.following) {
            if (candidate != job) continue;
            at.* = job.following;
            return;
        }
    }

    fn open_job(pool: *Pool) ?*Job {
        var at = pool.jobs;
        while (at) |job| : (at = job.following) {
            if (job.next.load(.monotonic) < job.grid) return job;
        }
        return null;
    }

    /// Waits a moment for something to be published, without the mutex, which is held before and
    /// after. False: nothing was.
    fn look(pool: *Pool) bool {
        const seen = pool.news.load(.monotonic);
        pool.mutex.unlock();
        var looks: u32 = 0;
        while (looks < looks_most and pool.news.load(.acquire) == seen) : (looks += 1)
            std.atomic.spinLoopHint();
        pool.mutex.lock();
        return pool.stopping or pool.news.load(.monotonic) != seen;
    }

    fn run(pool: *Pool, scratch: [*]align(64) u8) void {
        lower_priority();
        pool.mutex.lock();
        defer pool.mutex.unlock();
        while (true) {
            if (pool.open_job()) |job| {
                _ = job.helpers.fetchAdd(1, .monotonic);
                pool.mutex.unlock();
                job.work(scratch);
                pool.mutex.lock();
                if (job.helpers.fetchSub(1, .release) == 1) pool.idle.broadcast();
            } else if (pool.ready_first) |stream| {
                pool.ready_first = stream.following;
                if (pool.ready_first == null) pool.ready_last = null;
                pool.leaders += 1;
                stream.drain(scratch);
                pool.leaders -= 1;
            } else if (pool.stopping) {
                return;
            } else if (pool.leaders == 0 or !pool.look()) {
                pool.sleeping += 1;
                pool.work.wait(&pool.mutex);
                pool.sleeping -= 1;
            }
        }
    }
};

/// Kernels yield to the thread that serves requests.
fn lower_priority() void {
    if (@import("builtin").os.tag != .linux) return;
    const which_thread = 0;
    _ = std.os.linux.syscall3(.setpriority, which_thread, 0, 10);
}

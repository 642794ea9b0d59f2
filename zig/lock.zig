//! A mutex and a condition over libc's pthreads: no Io interface has to be carried around.
const std = @import("std");

pub const Mutex = struct {
    inner: std.c.pthread_mutex_t = .{},

    pub fn lock(mutex: *Mutex) void {
        _ = std.c.pthread_mutex_lock(&mutex.inner);
    }

    pub fn unlock(mutex: *Mutex) void {
        _ = std.c.pthread_mutex_unlock(&mutex.inner);
    }
};

pub const Condition = struct {
    inner: std.c.pthread_cond_t = .{},

    pub fn wait(condition: *Condition, mutex: *Mutex) void {
        _ = std.c.pthread_cond_wait(&condition.inner, &mutex.inner);
    }

    pub fn signal(condition: *Condition) void {
        _ = std.c.pthread_cond_signal(&condition.inner);
    }

    pub fn broadcast(condition: *Condition) void {
        _ = std.c.pthread_cond_broadcast(&condition.inner);
    }
};

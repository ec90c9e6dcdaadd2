//! A mutex and a condition variable that any native thread may use: foreign threads have no Zig runtime state.

const std = @import("std");
const linux = std.os.linux;

pub const Mutex = struct {
    inner: std.c.pthread_mutex_t = .{},

    pub fn lock(self: *Mutex) void {
        // Fails only for a mutex that is not initialised or already owned: a bug of ours, never a caller's or a device's.
        std.debug.assert(std.c.pthread_mutex_lock(&self.inner) == .SUCCESS);
    }

    pub fn unlock(self: *Mutex) void {
        std.debug.assert(std.c.pthread_mutex_unlock(&self.inner) == .SUCCESS);
    }
};

pub const Condition = struct {
    inner: std.c.pthread_cond_t = .{},

    pub fn wait(self: *Condition, mutex: *Mutex) void {
        std.debug.assert(std.c.pthread_cond_wait(&self.inner, &mutex.inner) == .SUCCESS);
    }

    pub fn broadcast(self: *Condition) void {
        std.debug.assert(std.c.pthread_cond_broadcast(&self.inner) == .SUCCESS);
    }
};

/// What makes a piece of a plan end early: its user, or another piece that failed.
pub const Interrupt = struct {
    cancelled: *const std.atomic.Value(bool),
    failed: ?*const std.atomic.Value(bool) = null,

    pub fn check(self: Interrupt) error{Aborted}!void {
        const failed = if (self.failed) |flag| flag.load(.acquire) else false;
        if (failed or self.cancelled.load(.acquire)) return error.Aborted;
    }
};

/// Waits while `word` is `value`, for at most `timeout_ns`; may return early for no reason.
pub fn waitWhile(word: *const std.atomic.Value(u32), value: u32, timeout_ns: u64) void {
    const timeout: linux.timespec = .{ .sec = @intCast(timeout_ns / std.time.ns_per_s), .nsec = @intCast(timeout_ns % std.time.ns_per_s) };
    _ = linux.futex_4arg(&word.raw, .{ .cmd = .WAIT, .private = true }, value, &timeout);
}

/// Wakes every thread in `waitWhile` on `word`.
pub fn wakeAll(word: *const std.atomic.Value(u32)) void {
    _ = linux.futex_3arg(&word.raw, .{ .cmd = .WAKE, .private = true }, std.math.maxInt(i32));
}

/// Nanoseconds of the monotonic clock.
pub fn now() u64 {
    var time: std.c.timespec = undefined;
    if (std.c.clock_gettime(.MONOTONIC, &time) != 0) return 0;
    return @as(u64, @intCast(time.sec)) * std.time.ns_per_s + @as(u64, @intCast(time.nsec));
}

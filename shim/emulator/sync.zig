//! Mutex and condition over pthreads. Foreign threads enter this library, so nothing here depends on who created a
//! thread, and Zig's standard library has no blocking mutex for such threads.

const std = @import("std");
const clock = @import("clock.zig");

pub const Mutex = struct {
    inner: std.c.pthread_mutex_t = .{},

    // The calls below fail only for a mutex that was never initialised or is not held, which no caller can cause.
    pub fn lock(self: *Mutex) void {
        _ = std.c.pthread_mutex_lock(&self.inner);
    }

    pub fn unlock(self: *Mutex) void {
        _ = std.c.pthread_mutex_unlock(&self.inner);
    }
};

const ConditionAttributes = extern struct { data: [64]u8 align(8) = @splat(0) };
extern "c" fn pthread_condattr_init(*ConditionAttributes) c_int;
extern "c" fn pthread_condattr_setclock(*ConditionAttributes, c_int) c_int;
extern "c" fn pthread_condattr_destroy(*ConditionAttributes) c_int;
extern "c" fn pthread_cond_init(*std.c.pthread_cond_t, *const ConditionAttributes) c_int;

const clock_monotonic: c_int = 1;

pub const Condition = struct {
    inner: std.c.pthread_cond_t = .{},

    /// Needed before `waitUntil` only. The default clock of a condition is the wall clock, which users can set.
    pub fn useMonotonicClock(self: *Condition) void {
        var attributes: ConditionAttributes = .{};
        _ = pthread_condattr_init(&attributes);
        _ = pthread_condattr_setclock(&attributes, clock_monotonic);
        _ = pthread_cond_init(&self.inner, &attributes);
        _ = pthread_condattr_destroy(&attributes);
    }

    pub fn wait(self: *Condition, mutex: *Mutex) void {
        _ = std.c.pthread_cond_wait(&self.inner, &mutex.inner);
    }

    /// Returns on a wake-up, a spurious one included, or when `deadline` (see clock.zig) has passed.
    pub fn waitUntil(self: *Condition, mutex: *Mutex, deadline: u64) void {
        const time: std.c.timespec = .{
            .sec = @intCast(deadline / std.time.ns_per_s),
            .nsec = @intCast(deadline % std.time.ns_per_s),
        };
        _ = std.c.pthread_cond_timedwait(&self.inner, &mutex.inner, &time);
    }

    pub fn signal(self: *Condition) void {
        _ = std.c.pthread_cond_signal(&self.inner);
    }

    pub fn broadcast(self: *Condition) void {
        _ = std.c.pthread_cond_broadcast(&self.inner);
    }

    pub fn destroy(self: *Condition) void {
        _ = std.c.pthread_cond_destroy(&self.inner);
    }
};

test "Condition.waitUntil returns when its deadline passes" {
    var mutex: Mutex = .{};
    var condition: Condition = .{};
    condition.useMonotonicClock();
    defer condition.destroy();
    const deadline = clock.afterMilliseconds(5);
    mutex.lock();
    defer mutex.unlock();
    while (clock.now() < deadline) condition.waitUntil(&mutex, deadline);
    try std.testing.expect(clock.now() >= deadline);
}

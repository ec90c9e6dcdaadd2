//! Lock, condition and clock over pthreads: Zig's standard library no longer has a blocking mutex, and the threads that
//! enter this library are foreign ones, so nothing here may depend on who created them.

const std = @import("std");
const linux = std.os.linux;

pub const Mutex = struct {
    inner: std.c.pthread_mutex_t = .{},

    // The calls below fail only for a mutex that was never initialised or is not held, which no caller can bring about.
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

    /// Needed before `waitUntil` only: the default clock of a condition is the one that users set.
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

    /// Returns on a wake-up, a spurious one included, or when `deadline` (see `now`) has passed.
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

/// Monotonic nanoseconds.
pub fn now() u64 {
    var time: linux.timespec = undefined;
    if (linux.errno(linux.clock_gettime(.MONOTONIC, &time)) != .SUCCESS) return 0;
    return @as(u64, @intCast(time.sec)) * std.time.ns_per_s + @as(u64, @intCast(time.nsec));
}

pub fn afterMilliseconds(milliseconds: u32) u64 {
    return now() + @as(u64, milliseconds) * std.time.ns_per_ms;
}

pub fn sleepMilliseconds(milliseconds: u32) void {
    const time: linux.timespec = .{ .sec = milliseconds / 1000, .nsec = (milliseconds % 1000) * std.time.ns_per_ms };
    _ = linux.nanosleep(&time, null);
}

/// Ends up to `sleep_slack` late, which does not matter to a thread whose work is scheduled in advance.
pub fn sleepUntil(deadline: u64) void {
    while (true) {
        const left = deadline -| now();
        if (left == 0) return;
        const time: linux.timespec = .{ .sec = @intCast(left / std.time.ns_per_s), .nsec = @intCast(left % std.time.ns_per_s) };
        _ = linux.nanosleep(&time, null);
    }
}

const sleep_slack = 200 * std.time.ns_per_us;

/// Ends on time: the last stretch is spent awake, as a call into a driver would spend it.
pub fn waitUntil(deadline: u64) void {
    sleepUntil(deadline -| sleep_slack);
    while (now() < deadline) std.atomic.spinLoopHint();
}

test "a timed wait ends at its deadline" {
    var mutex: Mutex = .{};
    var condition: Condition = .{};
    condition.useMonotonicClock();
    defer condition.destroy();
    const deadline = afterMilliseconds(5);
    mutex.lock();
    defer mutex.unlock();
    while (now() < deadline) condition.waitUntil(&mutex, deadline);
    try std.testing.expect(now() >= deadline);
}

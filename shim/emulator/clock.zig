//! The monotonic clock in nanoseconds, and ways to sleep until a time.

const std = @import("std");
const linux = std.os.linux;

/// Monotonic nanoseconds, or 0 without a clock.
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

/// Returns up to `sleep_slack` late. A stream's thread can afford that, as its copies are scheduled in advance.
pub fn sleepUntil(deadline: u64) void {
    while (true) {
        const left = deadline -| now();
        if (left == 0) return;
        const time: linux.timespec = .{
            .sec = @intCast(left / std.time.ns_per_s),
            .nsec = @intCast(left % std.time.ns_per_s),
        };
        _ = linux.nanosleep(&time, null);
    }
}

const sleep_slack = 200 * std.time.ns_per_us;

/// Returns on time: the last stretch is a busy wait, like a call into a driver.
pub fn spinUntil(deadline: u64) void {
    sleepUntil(deadline -| sleep_slack);
    while (now() < deadline) std.atomic.spinLoopHint();
}

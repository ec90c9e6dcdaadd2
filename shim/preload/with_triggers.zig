//! The preload library with triggers for tests, which no shipped library has: they sleep and wake without a controller.

const core = @import("core");
const start = @import("start.zig");
const touch = @import("touch.zig");

comptime {
    _ = @import("exports.zig");
}

/// Offloads everything. 0, or a `Status`; -1 where nothing was awake.
pub export fn camem_trigger_sleep() c_int {
    return run(.offload);
}

pub export fn camem_trigger_wake() c_int {
    return run(.restore);
}

fn run(action: core.plans.Action) c_int {
    const session = start.current() orelse return -2;
    const attempt = touch.runOnAll(session, action);
    if (attempt.other) return -1;
    return @intFromEnum(attempt.err orelse .ok);
}

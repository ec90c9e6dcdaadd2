//! How the wake-ups went that the library began by itself.

const core = @import("core");
const Failure = core.status.Failure;

var mutex: core.sync.Mutex = .{};

pub const Outcome = struct {
    wakes: u64 = 0,
    failed: u64 = 0,
    /// Of the last one.
    status: core.status.Status = .ok,
    failure: Failure = .{},
};

var outcome: Outcome = .{};

pub fn last() Outcome {
    mutex.lock();
    defer mutex.unlock();
    return outcome;
}

pub fn note(status: core.status.Status, failure: *const Failure) void {
    {
        mutex.lock();
        defer mutex.unlock();
        outcome.wakes += 1;
        if (status != .ok) outcome.failed += 1;
        outcome.status = status;
        outcome.failure = failure.*;
    }
    core.control_server.announceChange();
}

/// In a child of fork().
pub fn forget() void {
    mutex = .{};
    outcome = .{};
}

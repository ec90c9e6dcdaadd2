//! Wake-ups that the library begins by itself: one at a time, and with a pause after a failure.

const std = @import("std");
const core = @import("core");
const Failure = core.status.Failure;
const Status = core.status.Status;

pub const Outcome = struct {
    wakes: u64 = 0,
    /// Of the last one.
    status: Status = .ok,
    failure: Failure = .{},
};

/// After a failure, how long until the next attempt: doubled each time up to the longest.
const first_pause_ns = 500 * std.time.ns_per_ms;
const longest_pause_ns = 30 * std.time.ns_per_s;

const State = struct {
    outcome: Outcome = .{},
    is_running: bool = false,
    pause_ns: u64 = first_pause_ns,
    next_attempt_ns: u64 = 0,
};

var mutex: core.sync.Mutex = .{};
var state: State = .{};

/// True where the caller is to wake everything now, and to report by `end`.
pub fn begin() bool {
    mutex.lock();
    defer mutex.unlock();
    if (state.is_running or core.sync.now() < state.next_attempt_ns) return false;
    state.is_running = true;
    return true;
}

/// The wake-up that `begin` allowed has ended; null where another plan ran instead.
pub fn end(ended: ?Status, failure: *const Failure) void {
    note(ended, failure);
    core.control_server.announceChange();
}

fn note(ended: ?Status, failure: *const Failure) void {
    mutex.lock();
    defer mutex.unlock();
    state.is_running = false;
    const status = ended orelse return;
    state.outcome = .{ .wakes = state.outcome.wakes + 1, .status = status, .failure = failure.* };
    if (status == .ok) {
        state.pause_ns = first_pause_ns;
        state.next_attempt_ns = 0;
        return;
    }
    state.next_attempt_ns = core.sync.now() + state.pause_ns;
    state.pause_ns = @min(2 * state.pause_ns, longest_pause_ns);
}

pub fn last() Outcome {
    mutex.lock();
    defer mutex.unlock();
    return state.outcome;
}

/// In a child of fork().
pub fn forget() void {
    mutex = .{};
    state = .{};
}

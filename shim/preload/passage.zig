//! The way of a call through the gate: what happens when it cannot pass at once.

const std = @import("std");
const contexts = @import("contexts.zig");
const core = @import("core");
const gate = @import("gate.zig");
const start = @import("start.zig");
const termination = @import("termination.zig");
const touch = @import("touch.zig");

/// True when a call may go on until `leave`; false when it must fail.
pub inline fn enter() bool {
    return gate.tryEnter() or enterSlowly();
}

pub inline fn leave() void {
    gate.leave();
}

/// Returns once no plan moves a segment. A plan that waits for the call that this thread is in would wait forever: it
/// is withdrawn.
pub fn waitWhileMoving(session: *core.session.Session, address: u64, segment_id: u64) void {
    if (gate.isInside()) session.executor.cancelRunning();
    core.program_memory.waitWhileMoving(&session.registry, address, segment_id);
}

/// Returns once no plan moves memory; false where the process ends first. Withdraws a plan that waits for the call that
/// this thread is in.
pub fn waitForPlan(session: *core.session.Session) bool {
    while (gate.stateNow() == .moving) {
        if (gate.isInside()) session.executor.cancelRunning();
        if (gate.isEnding()) return false;
        gate.waitForChange(gate.word());
    }
    return true;
}

/// How long calls are held back by a plan that waits for the device. What the device waits for may be one of them.
const longest_hold_ns = 5 * std.time.ns_per_s;

/// A plan that waits for a capture waits for the calls that belong to it.
fn giveWay(since_ns: u64) void {
    const session = start.current() orelse return;
    if (contexts.isCapturing() or core.sync.now() -| since_ns > longest_hold_ns) session.executor.withdrawWaiting();
}

fn enterSlowly() bool {
    while (!gate.tryEnter()) {
        if (gate.stateOf(gate.word()) == .unstarted) {
            _ = start.session();
        } else if (!waitUntilOpen()) return false;
    }
    return true;
}

/// Waits while memory moves or is asleep. False when the caller must fail instead.
pub fn waitUntilOpen() bool {
    // First, so that a signal reaches every call that counts as waiting.
    termination.beginWait();
    defer termination.endWait();
    gate.beginWait();
    defer gate.endWait();
    const since_ns = core.sync.now();
    while (true) {
        const seen = gate.word();
        switch (gate.stateOf(seen)) {
            .unstarted, .open => return true,
            .moving => giveWay(since_ns),
            .asleep => if (!touch.touched(gate.isTerminating())) return false,
        }
        if (gate.isEnding()) return false;
        gate.waitForChange(seen);
    }
}

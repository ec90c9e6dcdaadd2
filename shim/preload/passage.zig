//! The way of a call through the gate: what happens when it cannot pass at once.

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
    while (true) {
        const seen = gate.word();
        switch (gate.stateOf(seen)) {
            .unstarted, .open => return true,
            .moving => {},
            .asleep => if (!touch.touched(gate.isTerminating())) return false,
        }
        if (gate.isEnding()) return false;
        gate.waitForChange(seen);
    }
}

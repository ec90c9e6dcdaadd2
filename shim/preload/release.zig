//! Gives segments of the program back, on its own threads: at once, also while they are asleep.

const std = @import("std");
const core = @import("core");
const contexts = @import("contexts.zig");
const gate = @import("gate.zig");
const memory = @import("memory.zig");
const Failure = core.status.Failure;
const Session = core.session.Session;

/// Releases the memory of a record that was taken out of the table, and the record.
pub fn releaseBlock(session: *Session, block: *memory.Block) void {
    defer memory.destroy(block);
    const segment = block.detached orelse return release(session, block.start, block.segment_id);
    var failure: Failure = .{};
    if (contexts.isIdle(&session.runtime, segment.device)) {
        if (session.memory.giveBack(segment, &failure)) return session.registry.destroy(segment) else |err| ignore(err);
    }
    session.registry.keep(segment);
    session.executor.requestSweep();
}

/// Releases a segment that the program has let go of. What a plan moves, what the device may still use, and what
/// AscendCL refuses is released later, by the library's thread.
pub fn release(session: *Session, address: u64, segment_id: u64) void {
    const segment = (session.registry.doom(address, segment_id, .waits) catch return) orelse return;
    const had_backup = segment.content.backup() != null;
    if (!segment.mapped or contexts.isIdle(&session.runtime, segment.device)) {
        var failure: Failure = .{};
        if (session.memory.giveBack(segment, &failure)) {
            session.registry.destroy(segment);
            if (had_backup) session.trimHost();
            return gate.settleAfterFree(session);
        } else |err| ignore(err);
    }
    _ = session.registry.stopMoving(segment);
    session.executor.requestSweep();
    gate.settleAfterFree(session);
}

/// The library's thread tries again.
fn ignore(_: core.status.Error) void {}

/// Waits until released memory is back, so that an allocation can have it. False when nothing was waited for.
pub fn waitForReleases(session: *Session) bool {
    if (!session.registry.hasDoomed()) return false;
    const deadline_ns = core.sync.now() + longest_wait_ns;
    while (session.registry.hasDoomed() and core.sync.now() < deadline_ns) {
        session.executor.requestSweep();
        core.sync.sleep(std.time.ns_per_ms);
    }
    return true;
}

const longest_wait_ns = 2 * std.time.ns_per_s;

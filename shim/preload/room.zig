//! Room for an allocation that does not fit.

const core = @import("core");
const gate = @import("gate.zig");
const passage = @import("passage.zig");
const release = @import("release.zig");
const Session = core.session.Session;

/// An allocation waits for a plan, then for what it has released, then for what is asleep.
pub const most_attempts = 3;

/// Makes room for an allocation, as far as that can be done now. False when the memory that is missing is not there.
pub fn make(session: *Session) bool {
    // A plan releases at its end what was freed meanwhile.
    if (gate.stateNow() == .moving) return passage.waitForPlan(session);
    if (session.registry.hasDoomed()) return release.waitForReleases(session);
    // The memory may be with those for whom this program sleeps: it needs it back.
    return gate.isAsleep() and passage.waitUntilOpen();
}

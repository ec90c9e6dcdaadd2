//! What a scope leaves on a thread that had no context.

const acl = @import("acl");
const status = @import("status.zig");
const sync = @import("sync.zig");

/// The context that a scope left current on this thread because it had found none, and the session that it is of. It
/// may die with a reset of its device, and what AscendCL then says is current is not documented, so it is never put
/// back after that.
pub const LeftBehind = struct {
    context: sync.PerThread,
    session: sync.PerThread,

    var process: ?LeftBehind = null;

    /// Called while attaching, which one thread does at a time.
    pub fn ofProcess() status.Error!LeftBehind {
        if (process) |known| return known;
        const context: sync.PerThread = try .create();
        errdefer context.delete();
        const created: LeftBehind = .{ .context = context, .session = try .create() };
        process = created;
        return created;
    }

    pub fn note(self: LeftBehind, context: acl.Context, session: u64) status.Error!void {
        try self.context.set(0); // no earlier context passes as this session's
        try self.session.set(session);
        try self.context.set(@intFromPtr(context));
    }

    /// The context may have died just now: it is of no session any more.
    pub fn markDead(self: LeftBehind, context: acl.Context) void {
        if (self.context.get() == @intFromPtr(context)) self.session.set(0) catch return; // which needs no memory
    }

    /// Whether `context` is what an earlier session left on this thread.
    pub fn isDead(self: LeftBehind, context: acl.Context, session: u64) bool {
        return self.context.get() == @intFromPtr(context) and self.session.get() != session;
    }
};

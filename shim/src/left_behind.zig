//! The primary context that a scope left current on this thread because it had found none, its device, and the session
//! that it is of. It may die with a reset of its device, and what AscendCL then says is current is not documented, so
//! it is put back after that only where somebody else keeps it alive.

const acl = @import("acl");
const status = @import("status.zig");
const sync = @import("sync.zig");

pub const LeftBehind = struct {
    /// Of a context that is dead already.
    pub const no_session = 0;

    context: sync.PerThread,
    device: sync.PerThread,
    session: sync.PerThread,

    var process: ?LeftBehind = null;

    /// Called while attaching, which one thread does at a time.
    pub fn ofProcess() status.Error!LeftBehind {
        if (process) |known| return known;
        const context: sync.PerThread = try .create();
        errdefer context.delete();
        const device: sync.PerThread = try .create();
        errdefer device.delete();
        const created: LeftBehind = .{ .context = context, .device = device, .session = try .create() };
        process = created;
        return created;
    }

    pub fn note(self: LeftBehind, context: acl.Context, device: u32, session: u64) status.Error!void {
        try self.context.set(0); // no earlier context passes as this session's
        try self.device.set(device);
        try self.session.set(session);
        try self.context.set(@intFromPtr(context));
    }

    /// The device of `context` where it is what an earlier session left on this thread.
    pub fn staleDevice(self: LeftBehind, context: acl.Context, session: u64) ?u32 {
        if (self.context.get() != @intFromPtr(context) or self.session.get() == session) return null;
        return @intCast(self.device.get());
    }
};

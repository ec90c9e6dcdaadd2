//! Waits for a whole device. AscendCL reports the failure of queued work once, to whoever waits first. A wait for the
//! device also takes the failures of streams that others are about to wait for. Copies ask here whether theirs may have
//! been among them: content must not count as copied because a free on another thread heard of the failure instead.

const std = @import("std");
const acl = @import("acl");
const Library = @import("loader.zig").Library;
const status = @import("status.zig");
const sync = @import("sync.zig");
const Failure = status.Failure;

/// Of one device. Any thread may call all of it.
pub const DeviceWaits = struct {
    /// How many failures waits have returned, and the code of the latest.
    taken: std.atomic.Value(u64) = .init(0),
    /// Its lowest bit says which of `running` counts the waits that begin now.
    round: std.atomic.Value(u32) = .init(0),
    running: [2]std.atomic.Value(u32) = @splat(.init(0)),
    /// Plans whose copies run.
    copying: std.atomic.Value(u32) = .init(0),

    /// Before a wait. The caller passes the result to `end`.
    pub fn begin(self: *DeviceWaits) u1 {
        while (true) {
            const round = self.round.load(.seq_cst);
            const side: u1 = @truncate(round);
            _ = self.running[side].fetchAdd(1, .seq_cst);
            if (self.round.load(.seq_cst) == round) return side;
            _ = self.running[side].fetchSub(1, .seq_cst);
        }
    }

    /// After a wait that returned `failed`, or null where it returned no failure of queued work.
    pub fn end(self: *DeviceWaits, side: u1, failed: ?acl.Error) void {
        if (failed) |code| self.note(code);
        _ = self.running[side].fetchSub(1, .seq_cst);
    }

    fn note(self: *DeviceWaits, code: acl.Error) void {
        var before = self.taken.load(.seq_cst);
        while (true) {
            const count: u32 = @truncate(before >> 32);
            const after = @as(u64, count +% 1) << 32 | @as(u32, @bitCast(code));
            before = self.taken.cmpxchgWeak(before, after, .seq_cst, .seq_cst) orelse return;
        }
    }

    /// Waits for at most `timeout_ms` until the device of the current context has finished the work of all streams.
    /// False when it has not. An AscendCL without `aclrtSynchronizeDeviceWithTimeout` waits until it has.
    pub fn wait(self: *DeviceWaits, library: *const Library, timeout_ms: i32, failure: *Failure) status.Error!bool {
        const api = &library.api;
        const side = self.begin();
        const call, const code = if (api.aclrtSynchronizeDeviceWithTimeout) |withTimeout|
            .{ "aclrtSynchronizeDeviceWithTimeout", withTimeout(timeout_ms) }
        else
            .{ "aclrtSynchronizeDevice", api.aclrtSynchronizeDevice() };
        const has_failed = status.isFailedWait(code);
        self.end(side, if (has_failed) code else null);
        if (has_failed) try library.check(call, code, 0, 0, failure);
        return code != acl.code.rt_stream_sync_timeout;
    }

    /// Copies of ours begin, and end with `endCopies`.
    pub fn beginCopies(self: *DeviceWaits) void {
        _ = self.copying.fetchAdd(1, .seq_cst);
    }

    pub fn endCopies(self: *DeviceWaits) void {
        _ = self.copying.fetchSub(1, .seq_cst);
    }

    /// Whether failures that a wait takes may be those of our copies.
    pub fn isCopying(self: *const DeviceWaits) bool {
        return self.copying.load(.seq_cst) > 0;
    }

    /// What `failureSince` is to compare with.
    pub fn mark(self: *const DeviceWaits) u64 {
        return self.taken.load(.seq_cst);
    }

    /// The latest failure that a wait has taken since `before`; null when there was none. Includes waits that run now,
    /// for which it waits, and fails as they may have after `patience_ns`. One caller at a time.
    pub fn failureSince(self: *DeviceWaits, before: u64, patience_ns: u64) ?acl.Error {
        const deadline_ns = sync.now() +| patience_ns;
        const side: u1 = @truncate(self.round.fetchAdd(1, .seq_cst));
        while (self.running[side].load(.seq_cst) > 0) {
            if (sync.now() >= deadline_ns) return acl.code.rt_stream_sync_timeout;
            std.Thread.yield() catch continue;
        }
        const after = self.taken.load(.seq_cst);
        if (after == before) return null;
        const code: u32 = @truncate(after);
        return @bitCast(code);
    }
};

test "failureSince returns what a wait has taken, also one that runs meanwhile" {
    var waits: DeviceWaits = .{};
    const before = waits.mark();
    try std.testing.expectEqual(null, waits.failureSince(before, 0));
    const first = waits.begin();
    try std.testing.expectEqual(acl.code.rt_stream_sync_timeout, waits.failureSince(before, 1));
    const second = waits.begin();
    waits.end(first, null);
    waits.end(second, 507011);
    try std.testing.expectEqual(507011, waits.failureSince(before, 0));
    try std.testing.expectEqual(null, waits.failureSince(waits.mark(), 0));
}

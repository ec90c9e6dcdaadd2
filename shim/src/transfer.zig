//! Copies the content of segments between device and host, in bounded pieces over a device's streams, and reports success
//! only once every piece has arrived.

const std = @import("std");
const acl = @import("acl");
const registry = @import("registry.zig");
const runtime = @import("runtime.zig");
const status = @import("status.zig");
const Failure = status.Failure;
const Segment = registry.Segment;

pub const Direction = enum {
    to_host,
    to_device,

    fn kind(self: Direction) c_int {
        return switch (self) {
            .to_host => acl.MemcpyKind.device_to_host,
            .to_device => acl.MemcpyKind.host_to_device,
        };
    }
};

/// Bytes given to a stream before it is waited for. Small enough to follow progress and to cancel, large enough that the
/// wait does not count.
const batch_bytes = 64 << 20;

pub const Observer = struct {
    bytes_done: *std.atomic.Value(u64),
    cancelled: *const std.atomic.Value(bool),
    /// Set when a copy failed and it could not be made sure that the others have ended.
    unsettled: *bool,
};

const Lane = struct { stream: acl.Stream, queued_bytes: u64 = 0 };

/// Copies each of `segments`, all of them on `device`. When it fails, no copy of it is running any more, unless `unsettled`
/// says so: then neither side of any copy may be given back before the device was waited for.
/// Called on the executor's thread inside a `Scope` of the device.
pub fn run(rt: *runtime.Runtime, device: u32, segments: []const *Segment, direction: Direction, observer: Observer, failure: *Failure) status.Error!void {
    const streams = try rt.streamsOf(device, failure);
    var lanes: [runtime.streams_per_device]Lane = undefined;
    for (&lanes, streams) |*lane, stream| lane.* = .{ .stream = stream };
    var copy: Copy = .{ .runtime = rt, .lanes = &lanes, .observer = observer, .failure = failure };
    errdefer copy.abandon();
    for (segments) |segment| try copy.segment(segment, direction);
    for (&lanes) |*lane| try copy.wait(lane);
}

const Copy = struct {
    runtime: *runtime.Runtime,
    lanes: []Lane,
    current: usize = 0,
    observer: Observer,
    failure: *Failure,

    fn segment(self: *Copy, source: *const Segment, direction: Direction) status.Error!void {
        const device: [*]u8 = @ptrCast(source.pointer());
        const host: [*]u8 = @ptrCast(source.backup.?);
        var offset: u64 = 0;
        while (offset < source.size_bytes) {
            const lane = try self.laneWithRoom();
            const length = @min(source.size_bytes - offset, batch_bytes - lane.queued_bytes);
            const target, const origin = switch (direction) {
                .to_host => .{ host + offset, device + offset },
                .to_device => .{ device + offset, host + offset },
            };
            const code = self.runtime.library.api.aclrtMemcpyAsync(target, length, origin, length, direction.kind(), lane.stream);
            try self.runtime.check("aclrtMemcpyAsync", code, source.address + offset, length, self.failure);
            lane.queued_bytes += length;
            offset += length;
        }
    }

    /// The lane being filled, or the next one once that is full and the next one's copies have arrived.
    fn laneWithRoom(self: *Copy) status.Error!*Lane {
        if (self.lanes[self.current].queued_bytes < batch_bytes) return &self.lanes[self.current];
        self.current = (self.current + 1) % self.lanes.len;
        if (self.observer.cancelled.load(.acquire)) return error.Aborted;
        try self.wait(&self.lanes[self.current]);
        return &self.lanes[self.current];
    }

    fn wait(self: *Copy, lane: *Lane) status.Error!void {
        if (lane.queued_bytes == 0) return;
        const code = self.runtime.library.api.aclrtSynchronizeStream(lane.stream);
        if (!status.isSynchronizeNotice(code))
            try self.runtime.check("aclrtSynchronizeStream", code, 0, lane.queued_bytes, self.failure);
        _ = self.observer.bytes_done.fetchAdd(lane.queued_bytes, .monotonic);
        lane.queued_bytes = 0;
    }

    /// After a failure: waits for what is still queued, whose outcome no longer matters.
    fn abandon(self: *Copy) void {
        const api = &self.runtime.library.api;
        for (self.lanes) |lane| {
            if (hasEnded(api.aclrtSynchronizeStream(lane.stream))) continue;
            if (!hasEnded(api.aclrtSynchronizeDevice())) self.observer.unsettled.* = true;
        }
    }

    fn hasEnded(code: acl.Error) bool {
        return code == acl.code.success or status.isSynchronizeNotice(code);
    }
};

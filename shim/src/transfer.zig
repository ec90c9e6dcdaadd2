//! Copies the content of segments between one device and where their backups are, in bounded pieces over the device's
//! streams, and reports success only once every piece has arrived. Content in files goes through page-locked staging.

const std = @import("std");
const acl = @import("acl");
const backup = @import("backup.zig");
const files = @import("files.zig");
const host = @import("host.zig");
const registry = @import("registry.zig");
const runtime = @import("runtime.zig");
const status = @import("status.zig");
const sync = @import("sync.zig");
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

/// Bytes given to a stream before it is waited for: what was measured fastest, of 2 to 64 MiB and of 1 to 3 streams
/// (docs/performance.md). Often enough to follow progress and to cancel.
const batch_bytes = 64 << 20;

/// Page-locked memory for content that goes to a file or comes from one, for each stream, or none.
pub const Staging = [runtime.streams_per_device][]host.Extent;
pub const no_staging: Staging = @splat(&.{});
pub const staging_bytes_per_stream = 16 << 20;

pub const Observer = struct {
    bytes_done: *std.atomic.Value(u64),
    interrupt: sync.Interrupt,
    /// Set when a copy failed and it could not be made sure that the others have ended: then neither side of any copy may be
    /// given back before the device was waited for.
    unsettled: *std.atomic.Value(bool),
};

/// Content that has been copied to staging and is to be written to its file once it is there.
const Write = struct { file: *const files.File, memory: [*]u8, file_offset_bytes: u64, size_bytes: u64 };

const Lane = struct {
    stream: acl.Stream,
    queued_bytes: u64 = 0,
    staging: []const host.Extent = &.{},
    /// The next free byte of `staging`: an extent and an offset in it.
    extent: usize = 0,
    extent_offset: u64 = 0,
    writes: std.ArrayList(Write) = .empty,

    /// Free staging memory in one piece; empty when all is in use until the lane has been waited for.
    fn room(self: *Lane) []u8 {
        while (self.extent < self.staging.len) {
            const extent = self.staging[self.extent];
            if (self.extent_offset < extent.sizeBytes())
                return extent.memory()[self.extent_offset..extent.sizeBytes()];
            self.extent += 1;
            self.extent_offset = 0;
        }
        return &.{};
    }
};

/// The copies of one plan on one device. Used by one thread inside a `Scope` of the device; ends with `finish`, or after any
/// failure with `abandon`, and then with `deinit`.
pub const Copier = struct {
    runtime: *runtime.Runtime,
    direction: Direction,
    lanes: [runtime.streams_per_device]Lane,
    current: usize = 0,
    observer: Observer,
    failure: *Failure,

    /// There has to be `staging` where content is in a file.
    pub fn init(rt: *runtime.Runtime, device: u32, direction: Direction, staging: *const Staging, observer: Observer, failure: *Failure) status.Error!Copier {
        const streams = try rt.streamsOf(device, failure);
        var copier: Copier = .{ .runtime = rt, .direction = direction, .lanes = undefined, .observer = observer, .failure = failure };
        for (&copier.lanes, streams, staging) |*lane, stream, share| lane.* = .{ .stream = stream, .staging = share };
        return copier;
    }

    /// Queues the copies of one segment's content. The event that they have arrived is `finish`.
    pub fn copy(self: *Copier, segment: *const Segment) status.Error!void {
        var pieces = segment.backup.pieces(segment.size_bytes);
        while (pieces.next()) |piece| {
            switch (piece.place) {
                .memory => |memory| try self.copyDirectly(segment, piece, memory),
                .file_offset_bytes => |offset| try self.copyThroughStaging(segment, piece, offset),
            }
        }
    }

    fn copyDirectly(self: *Copier, segment: *const Segment, piece: backup.Piece, memory: [*]u8) status.Error!void {
        var done: u64 = 0;
        while (done < piece.size_bytes) {
            const lane = try self.laneWithRoom(.direct);
            const length = @min(piece.size_bytes - done, batch_bytes - lane.queued_bytes);
            try self.enqueue(lane, segment.address + piece.segment_offset_bytes + done, memory + done, length);
            done += length;
        }
    }

    fn copyThroughStaging(self: *Copier, segment: *const Segment, piece: backup.Piece, file_offset_bytes: u64) status.Error!void {
        const file = segment.backup.file.file;
        var done: u64 = 0;
        while (done < piece.size_bytes) {
            const lane = try self.laneWithRoom(.staged);
            const room = lane.room();
            const length = @min(piece.size_bytes - done, room.len);
            const file_offset = file_offset_bytes + done;
            if (self.direction == .to_device) try file.read(room.ptr, length, file_offset, self.failure);
            try self.enqueue(lane, segment.address + piece.segment_offset_bytes + done, room.ptr, length);
            if (self.direction == .to_host)
                try rememberWrite(lane, .{ .file = file, .memory = room.ptr, .file_offset_bytes = file_offset, .size_bytes = length });
            lane.extent_offset += length;
            done += length;
        }
    }

    fn enqueue(self: *Copier, lane: *Lane, address: u64, memory: [*]u8, length: u64) status.Error!void {
        const device: *anyopaque = @ptrFromInt(address);
        const target: *anyopaque, const origin: *anyopaque = switch (self.direction) {
            .to_host => .{ memory, device },
            .to_device => .{ device, memory },
        };
        const code = self.runtime.library.api.aclrtMemcpyAsync(target, length, origin, length, self.direction.kind(), lane.stream);
        try self.runtime.check("aclrtMemcpyAsync", code, address, length, self.failure);
        lane.queued_bytes += length;
    }

    /// Joined with the one before where both sides go on, so that writes are as large as staging allows.
    fn rememberWrite(lane: *Lane, write: Write) status.Error!void {
        if (lane.writes.items.len > 0) {
            const last = &lane.writes.items[lane.writes.items.len - 1];
            const goes_on = last.file == write.file and last.memory + last.size_bytes == write.memory and
                last.file_offset_bytes + last.size_bytes == write.file_offset_bytes;
            if (goes_on) {
                last.size_bytes += write.size_bytes;
                return;
            }
        }
        lane.writes.append(registry.allocator, write) catch return error.OutOfHostMemory;
    }

    /// The lane being filled, or the next one once that is full and the next one's copies have arrived.
    fn laneWithRoom(self: *Copier, way: enum { direct, staged }) status.Error!*Lane {
        const lane = &self.lanes[self.current];
        if (lane.queued_bytes < batch_bytes and (way == .direct or lane.room().len > 0)) return lane;
        self.current = (self.current + 1) % self.lanes.len;
        try self.observer.interrupt.check();
        const next = &self.lanes[self.current];
        try self.wait(next);
        return next;
    }

    fn wait(self: *Copier, lane: *Lane) status.Error!void {
        if (lane.queued_bytes > 0) {
            const code = self.runtime.library.api.aclrtSynchronizeStream(lane.stream);
            if (!status.isSynchronizeNotice(code))
                try self.runtime.check("aclrtSynchronizeStream", code, 0, lane.queued_bytes, self.failure);
            for (lane.writes.items) |write|
                try write.file.write(write.memory, write.size_bytes, write.file_offset_bytes, self.failure);
        }
        _ = self.observer.bytes_done.fetchAdd(lane.queued_bytes, .monotonic);
        lane.writes.clearRetainingCapacity();
        lane.queued_bytes = 0;
        lane.extent = 0;
        lane.extent_offset = 0;
    }

    /// Waits until everything has arrived.
    pub fn finish(self: *Copier) status.Error!void {
        for (0..self.lanes.len) |step| try self.wait(&self.lanes[(self.current + 1 + step) % self.lanes.len]);
    }

    /// After a failure: waits for what is still queued, whose outcome no longer matters.
    pub fn abandon(self: *Copier) void {
        const api = &self.runtime.library.api;
        for (self.lanes) |lane| {
            if (hasEnded(api.aclrtSynchronizeStream(lane.stream))) continue;
            if (!hasEnded(api.aclrtSynchronizeDevice())) self.observer.unsettled.store(true, .release);
        }
    }

    pub fn deinit(self: *Copier) void {
        for (&self.lanes) |*lane| lane.writes.deinit(registry.allocator);
    }

    fn hasEnded(code: acl.Error) bool {
        return code == acl.code.success or status.isSynchronizeNotice(code);
    }
};

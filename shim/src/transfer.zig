//! Copies the content of segments between one device and where their backups are, in bounded pieces over the device's
//! streams, and reports success only once every piece has arrived. Content in files and in pageable memory goes through
//! page-locked staging.

const std = @import("std");
const acl = @import("acl");
const backups = @import("backup.zig");
const heap = @import("heap.zig");
const host = @import("host.zig");
const Order = @import("order.zig").Order;
const runtime = @import("runtime.zig");
const Segment = @import("segment.zig").Segment;
const status = @import("status.zig");
const sync = @import("sync.zig");
const Failure = status.Failure;
const Outcome = status.Outcome;

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

/// Bytes given to a stream before it is waited for: less towards the end, so that the streams end together. Chosen by
/// measurement (docs/performance.md); often enough to follow progress and to cancel.
const largest_batch_bytes = 32 << 20;
const smallest_batch_bytes = 4 << 20;

/// Page-locked memory for content that goes to or comes from a file or pageable memory, for each stream, or none.
pub const Staging = [runtime.streams_per_device][]host.Extent;
pub const no_staging: Staging = @splat(&.{});
/// Small, so that data is still in the cache when it is copied (docs/performance.md).
pub const staging_bytes_per_stream = 4 << 20;

/// For other threads' waits for the device, which were about to end: the copies had to wait for the same work.
const device_wait_patience_ns = 2 * std.time.ns_per_s;

/// Bytes read or copied through staging at a time: one piece is copied while the next is read, still in the cache.
const staged_piece_bytes = 1 << 20;

pub const Observer = struct {
    bytes_done: *std.atomic.Value(u64),
    interrupt: sync.Interrupt,
    /// Set when a copy failed and it could not be made sure that the others have ended: then neither side of any copy
    /// may be given back before the device was waited for.
    unsettled: *std.atomic.Value(bool),
    /// Of an ordered wake-up.
    order: ?*Order = null,
};

/// A write of content to its backup, due once its copy to staging has arrived.
const Write = struct { place: backups.Place, memory: [*]u8, size_bytes: u64 };

/// A part of a segment's content, and where its backup is.
const Part = struct { address: u64, size_bytes: u64, place: backups.Place, group: u32 };

/// A segment whose content may be copied, and its group in the plan's order.
const Ready = struct { segment: *const Segment, group: u32 };

/// The copies of one plan on one device. Each stream has a thread that gives it the next part as soon as it has
/// copied the last, so that none waits for another; a small plan has one. The caller `start`s it inside a `Scope` of
/// the device, `add`s segments as they are ready, and ends with `finish`, or after a failure of its own with
/// `abandon`.
pub const Copier = struct {
    runtime: *runtime.Runtime,
    device: u32,
    direction: Direction,
    streams: *const [runtime.streams_per_device]acl.Stream,
    staging: *const Staging,
    observer: Observer,
    mutex: sync.Mutex = .{},
    /// Signalled when a segment is added, and at the end.
    changed: sync.Condition = .{},
    segments: std.ArrayList(Ready) = .empty,
    /// Nothing is added any more.
    closed: bool = false,
    /// A stream's thread, or the caller, has failed: the others end as well.
    failed: bool = false,
    /// Where the next part begins.
    next_segment: usize = 0,
    pieces: ?backups.Pieces = null,
    piece: ?backups.Piece = null,
    /// Bytes not taken yet, including those of segments not added yet.
    remaining_bytes: u64 = 0,
    /// Of the device's waits, before the first copy.
    waits_before: u64 = 0,
    threads: [runtime.streams_per_device - 1]?sync.Thread = @splat(null),
    outcomes: [runtime.streams_per_device]Outcome = @splat(.{}),

    /// Room for `most_segments` of `total_bytes`. Content in a file or in pageable memory needs
    /// `staging`.
    pub fn start(self: *Copier, most_segments: usize, total_bytes: u64, failure: *Failure) status.Error!void {
        self.segments.ensureTotalCapacityPrecise(heap.allocator, most_segments) catch return error.OutOfHostMemory;
        errdefer self.segments.deinit(heap.allocator);
        self.streams = try self.runtime.streamsOf(self.device, failure);
        self.remaining_bytes = total_bytes;
        self.waits_before = self.runtime.device_waits[self.device].mark();
        self.runtime.device_waits[self.device].beginCopies();
        if (total_bytes <= smallest_batch_bytes) return;
        // Without its thread a stream has nothing to do, and the others have more.
        for (&self.threads, 1..) |*thread, lane| thread.* = sync.Thread.spawn(runLane, .{ self, lane }) catch null;
    }

    /// The content of a segment may be copied from now on.
    pub fn add(self: *Copier, segment: *const Segment, group: u32) void {
        self.mutex.lock();
        defer self.mutex.unlock();
        self.segments.appendAssumeCapacity(.{ .segment = segment, .group = group });
        self.changed.broadcast();
    }

    /// Whether nothing that is added will be copied any more.
    pub fn hasFailed(self: *Copier) bool {
        self.mutex.lock();
        defer self.mutex.unlock();
        return self.failed;
    }

    /// Returns when everything has arrived, or with the first failure, when no copy runs any more. Where that is not
    /// sure, the observer's `unsettled` is set.
    pub fn finish(self: *Copier, failure: *Failure) status.Error!void {
        self.end(.closed);
        self.runLaneHere(0);
        self.join();
        try Outcome.first(&self.outcomes, failure);
        const waits = &self.runtime.device_waits[self.device];
        const code = waits.failureSince(self.waits_before, device_wait_patience_ns) orelse return;
        return self.runtime.check("aclrtSynchronizeDevice", code, 0, 0, failure);
    }

    /// Ends the copies after a failure of the caller's. Returns when none runs, as `finish` does.
    pub fn abandon(self: *Copier) void {
        self.end(.failed);
        self.join();
    }

    fn end(self: *Copier, how: enum { closed, failed }) void {
        self.mutex.lock();
        defer self.mutex.unlock();
        switch (how) {
            .closed => self.closed = true,
            .failed => self.failed = true,
        }
        self.changed.broadcast();
    }

    fn join(self: *Copier) void {
        for (&self.threads) |*thread| {
            if (thread.*) |running| running.join();
            thread.* = null;
        }
        self.segments.deinit(heap.allocator);
        self.runtime.device_waits[self.device].endCopies();
    }

    fn runLane(self: *Copier, index: usize) void {
        const outcome = &self.outcomes[index];
        const scope = runtime.Scope.enter(self.runtime, self.device, &outcome.failure) catch |err| {
            outcome.err = err;
            return self.end(.failed);
        };
        defer scope.abandon();
        self.runLaneHere(index);
    }

    /// Copies parts over one stream until there are no more.
    fn runLaneHere(self: *Copier, index: usize) void {
        const outcome = &self.outcomes[index];
        var lane: Lane = .{
            .copier = self,
            .stream = self.streams[index],
            .staging = self.staging[index],
            .failure = &outcome.failure,
        };
        defer lane.writes.deinit(heap.allocator);
        lane.run() catch |err| {
            outcome.err = err;
            self.end(.failed);
            settle(self.runtime, lane.stream, self.observer);
        };
    }

    fn batchBytes(self: *Copier) u64 {
        self.mutex.lock();
        defer self.mutex.unlock();
        const share = self.remaining_bytes / (2 * runtime.streams_per_device);
        return std.math.clamp(share, smallest_batch_bytes, largest_batch_bytes);
    }

    /// The next part, of at most `memory_bytes` where its backup is page-locked and `staged_bytes` where it is not.
    /// Null when that is 0, at the end, and, unless `waits`, when none of `group` is ready.
    fn take(self: *Copier, memory_bytes: u64, staged_bytes: u64, group: u32, waits: bool) status.Error!?Part {
        self.mutex.lock();
        defer self.mutex.unlock();
        while (true) {
            if (self.failed) return error.Aborted;
            const piece = self.nextPiece() orelse {
                if (self.closed or !waits) return null;
                self.changed.wait(&self.mutex);
                continue;
            };
            if (!waits and self.segments.items[self.next_segment - 1].group != group) return null;
            const most = if (piece.place == .memory) memory_bytes else staged_bytes;
            if (most > 0) return self.cut(piece, @min(piece.size_bytes, most));
            // A stream that has nothing to wait for would end here, and the content with it.
            return if (waits) error.OutOfHostMemory else null;
        }
    }

    fn nextPiece(self: *Copier) ?backups.Piece {
        while (self.piece == null) {
            if (self.pieces) |*pieces| self.piece = pieces.next();
            if (self.piece != null) break;
            if (self.next_segment == self.segments.items.len) return null;
            const segment = self.segments.items[self.next_segment].segment;
            self.pieces = if (segment.content.backup()) |backup| backup.pieces(segment.requested_bytes) else null;
            self.next_segment += 1;
        }
        return self.piece;
    }

    fn cut(self: *Copier, piece: backups.Piece, size_bytes: u64) Part {
        const ready = self.segments.items[self.next_segment - 1];
        self.remaining_bytes -|= size_bytes;
        self.piece = if (size_bytes == piece.size_bytes) null else .{
            .segment_offset_bytes = piece.segment_offset_bytes + size_bytes,
            .size_bytes = piece.size_bytes - size_bytes,
            .place = piece.place.skip(size_bytes),
        };
        return .{
            .address = ready.segment.address + piece.segment_offset_bytes,
            .size_bytes = size_bytes,
            .place = piece.place,
            .group = ready.group,
        };
    }
};

/// One stream, its staging and the thread that feeds it.
const Lane = struct {
    copier: *Copier,
    stream: acl.Stream,
    staging: []const host.Extent,
    failure: *Failure,
    queued_bytes: u64 = 0,
    /// Of what is queued.
    group: u32 = 0,
    /// Behind the latest copies of `event_group` on this stream.
    event: acl.Event = null,
    event_group: u32 = 0,
    /// The next free byte of `staging`: an extent and an offset in it.
    extent: usize = 0,
    extent_offset: u64 = 0,
    writes: std.ArrayList(Write) = .empty,

    fn run(self: *Lane) status.Error!void {
        while (true) {
            const batch_bytes = self.copier.batchBytes();
            while (self.queued_bytes < batch_bytes) {
                try self.copier.observer.interrupt.check();
                const free = self.room();
                const staged_bytes = @min(free.len, staged_piece_bytes);
                const waits = self.queued_bytes == 0;
                const most = batch_bytes - self.queued_bytes;
                const part = try self.copier.take(most, staged_bytes, self.group, waits) orelse break;
                self.group = part.group;
                switch (part.place) {
                    .memory => |memory| try self.enqueue(part, memory),
                    .pageable, .file => try self.copyThrough(free.ptr, part),
                }
            }
            if (self.queued_bytes == 0) return;
            try self.wait();
        }
    }

    /// Free staging memory in one piece; empty when all is in use until the stream has been waited for.
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

    fn copyThrough(self: *Lane, memory: [*]u8, part: Part) status.Error!void {
        const size_bytes = part.size_bytes;
        if (self.copier.direction == .to_device) try part.place.read(memory[0..size_bytes], self.failure);
        try self.enqueue(part, memory);
        if (self.copier.direction == .to_host)
            try self.rememberWrite(.{ .place = part.place, .memory = memory, .size_bytes = size_bytes });
        self.extent_offset += size_bytes;
    }

    fn enqueue(self: *Lane, part: Part, memory: [*]u8) status.Error!void {
        const device: *anyopaque = @ptrFromInt(part.address);
        const target: *anyopaque, const origin: *anyopaque = switch (self.copier.direction) {
            .to_host => .{ memory, device },
            .to_device => .{ device, memory },
        };
        const rt = self.copier.runtime;
        const kind = self.copier.direction.kind();
        const size_bytes = part.size_bytes;
        const code = rt.library.api.aclrtMemcpyAsync(target, size_bytes, origin, size_bytes, kind, self.stream);
        try rt.check("aclrtMemcpyAsync", code, part.address, part.size_bytes, self.failure);
        self.queued_bytes += part.size_bytes;
    }

    /// Joined with the one before where both sides go on, so that writes are as large as staging allows.
    fn rememberWrite(self: *Lane, write: Write) status.Error!void {
        if (self.writes.items.len > 0) {
            const last = &self.writes.items[self.writes.items.len - 1];
            const goes_on = last.memory + last.size_bytes == write.memory and
                std.meta.eql(last.place.skip(last.size_bytes), write.place);
            if (goes_on) {
                last.size_bytes += write.size_bytes;
                return;
            }
        }
        self.writes.append(heap.allocator, write) catch return error.OutOfHostMemory;
    }

    /// Records an event behind what is queued, all of one group.
    fn mark(self: *Lane, order: *Order) void {
        if (self.event_group != self.group) self.event = null;
        self.event_group = self.group;
        const copier = self.copier;
        self.event = order.submitted(copier.runtime, copier.device, .{
            .stream = self.stream,
            .group = self.group,
            .size_bytes = self.queued_bytes,
            .event = self.event,
        });
    }

    /// Waits until everything queued has arrived.
    fn wait(self: *Lane) status.Error!void {
        const rt = self.copier.runtime;
        const order = self.copier.observer.order;
        if (order) |given| self.mark(given);
        const code = rt.library.api.aclrtSynchronizeStream(self.stream);
        if (!status.isSynchronizeNotice(code))
            try rt.check("aclrtSynchronizeStream", code, 0, self.queued_bytes, self.failure);
        for (self.writes.items) |write| try write.place.write(write.memory[0..write.size_bytes], self.failure);
        _ = self.copier.observer.bytes_done.fetchAdd(self.queued_bytes, .monotonic);
        if (order) |given| given.arrived(self.group, self.queued_bytes);
        self.writes.clearRetainingCapacity();
        self.queued_bytes = 0;
        self.extent = 0;
        self.extent_offset = 0;
    }
};

/// After a failure: waits for the work of a stream, whose outcome no longer matters. Inside a `Scope` of the device.
pub fn settle(rt: *runtime.Runtime, stream: acl.Stream, observer: Observer) void {
    const api = &rt.library.api;
    if (hasEnded(api.aclrtSynchronizeStream(stream))) return;
    if (!hasEnded(api.aclrtSynchronizeDevice())) observer.unsettled.store(true, .release);
}

fn hasEnded(code: acl.Error) bool {
    return code == acl.code.success or status.isSynchronizeNotice(code);
}

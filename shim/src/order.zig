//! The order in which a wake-up copies content back: groups of segments, one after the other, and how far they are.
//! What a group's copies are behind is an event on each stream, so that streams of the engine can wait for it.

const std = @import("std");
const acl = @import("acl");
const Events = @import("events.zig").Events;
const heap = @import("heap.zig");
const runtime = @import("runtime.zig");
const status = @import("status.zig");
const sync = @import("sync.zig");
const Failure = status.Failure;

/// The group of one segment.
pub const Place = extern struct {
    segment_id: u64,
    group: u32,
    reserved: u32 = 0,
};

/// As it crosses the C ABI. Segments without a place belong to the last group.
pub const Wanted = struct {
    places: []const Place = &.{},
    /// 0 for a plan without an order.
    groups: u32 = 0,
};

/// More groups than this have no events: to wait for one is to wait until it has arrived.
const most_groups_with_events = 4096;

const Group = struct {
    /// Bytes that were not given to a stream yet, and that have not arrived yet.
    unsubmitted_bytes: std.atomic.Value(u64) = .init(0),
    unarrived_bytes: std.atomic.Value(u64) = .init(0),
};

/// Behind the latest copy of a group on one stream.
const Mark = struct { group: u32, event: acl.Event };

/// Copies of one group that were given to a stream.
const Copies = struct {
    stream: acl.Stream,
    group: u32,
    size_bytes: u64,
    /// The event that this stream has for the group; null before its first copies of it.
    event: acl.Event,
};

pub const Order = struct {
    groups: []Group,
    events: *Events,
    /// Devices whose memory is not all mapped yet.
    unmapped_devices: std.atomic.Value(u32) = .init(1),
    /// The plan is being undone: nothing is ready any more.
    has_failed: std.atomic.Value(bool) = .init(false),
    mutex: sync.Mutex = .{},
    marks: std.ArrayList(Mark) = .empty,
    /// An event could not be recorded, so none stands for its group.
    lacks_events: std.atomic.Value(bool) = .init(false),

    pub fn init(group_count: u32, events: *Events) status.Error!Order {
        const groups = heap.allocator.alloc(Group, group_count) catch return error.OutOfHostMemory;
        @memset(groups, .{});
        return .{ .groups = groups, .events = events, .lacks_events = .init(group_count > most_groups_with_events) };
    }

    pub fn deinit(self: *Order) void {
        heap.allocator.free(self.groups);
        self.marks.deinit(heap.allocator);
    }

    pub fn expect(self: *Order, group: u32, size_bytes: u64) void {
        _ = self.groups[group].unsubmitted_bytes.fetchAdd(size_bytes, .monotonic);
        _ = self.groups[group].unarrived_bytes.fetchAdd(size_bytes, .monotonic);
    }

    /// Records that copies were given to a stream. Returns the event behind them, where there is one. Inside a `Scope`
    /// of the device, on the stream's thread.
    pub fn submitted(self: *Order, rt: *runtime.Runtime, device: u32, copies: Copies) acl.Event {
        const recorded = self.record(rt, device, copies);
        // A convenience: without it a wait lasts until the copies have arrived.
        if (recorded == null) self.lacks_events.store(true, .release);
        _ = self.groups[copies.group].unsubmitted_bytes.fetchSub(copies.size_bytes, .release);
        return recorded;
    }

    fn record(self: *Order, rt: *runtime.Runtime, device: u32, copies: Copies) acl.Event {
        if (self.lacks_events.load(.acquire)) return null;
        const event = copies.event orelse self.events.take(rt, device) orelse return null;
        self.mutex.lock();
        defer self.mutex.unlock();
        if (rt.library.api.aclrtRecordEvent(event, copies.stream) != acl.code.success) return null;
        if (copies.event == null)
            self.marks.append(heap.allocator, .{ .group = copies.group, .event = event }) catch return null;
        return event;
    }

    /// The plan begins on so many devices.
    pub fn begin(self: *Order, devices: usize) void {
        self.unmapped_devices.store(@intCast(devices), .release);
    }

    /// The plan has failed, and is undone from here on.
    pub fn fail(self: *Order) void {
        self.has_failed.store(true, .release);
    }

    /// All memory of one device is mapped.
    pub fn mapped(self: *Order) void {
        _ = self.unmapped_devices.fetchSub(1, .acq_rel);
    }

    pub fn arrived(self: *Order, group: u32, size_bytes: u64) void {
        _ = self.groups[group].unarrived_bytes.fetchSub(size_bytes, .release);
    }

    /// Whether a group is mapped and has its content, in a wake-up that has not failed.
    pub fn isReady(self: *const Order, group: u32) bool {
        return !self.has_failed.load(.acquire) and self.unmapped_devices.load(.acquire) == 0 and
            self.groups[group].unarrived_bytes.load(.acquire) == 0;
    }

    /// How many groups from the first on are mapped and have their content.
    pub fn readyGroups(self: *const Order) u32 {
        for (0..self.groups.len) |group| if (!self.isReady(@intCast(group))) return @intCast(group);
        return @intCast(self.groups.len);
    }

    /// Makes `stream` wait until a group has its content. Fails as busy while copies of it are not submitted yet.
    pub fn streamWait(
        self: *Order,
        rt: *runtime.Runtime,
        group: u32,
        stream: acl.Stream,
        failure: *Failure,
    ) status.Error!void {
        if (group >= self.groups.len) return error.InvalidArgument;
        if (self.has_failed.load(.acquire)) return error.Aborted;
        if (self.isReady(group)) return;
        if (self.unmapped_devices.load(.acquire) > 0) return error.Busy;
        if (self.groups[group].unsubmitted_bytes.load(.acquire) > 0) return error.Busy;
        if (self.lacks_events.load(.acquire)) return error.Busy;
        self.mutex.lock();
        defer self.mutex.unlock();
        for (self.marks.items) |mark| {
            if (mark.group != group) continue;
            const code = rt.library.api.aclrtStreamWaitEvent(stream, mark.event);
            try rt.check("aclrtStreamWaitEvent", code, 0, 0, failure);
        }
    }
};

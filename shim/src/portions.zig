//! The table of segments as planning sees it: segments that are alike in all that decides what becomes of them are one
//! portion, so that to plan costs the event loop the same for ten segments as for ten thousand.

const std = @import("std");
const heap = @import("heap.zig");
const registry = @import("registry.zig");
const status = @import("status.zig");
const Registry = registry.Registry;
const Segment = registry.Segment;

/// What the segments of a portion have in common.
pub const Key = struct {
    segment_bytes: u64,
    tag: u32,
    device: u32,
    state: registry.State,
    moving: bool,
    unreleased: bool,
    clean: bool,
    backed_up: bool,

    pub fn of(segment: *const Segment) Key {
        return .{
            .segment_bytes = segment.size_bytes,
            .tag = segment.tag,
            .device = segment.device,
            .state = segment.state(),
            .moving = segment.moving,
            .unreleased = segment.isUnreleased(),
            .clean = segment.isClean(),
            .backed_up = segment.backup != .none,
        };
    }
};

pub const Portion = extern struct {
    segments: u64 = 0,
    /// Bytes of device memory of each of them when mapped.
    segment_bytes: u64,
    /// Bytes of all of them together, as `SegmentInfo` has them.
    committed_bytes: u64 = 0,
    host_bytes: u64 = 0,
    spilled_bytes: u64 = 0,
    checkpoint_bytes: u64 = 0,
    first_segment_id: u64,
    last_segment_id: u64,
    tag: u32,
    device: u32,
    /// A `SegmentState`.
    state: u32,
    /// What follows is 1 or 0, as in `SegmentInfo`.
    moving: u32,
    unreleased: u32,
    clean: u32,
    /// They have a backup.
    backed_up: u32,
    reserved: u32 = 0,

    fn init(key: Key, first_segment_id: u64) Portion {
        return .{
            .segment_bytes = key.segment_bytes,
            .first_segment_id = first_segment_id,
            .last_segment_id = first_segment_id,
            .tag = key.tag,
            .device = key.device,
            .state = @intFromEnum(key.state),
            .moving = @intFromBool(key.moving),
            .unreleased = @intFromBool(key.unreleased),
            .clean = @intFromBool(key.clean),
            .backed_up = @intFromBool(key.backed_up),
        };
    }

    fn add(self: *Portion, segment: *const Segment) void {
        self.segments += 1;
        self.committed_bytes += segment.committedBytes();
        self.host_bytes += segment.backup.hostBytes();
        if (segment.backup.isSpill()) self.spilled_bytes += segment.backup.fileBytes();
        if (segment.backup.isCheckpoint()) self.checkpoint_bytes += segment.backup.fileBytes();
        self.first_segment_id = @min(self.first_segment_id, segment.id);
        self.last_segment_id = @max(self.last_segment_id, segment.id);
    }

    fn before(_: void, a: Portion, b: Portion) bool {
        return a.first_segment_id < b.first_segment_id;
    }
};

/// The portions of the table, in the order of their first segments, without segments that have ids beyond `last_segment_id`
/// or wait for their release. With the registry's mutex held; the caller frees the list.
pub fn collect(table: *const Registry, last_segment_id: u64) status.Error![]Portion {
    var portions: std.AutoArrayHashMapUnmanaged(Key, Portion) = .empty;
    defer portions.deinit(heap.allocator);
    // Most segments are as the one before, and need not be looked up.
    var last: ?struct { key: Key, index: usize } = null;
    var iterator: registry.Iterator = .init(table);
    while (iterator.next()) |segment| {
        if (segment.doomed or segment.id > last_segment_id) continue;
        const key = Key.of(segment);
        if (last == null or !std.meta.eql(last.?.key, key)) {
            const slot = portions.getOrPut(heap.allocator, key) catch return error.OutOfHostMemory;
            if (!slot.found_existing) slot.value_ptr.* = .init(key, segment.id);
            last = .{ .key = key, .index = slot.index };
        }
        portions.values()[last.?.index].add(segment);
    }
    const list = heap.allocator.dupe(Portion, portions.values()) catch return error.OutOfHostMemory;
    std.mem.sortUnstable(Portion, list, {}, Portion.before);
    return list;
}

test "segments that are alike are one portion" {
    var table: Registry = .{};
    _ = try table.tags.intern("default");
    var segments: [4]*Segment = undefined;
    for (&segments, 1..) |*slot, number| {
        slot.* = try table.create(0, 0, 4096, 4096);
        slot.*.address = number << 40;
        slot.*.mapped = true;
        try std.testing.expectEqual(number, table.insert(slot.*));
    }
    defer {
        for (segments) |segment| {
            _ = table.unlist(segment);
            table.destroy(segment);
        }
        table.deinit();
    }
    table.set(segments[1], .moving, true);
    table.set(segments[3], .mapped, false);
    _ = try table.doom(segments[3].address, null);
    const portions = try collect(&table, segments[3].id);
    defer heap.allocator.free(portions);
    try std.testing.expectEqual(2, portions.len);
    try std.testing.expectEqual(2, portions[0].segments);
    try std.testing.expectEqual(segments[0].id, portions[0].first_segment_id);
    try std.testing.expectEqual(segments[2].id, portions[0].last_segment_id);
    try std.testing.expectEqual(1, portions[1].segments);
    try std.testing.expectEqual(1, portions[1].moving);
    const first = try collect(&table, segments[0].id);
    defer heap.allocator.free(first);
    try std.testing.expectEqual(1, first.len);
    try std.testing.expectEqual(1, first[0].segments);
}

//! The table of segments as planning sees it. Segments that are alike in all that decides their fate are one group,
//! so that planning costs the event loop the same for ten segments as for ten thousand.

const std = @import("std");
const heap = @import("heap.zig");
const registry = @import("registry.zig");
const segments = @import("segment.zig");
const status = @import("status.zig");
const Registry = registry.Registry;
const Segment = segments.Segment;

/// What the segments of a group have in common.
pub const Key = struct {
    segment_bytes: u64,
    tag: u32,
    device: u32,
    state: segments.State,
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
            .backed_up = segment.content.backup() != null,
        };
    }

    /// All that distinguishes keys, in words: several times as fast to compare and hash as the fields.
    fn words(self: Key) [3]u64 {
        var flags: u64 = @intFromEnum(self.state);
        inline for (.{ self.moving, self.unreleased, self.clean, self.backed_up }) |flag|
            flags = flags << 1 | @intFromBool(flag);
        return .{ self.segment_bytes, @as(u64, self.tag) << 32 | self.device, flags };
    }

    pub fn eql(a: Key, b: Key) bool {
        return std.mem.eql(u64, &a.words(), &b.words());
    }

    /// For hash maps by key.
    pub const HashContext = struct {
        pub fn hash(_: HashContext, key: Key) u64 {
            return std.hash.Wyhash.hash(0, std.mem.asBytes(&key.words()));
        }

        pub fn eql(_: HashContext, a: Key, b: Key) bool {
            return a.eql(b);
        }
    };
};

pub const SegmentGroup = extern struct {
    segments: u64 = 0,
    /// Bytes of device memory of each of them when mapped.
    segment_bytes: u64,
    /// Bytes of all of them together, as `SegmentInfo` has them.
    committed_bytes: u64 = 0,
    host_bytes: u64 = 0,
    pageable_bytes: u64 = 0,
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

    fn init(key: Key, first_segment_id: u64) SegmentGroup {
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

    fn add(self: *SegmentGroup, segment: *const Segment) void {
        self.segments += 1;
        self.committed_bytes += segment.committedBytes();
        self.first_segment_id = @min(self.first_segment_id, segment.id);
        self.last_segment_id = @max(self.last_segment_id, segment.id);
        const backup = segment.content.backup() orelse return;
        self.host_bytes += backup.hostBytes();
        self.pageable_bytes += backup.pageableBytes();
        self.spilled_bytes += backup.spilledBytes();
        self.checkpoint_bytes += backup.checkpointBytes();
    }
};

/// Writes the groups of the table to `target` where all fit, in the order of their first segments, without segments
/// that have ids beyond `last_segment_id` or wait for their release. Returns how many there are. With the registry's
/// mutex held.
pub fn collect(table: *const Registry, last_segment_id: u64, target: []SegmentGroup) status.Error!usize {
    var indices: std.HashMapUnmanaged(Key, u32, Key.HashContext, std.hash_map.default_max_load_percentage) = .empty;
    defer indices.deinit(heap.allocator);
    // Most segments are like the one before, and need no look-up.
    var last: ?Key = null;
    var index: u32 = 0;
    var count: u32 = 0;
    var iterator: registry.Iterator = .init(table);
    while (iterator.next()) |segment| {
        if (segment.doomed or segment.id > last_segment_id) continue;
        const key = Key.of(segment);
        if (last == null or !last.?.eql(key)) {
            const slot = indices.getOrPut(heap.allocator, key) catch return error.OutOfHostMemory;
            if (!slot.found_existing) {
                slot.value_ptr.* = count;
                if (count < target.len) target[count] = .init(key, segment.id);
                count += 1;
            }
            index = slot.value_ptr.*;
        }
        last = key;
        if (index < target.len) target[index].add(segment);
    }
    if (count <= target.len) try sort(target[0..count]);
    return count;
}

/// Sorts groups by their first segments. Groups are large, so places are sorted, and each group moves once.
fn sort(groups: []SegmentGroup) status.Error!void {
    const Place = struct {
        first_segment_id: u64,
        index: usize,

        fn before(_: void, a: @This(), b: @This()) bool {
            return a.first_segment_id < b.first_segment_id;
        }
    };
    const places = heap.allocator.alloc(Place, groups.len) catch return error.OutOfHostMemory;
    defer heap.allocator.free(places);
    for (places, groups, 0..) |*place, group, index|
        place.* = .{ .first_segment_id = group.first_segment_id, .index = index };
    std.mem.sortUnstable(Place, places, {}, Place.before);
    for (0..groups.len) |start| {
        const moved = groups[start];
        var hole = start;
        while (places[hole].index != start) {
            const origin = places[hole].index;
            groups[hole] = groups[origin];
            places[hole].index = hole;
            hole = origin;
        }
        groups[hole] = moved;
        places[hole].index = hole;
    }
}

test "sort puts groups in the order of their first segments" {
    var groups: [50]SegmentGroup = undefined;
    for (&groups, 0..) |*group, index| {
        const key: Key = .{
            .segment_bytes = index,
            .tag = 0,
            .device = 0,
            .state = .mapped,
            .moving = false,
            .unreleased = false,
            .clean = false,
            .backed_up = false,
        };
        group.* = .init(key, (index * 7 + 3) % groups.len);
    }
    try sort(&groups);
    for (groups, 0..) |group, index| {
        try std.testing.expectEqual(index, group.first_segment_id);
        try std.testing.expectEqual(index, (group.segment_bytes * 7 + 3) % groups.len);
    }
}

test "collect groups segments that are alike" {
    var table: Registry = .{};
    _ = try table.tags.intern("default");
    var four: [4]*Segment = undefined;
    for (&four, 1..) |*slot, number| {
        slot.* = try table.create(0, 0, 4096, 4096);
        slot.*.address = number << 40;
        slot.*.mapped = true;
        try std.testing.expectEqual(number, table.insert(slot.*));
    }
    defer {
        for (four) |segment| {
            _ = table.unlist(segment);
            table.destroy(segment);
        }
        table.deinit();
    }
    table.set(four[1], .moving, true);
    table.set(four[3], .mapped, false);
    _ = try table.doom(four[3].address, null, .waits);
    var groups: [2]SegmentGroup = undefined;
    try std.testing.expectEqual(2, try collect(&table, four[3].id, groups[0..1]));
    try std.testing.expectEqual(2, try collect(&table, four[3].id, &groups));
    try std.testing.expectEqual(2, groups[0].segments);
    try std.testing.expectEqual(four[0].id, groups[0].first_segment_id);
    try std.testing.expectEqual(four[2].id, groups[0].last_segment_id);
    try std.testing.expectEqual(1, groups[1].segments);
    try std.testing.expectEqual(1, groups[1].moving);
    try std.testing.expectEqual(1, try collect(&table, four[0].id, &groups));
    try std.testing.expectEqual(1, groups[0].segments);
}

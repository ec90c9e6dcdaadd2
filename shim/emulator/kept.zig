//! Touched memory that nobody uses: ranges of a device's file, joined with their neighbours and found by size.

const std = @import("std");
const linux = std.os.linux;
const state = @import("state.zig");

const Places = std.Treap(u64, std.math.order);
const Sizes = std.Treap([2]u64, orderBySize);

fn orderBySize(a: [2]u64, b: [2]u64) std.math.Order {
    return if (a[0] == b[0]) std.math.order(a[1], b[1]) else std.math.order(a[0], b[0]);
}

const Extent = struct {
    place: Places.Node = undefined,
    size: Sizes.Node = undefined,
    offset: u64,
    bytes: u64,

    fn end(extent: *const Extent) u64 {
        return extent.offset + extent.bytes;
    }

    fn fromPlace(node: ?*Places.Node) ?*Extent {
        return @alignCast(@fieldParentPtr("place", node orelse return null));
    }

    fn fromSize(node: ?*Sizes.Node) ?*Extent {
        return @alignCast(@fieldParentPtr("size", node orelse return null));
    }
};

pub const Range = struct { offset: u64, bytes: u64 };

pub const Kept = struct {
    places: Places = .{},
    sizes: Sizes = .{},
    bytes: u64 = 0,

    pub fn put(kept: *Kept, offset: u64, bytes: u64) error{OutOfMemory}!void {
        const extent = try state.allocator.create(Extent);
        extent.* = .{ .offset = offset, .bytes = bytes };
        const next = kept.firstAfter(offset);
        const previous = Extent.fromPlace(if (next) |after| after.place.prev() else kept.places.getMax());
        if (previous) |before| {
            if (before.end() == offset) {
                extent.offset = before.offset;
                extent.bytes += before.bytes;
                kept.forget(before);
            }
        }
        if (next) |after| {
            if (after.offset == extent.end()) {
                extent.bytes += after.bytes;
                kept.forget(after);
            }
        }
        var place = kept.places.getEntryFor(extent.offset);
        place.set(&extent.place);
        kept.addSize(extent);
    }

    /// From the smallest extent that is large enough: its end, so that its place in the order stays.
    pub fn take(kept: *Kept, bytes: u64) ?u64 {
        const extent = kept.smallestFrom(bytes) orelse return null;
        const offset = extent.end() - bytes;
        if (extent.bytes == bytes) {
            kept.forget(extent);
        } else {
            kept.removeSize(extent);
            extent.bytes -= bytes;
            kept.addSize(extent);
        }
        return offset;
    }

    /// The smallest extent, which is the least likely to fit anything.
    pub fn evict(kept: *Kept) ?Range {
        const extent = Extent.fromSize(kept.sizes.getMin()) orelse return null;
        const range: Range = .{ .offset = extent.offset, .bytes = extent.bytes };
        kept.forget(extent);
        return range;
    }

    fn firstAfter(kept: *const Kept, offset: u64) ?*Extent {
        var node = kept.places.root;
        var found: ?*Extent = null;
        while (Extent.fromPlace(node)) |extent| {
            if (extent.offset > offset) found = extent;
            node = extent.place.children[@intFromBool(extent.offset <= offset)];
        }
        return found;
    }

    fn smallestFrom(kept: *const Kept, bytes: u64) ?*Extent {
        var node = kept.sizes.root;
        var found: ?*Extent = null;
        while (Extent.fromSize(node)) |extent| {
            if (extent.bytes >= bytes) found = extent;
            node = extent.size.children[@intFromBool(extent.bytes < bytes)];
        }
        return found;
    }

    fn addSize(kept: *Kept, extent: *Extent) void {
        var entry = kept.sizes.getEntryFor(.{ extent.bytes, extent.offset });
        entry.set(&extent.size);
        kept.bytes += extent.bytes;
    }

    fn removeSize(kept: *Kept, extent: *Extent) void {
        var entry = kept.sizes.getEntryForExisting(&extent.size);
        entry.set(null);
        kept.bytes -= extent.bytes;
    }

    fn forget(kept: *Kept, extent: *Extent) void {
        kept.removeSize(extent);
        var place = kept.places.getEntryForExisting(&extent.place);
        place.set(null);
        state.allocator.destroy(extent);
    }
};

test "neighbours join, the best fit is taken, the smallest is evicted" {
    var kept: Kept = .{};
    for ([_]Range{
        .{ .offset = 0, .bytes = 10 },
        .{ .offset = 20, .bytes = 10 },
        .{ .offset = 10, .bytes = 10 },
        .{ .offset = 50, .bytes = 12 },
        .{ .offset = 70, .bytes = 4 },
    }) |range| try kept.put(range.offset, range.bytes);
    try std.testing.expectEqual(46, kept.bytes);
    try std.testing.expectEqual(null, kept.take(31));
    try std.testing.expectEqual(52, kept.take(10));
    try std.testing.expectEqual(0, kept.take(30));
    try std.testing.expectEqual(Range{ .offset = 50, .bytes = 2 }, kept.evict());
    try std.testing.expectEqual(Range{ .offset = 70, .bytes = 4 }, kept.evict());
    try std.testing.expectEqual(null, kept.evict());
    try std.testing.expectEqual(0, kept.bytes);
}

test "what is put back in any order becomes one extent again" {
    var kept: Kept = .{};
    var offsets: [512]u64 = undefined;
    for (&offsets, 0..) |*offset, index| offset.* = index * 3;
    var random: std.Random.DefaultPrng = .init(1);
    random.random().shuffle(u64, &offsets);
    for (offsets) |offset| try kept.put(offset, 3);
    try std.testing.expectEqual(Range{ .offset = 0, .bytes = 3 * offsets.len }, kept.evict());
    try std.testing.expectEqual(null, kept.evict());
}

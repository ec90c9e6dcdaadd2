//! The free list of a device's memory file: populated ranges that nobody uses. Neighbours are joined, and a range is
//! found by its size.

const std = @import("std");
const allocator = std.heap.c_allocator;

const Offsets = std.Treap(u64, std.math.order);
const Sizes = std.Treap([2]u64, orderBySize);

fn orderBySize(a: [2]u64, b: [2]u64) std.math.Order {
    return if (a[0] == b[0]) std.math.order(a[1], b[1]) else std.math.order(a[0], b[0]);
}

const Extent = struct {
    place: Offsets.Node = undefined,
    size: Sizes.Node = undefined,
    offset: u64,
    bytes: u64,

    fn end(extent: *const Extent) u64 {
        return extent.offset + extent.bytes;
    }

    fn fromPlace(node: ?*Offsets.Node) ?*Extent {
        return @alignCast(@fieldParentPtr("place", node orelse return null));
    }

    fn fromSize(node: ?*Sizes.Node) ?*Extent {
        return @alignCast(@fieldParentPtr("size", node orelse return null));
    }
};

pub const Range = struct { offset: u64, bytes: u64 };

pub const FreeList = struct {
    offsets: Offsets = .{},
    sizes: Sizes = .{},
    bytes: u64 = 0,

    pub fn put(list: *FreeList, offset: u64, bytes: u64) error{OutOfMemory}!void {
        const extent = try allocator.create(Extent);
        extent.* = .{ .offset = offset, .bytes = bytes };
        const next = list.firstAfter(offset);
        const previous = Extent.fromPlace(if (next) |after| after.place.prev() else list.offsets.getMax());
        if (previous) |before| {
            if (before.end() == offset) {
                extent.offset = before.offset;
                extent.bytes += before.bytes;
                list.forget(before);
            }
        }
        if (next) |after| {
            if (after.offset == extent.end()) {
                extent.bytes += after.bytes;
                list.forget(after);
            }
        }
        var place = list.offsets.getEntryFor(extent.offset);
        place.set(&extent.place);
        list.addSize(extent);
    }

    /// Takes the end of the smallest extent that is large enough, so that the extent keeps its place in the order.
    pub fn take(list: *FreeList, bytes: u64) ?u64 {
        const extent = list.smallestFrom(bytes) orelse return null;
        const offset = extent.end() - bytes;
        if (extent.bytes == bytes) {
            list.forget(extent);
        } else {
            list.removeSize(extent);
            extent.bytes -= bytes;
            list.addSize(extent);
        }
        return offset;
    }

    /// Removes the smallest extent, which is the least likely to fit anything.
    pub fn evict(list: *FreeList) ?Range {
        const extent = Extent.fromSize(list.sizes.getMin()) orelse return null;
        const range: Range = .{ .offset = extent.offset, .bytes = extent.bytes };
        list.forget(extent);
        return range;
    }

    fn firstAfter(list: *const FreeList, offset: u64) ?*Extent {
        var node = list.offsets.root;
        var found: ?*Extent = null;
        while (Extent.fromPlace(node)) |extent| {
            if (extent.offset > offset) found = extent;
            node = extent.place.children[@intFromBool(extent.offset <= offset)];
        }
        return found;
    }

    fn smallestFrom(list: *const FreeList, bytes: u64) ?*Extent {
        var node = list.sizes.root;
        var found: ?*Extent = null;
        while (Extent.fromSize(node)) |extent| {
            if (extent.bytes >= bytes) found = extent;
            node = extent.size.children[@intFromBool(extent.bytes < bytes)];
        }
        return found;
    }

    fn addSize(list: *FreeList, extent: *Extent) void {
        var entry = list.sizes.getEntryFor(.{ extent.bytes, extent.offset });
        entry.set(&extent.size);
        list.bytes += extent.bytes;
    }

    fn removeSize(list: *FreeList, extent: *Extent) void {
        var entry = list.sizes.getEntryForExisting(&extent.size);
        entry.set(null);
        list.bytes -= extent.bytes;
    }

    fn forget(list: *FreeList, extent: *Extent) void {
        list.removeSize(extent);
        var place = list.offsets.getEntryForExisting(&extent.place);
        place.set(null);
        allocator.destroy(extent);
    }
};

test "FreeList takes the best fit and evicts the smallest when neighbours were joined" {
    var list: FreeList = .{};
    for ([_]Range{
        .{ .offset = 0, .bytes = 10 },
        .{ .offset = 20, .bytes = 10 },
        .{ .offset = 10, .bytes = 10 },
        .{ .offset = 50, .bytes = 12 },
        .{ .offset = 70, .bytes = 4 },
    }) |range| try list.put(range.offset, range.bytes);
    try std.testing.expectEqual(46, list.bytes);
    try std.testing.expectEqual(null, list.take(31));
    try std.testing.expectEqual(52, list.take(10));
    try std.testing.expectEqual(0, list.take(30));
    try std.testing.expectEqual(Range{ .offset = 50, .bytes = 2 }, list.evict());
    try std.testing.expectEqual(Range{ .offset = 70, .bytes = 4 }, list.evict());
    try std.testing.expectEqual(null, list.evict());
    try std.testing.expectEqual(0, list.bytes);
}

test "FreeList joins ranges when they return in any order" {
    var list: FreeList = .{};
    var offsets: [512]u64 = undefined;
    for (&offsets, 0..) |*offset, index| offset.* = index * 3;
    var random: std.Random.DefaultPrng = .init(1);
    random.random().shuffle(u64, &offsets);
    for (offsets) |offset| try list.put(offset, 3);
    try std.testing.expectEqual(Range{ .offset = 0, .bytes = 3 * offsets.len }, list.evict());
    try std.testing.expectEqual(null, list.evict());
}

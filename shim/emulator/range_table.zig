//! A table of disjoint address ranges, ordered by start. It is a balanced tree: with tens of thousands of segments, an
//! insertion into a sorted array would cost more than the mapping that it records.

const std = @import("std");
const allocator = std.heap.c_allocator;

pub fn RangeTable(comptime Value: type) type {
    return struct {
        const Self = @This();
        const Tree = std.Treap(u64, std.math.order);
        pub const Entry = struct { start: u64, end: u64, value: Value };
        const Item = struct { node: Tree.Node = undefined, entry: Entry };
        tree: Tree = .{},
        count: u64 = 0,

        fn fromNode(node: ?*Tree.Node) ?*Item {
            return @alignCast(@fieldParentPtr("node", node orelse return null));
        }

        /// The first range that ends after `address`. A loop from end to end may change the table.
        pub fn from(self: *const Self, address: u64) ?Entry {
            var node = self.tree.root;
            var found: ?Entry = null;
            while (fromNode(node)) |item| {
                const is_after = item.entry.end > address;
                if (is_after) found = item.entry;
                node = item.node.children[@intFromBool(!is_after)];
            }
            return found;
        }

        /// The caller guarantees that the range overlaps none.
        pub fn insert(self: *Self, start: u64, end: u64, value: Value) error{OutOfMemory}!void {
            const item = try allocator.create(Item);
            item.* = .{ .entry = .{ .start = start, .end = end, .value = value } };
            var place = self.tree.getEntryFor(start);
            place.set(&item.node);
            self.count += 1;
        }

        pub fn containing(self: *const Self, address: u64) ?Entry {
            return self.firstOverlap(address, address +| 1);
        }

        pub fn at(self: *const Self, start: u64) ?Entry {
            const entry = self.containing(start) orelse return null;
            return if (entry.start == start) entry else null;
        }

        pub fn firstOverlap(self: *const Self, start: u64, end: u64) ?Entry {
            const entry = self.from(start) orelse return null;
            return if (entry.start < end) entry else null;
        }

        /// The number of ranges that together cover [start, end) without a gap, or null.
        pub fn countCovering(self: *const Self, start: u64, end: u64) ?usize {
            var reached = start;
            var count: usize = 0;
            while (self.from(reached)) |entry| {
                if (entry.start > reached) return null;
                count += 1;
                reached = entry.end;
                if (reached >= end) return count;
            }
            return null;
        }

        pub fn remove(self: *Self, start: u64) void {
            var place = self.tree.getEntryFor(start);
            const item = fromNode(place.node) orelse return;
            place.set(null);
            self.count -= 1;
            allocator.destroy(item);
        }
    };
}

test "RangeTable finds a range when it contains, overlaps or covers" {
    var table: RangeTable(u8) = .{};
    defer while (table.from(0)) |entry| table.remove(entry.start);
    try table.insert(300, 400, 3);
    try table.insert(100, 200, 1);
    try table.insert(200, 300, 2);
    try table.insert(500, 600, 5);
    try std.testing.expectEqual(1, table.containing(199).?.value);
    try std.testing.expectEqual(2, table.at(200).?.value);
    try std.testing.expectEqual(null, table.at(201));
    try std.testing.expectEqual(null, table.containing(400));
    try std.testing.expectEqual(null, table.firstOverlap(400, 500));
    try std.testing.expectEqual(5, table.firstOverlap(400, 501).?.value);
    try std.testing.expectEqual(3, table.countCovering(150, 400));
    try std.testing.expectEqual(null, table.countCovering(150, 401));
    table.remove(200);
    table.remove(201);
    try std.testing.expectEqual(null, table.countCovering(150, 400));
    try std.testing.expectEqual(3, table.count);
}

/// The depth of the tree under a node.
fn depth(node: anytype) usize {
    const root = node orelse return 0;
    return 1 + @max(depth(root.children[0]), depth(root.children[1]));
}

test "RangeTable stays balanced when ranges come and go in order" {
    var table: RangeTable(void) = .{};
    defer while (table.from(0)) |entry| table.remove(entry.start);
    for (0..16384) |index| try table.insert(index * 10, index * 10 + 10, {});
    try std.testing.expect(depth(table.tree.root) < 64);
    for (0..8192) |index| table.remove(index * 20);
    try std.testing.expect(depth(table.tree.root) < 64);
    try std.testing.expectEqual(10, table.from(0).?.start);
    try std.testing.expectEqual(8192, table.count);
}

//! A table of disjoint address ranges, sorted by start. An array rather than a tree: lookups are what is frequent, and a
//! few thousand entries move in less time than one page fault takes.

const std = @import("std");
const allocator = @import("state.zig").allocator;

pub fn RangeTable(comptime Value: type) type {
    return struct {
        const Self = @This();
        pub const Entry = struct { start: u64, end: u64, value: Value };

        entries: std.ArrayList(Entry) = .empty,

        /// Index of the first entry that ends after `address`.
        fn position(self: *const Self, address: u64) usize {
            var low: usize = 0;
            var high = self.entries.items.len;
            while (low < high) {
                const middle = low + (high - low) / 2;
                if (self.entries.items[middle].end > address) high = middle else low = middle + 1;
            }
            return low;
        }

        /// The caller has made sure that the range overlaps none.
        pub fn insert(self: *Self, start: u64, end: u64, value: Value) error{OutOfMemory}!void {
            try self.entries.insert(allocator, self.position(start), .{ .start = start, .end = end, .value = value });
        }

        pub fn containing(self: *const Self, address: u64) ?Entry {
            const entry = self.firstOverlap(address, address +| 1) orelse return null;
            return entry;
        }

        pub fn at(self: *const Self, start: u64) ?Entry {
            const entry = self.containing(start) orelse return null;
            return if (entry.start == start) entry else null;
        }

        pub fn firstOverlap(self: *const Self, start: u64, end: u64) ?Entry {
            const index = self.position(start);
            if (index == self.entries.items.len) return null;
            const entry = self.entries.items[index];
            return if (entry.start < end) entry else null;
        }

        /// The entries that together cover [start, end) without a gap, or null.
        pub fn covering(self: *const Self, start: u64, end: u64) ?[]const Entry {
            const first = self.position(start);
            var reached = start;
            for (self.entries.items[first..], first..) |entry, index| {
                if (entry.start > reached) return null;
                reached = entry.end;
                if (reached >= end) return self.entries.items[first .. index + 1];
            }
            return null;
        }

        pub fn remove(self: *Self, start: u64) void {
            const index = self.position(start);
            if (index == self.entries.items.len or self.entries.items[index].start != start) return;
            _ = self.entries.orderedRemove(index);
        }
    };
}

test "lookups find by containment, overlap and gapless cover" {
    var table: RangeTable(u8) = .{};
    defer table.entries.deinit(allocator);
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
    try std.testing.expectEqual(3, table.covering(150, 400).?.len);
    try std.testing.expectEqual(null, table.covering(150, 401));
    table.remove(200);
    table.remove(201);
    try std.testing.expectEqual(null, table.covering(150, 400));
}

//! Segments that their users have freed and that are still to be released.

const std = @import("std");
const Segment = @import("segment.zig").Segment;

/// Every segment of a list of doomed ones. With the registry's mutex held.
pub const Iterator = struct {
    node: ?*std.DoublyLinkedList.Node,

    pub fn init(list: *const std.DoublyLinkedList) Iterator {
        return .{ .node = list.first };
    }

    pub fn next(self: *Iterator) ?*const Segment {
        const node = self.node orelse return null;
        self.node = node.next;
        return @fieldParentPtr("doomed_node", node);
    }
};

/// Whether the release of any segment waits for a device. With the registry's mutex held.
pub fn awaitsDevice(list: *const std.DoublyLinkedList, device: u32) bool {
    var iterator: Iterator = .init(list);
    while (iterator.next()) |segment| if (segment.awaits_device and segment.device == device) return true;
    return false;
}

/// Bytes whose release waits for a device. With the registry's mutex held.
pub fn awaitedBytes(list: *const std.DoublyLinkedList, device: u32) u64 {
    var sum: u64 = 0;
    var iterator: Iterator = .init(list);
    while (iterator.next()) |segment| {
        if (segment.awaits_device and segment.device == device) sum += segment.committedBytes();
    }
    return sum;
}

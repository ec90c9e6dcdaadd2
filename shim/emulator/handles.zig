//! Handles are numbers, and no number is issued twice. So a stale handle is always recognised and never reaches freed
//! memory. They are not valid addresses: dereferencing one, which AscendCL forbids, faults at once.

const std = @import("std");
const allocator = std.heap.c_allocator;

pub const Kind = enum(u64) {
    context = 0xC01,
    stream = 0xC02,
    event = 0xC03,
    physical = 0xC04,
    allocator_description = 0xC05,
    graph = 0xC06,
};

pub fn Registry(comptime T: type, comptime kind: Kind) type {
    return struct {
        const Self = @This();

        items: std.AutoArrayHashMapUnmanaged(u64, *T) = .empty,
        issued: u64 = 0,

        pub fn add(self: *Self, item: *T) error{OutOfMemory}!u64 {
            // Below 2^53, so that a handle survives a JavaScript number.
            const handle = (@intFromEnum(kind) << 40) + (self.issued + 1) * 64;
            try self.items.put(allocator, handle, item);
            self.issued += 1;
            return handle;
        }

        pub fn get(self: *const Self, handle: ?*anyopaque) ?*T {
            return self.items.get(@intFromPtr(handle));
        }

        pub fn remove(self: *Self, handle: u64) void {
            _ = self.items.swapRemove(handle);
        }
    };
}

/// The position in which the handle was issued, from 1.
pub fn indexOf(handle: u64) u64 {
    return (handle & ((1 << 40) - 1)) / 64;
}

pub fn toPointer(handle: u64) ?*anyopaque {
    return @ptrFromInt(handle);
}

test "Registry issues a new handle when an older one was removed" {
    var registry: Registry(u32, .event) = .{};
    defer registry.items.deinit(allocator);
    var value: u32 = 7;
    const first = try registry.add(&value);
    try std.testing.expectEqual(&value, registry.get(toPointer(first)).?);
    registry.remove(first);
    try std.testing.expectEqual(null, registry.get(toPointer(first)));
    try std.testing.expect(try registry.add(&value) != first);
    try std.testing.expect(first < 1 << 53);
}

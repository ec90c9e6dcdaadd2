//! Handles are numbers that are never used twice, so a stale one is always recognised and can never reach freed memory.
//! They are no valid addresses: code that dereferences one, which AscendCL forbids, faults at once.

const std = @import("std");
const allocator = @import("state.zig").allocator;

pub const Kind = enum(u64) { context = 0xC01, stream = 0xC02, event = 0xC03, physical = 0xC04 };

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

pub fn toPointer(handle: u64) ?*anyopaque {
    return @ptrFromInt(handle);
}

test "a removed handle is never issued again" {
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

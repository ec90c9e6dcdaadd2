const std = @import("std");
const acl = @import("acl");
const address_window = @import("../address_window.zig");
const device = @import("device.zig");
const malloc = @import("malloc.zig");
const pointer_calls = @import("pointer.zig");
const testing = @import("test_support.zig");
const expectCode = testing.expectCode;

test "aclrtPointerGetAttributes fails when the address was never allocated" {
    defer testing.cleanUp();
    var attributes: acl.PtrAttributes = .{};
    var local: u64 = 0;
    try expectCode(0, device.aclrtSetDevice(0));
    try expectCode(100000, pointer_calls.aclrtPointerGetAttributes(null, &attributes));
    try expectCode(0, pointer_calls.aclrtPointerGetAttributes(&local, &attributes));
    try std.testing.expectEqual(acl.MemLocationType.unregistered, attributes.location.type);
    const unallocated: *anyopaque = @ptrFromInt(address_window.end_address - 64);
    try expectCode(507899, pointer_calls.aclrtPointerGetAttributes(unallocated, &attributes));
    var pointer: ?*anyopaque = null;
    try expectCode(0, malloc.aclrtMalloc(&pointer, 3 << 20, 0));
    const inside: *anyopaque = @ptrFromInt(@intFromPtr(pointer) + 77);
    try expectCode(0, pointer_calls.aclrtPointerGetAttributes(inside, &attributes));
    try std.testing.expectEqual(acl.MemLocationType.device, attributes.location.type);
    try std.testing.expectEqual(2 << 20, attributes.page_size);
    var base: ?*anyopaque = null;
    var size: usize = 0;
    try expectCode(107000, pointer_calls.aclrtMemGetAddressRange(pointer, null, null));
    try expectCode(100000, pointer_calls.aclrtMemGetAddressRange(null, &base, &size));
    try expectCode(0, pointer_calls.aclrtMemGetAddressRange(inside, &base, &size));
    try std.testing.expectEqual(pointer, base);
    try expectCode(0, malloc.aclrtFree(pointer));
}

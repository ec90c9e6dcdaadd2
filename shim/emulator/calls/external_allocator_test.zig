const std = @import("std");
const acl = @import("acl");
const calls = @import("external_allocator.zig");
const expectCode = @import("test_support.zig").expectCode;

fn allocate(_: ?*anyopaque, _: usize) callconv(.c) ?*anyopaque {
    return null;
}

fn free(_: ?*anyopaque, _: ?*anyopaque) callconv(.c) void {}

fn address(block: ?*anyopaque) callconv(.c) ?*anyopaque {
    return block;
}

test "aclrtAllocatorRegister fails when the description lacks a function" {
    var object: u32 = 0;
    var found: ?*anyopaque = null;
    const stream: acl.Stream = @ptrFromInt(64);
    const description = calls.aclrtAllocatorCreateDesc();
    try std.testing.expect(description != null);
    try expectCode(100000, calls.aclrtAllocatorSetObjToDesc(null, &object));
    try expectCode(100000, calls.aclrtAllocatorSetObjToDesc(description, null));
    try expectCode(0, calls.aclrtAllocatorSetObjToDesc(description, &object));
    try expectCode(0, calls.aclrtAllocatorSetAllocFuncToDesc(description, allocate));
    try expectCode(0, calls.aclrtAllocatorSetFreeFuncToDesc(description, free));
    try expectCode(100000, calls.aclrtAllocatorRegister(stream, description));
    try expectCode(0, calls.aclrtAllocatorSetGetAddrFromBlockFuncToDesc(description, address));
    try expectCode(100000, calls.aclrtAllocatorRegister(null, description));
    try expectCode(100000, calls.aclrtAllocatorGetByStream(stream, &found, null, null, null, null, null));
    try expectCode(0, calls.aclrtAllocatorRegister(stream, description));
    var seen: ?*anyopaque = null;
    try expectCode(0, calls.aclrtAllocatorGetByStream(stream, &found, &seen, null, null, null, null));
    try std.testing.expectEqual(description, found);
    try std.testing.expectEqual(@as(?*anyopaque, @ptrCast(&object)), seen);
    try expectCode(0, calls.aclrtAllocatorUnregister(stream));
    try expectCode(0, calls.aclrtAllocatorDestroyDesc(description));
    try expectCode(100000, calls.aclrtAllocatorDestroyDesc(description));
}

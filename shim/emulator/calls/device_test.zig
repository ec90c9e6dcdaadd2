const std = @import("std");
const device = @import("device.zig");
const fill = @import("fill.zig");
const malloc = @import("malloc.zig");
const Peer = @import("test_peer.zig").Peer;
const testing = @import("test_support.zig");
const expectCode = testing.expectCode;

test "aclrtResetDevice fails when every aclrtSetDevice was reset" {
    defer testing.cleanUp();
    try expectCode(107001, device.aclrtSetDevice(-1));
    try expectCode(107001, device.aclrtSetDevice(1));
    try expectCode(507007, device.aclrtResetDevice(0));
    try expectCode(0, device.aclrtSetDevice(0));
    try expectCode(0, device.aclrtSetDevice(0));
    try expectCode(0, device.aclrtResetDevice(0));
    var id: i32 = -1;
    try expectCode(0, device.aclrtGetDevice(&id));
    try std.testing.expectEqual(0, id);
    try expectCode(0, device.aclrtResetDevice(0));
    try expectCode(107002, device.aclrtGetDevice(&id));
    try expectCode(507007, device.aclrtResetDevice(0));
    try expectCode(507007, device.aclrtResetDeviceForce(0));
    try expectCode(107001, device.aclrtResetDeviceForce(7));
    try expectCode(0, device.aclrtSetDevice(0));
    try expectCode(0, device.aclrtSetDevice(0));
    try expectCode(0, device.aclrtResetDeviceForce(0));
    try expectCode(507007, device.aclrtResetDeviceForce(0));
    try expectCode(507007, device.aclrtResetDevice(0));
}

test "aclrtDeviceCanAccessPeer fails when the peer is unknown or the device itself" {
    defer testing.cleanUp();
    var can: i32 = 5;
    try expectCode(100000, device.aclrtDeviceCanAccessPeer(&can, 0, 0));
    try expectCode(107001, device.aclrtDeviceCanAccessPeer(&can, 0, 1));
    try expectCode(200006, device.aclrtDeviceEnablePeerAccess(1, 1));
    try expectCode(107002, device.aclrtDeviceEnablePeerAccess(1, 0));
    try expectCode(0, device.aclrtSetDevice(0));
    try expectCode(100000, device.aclrtDeviceEnablePeerAccess(0, 0));
}

test "aclrtGetRunMode fails when its argument is NULL" {
    try expectCode(100000, device.aclrtGetRunMode(null));
}

fn resetAndFill(peer: Peer) !void {
    var pointer: ?*anyopaque = null;
    try expectCode(0, device.aclrtResetDeviceForce(0));
    try expectCode(0, device.aclrtSetDevice(0));
    for (sizes) |size| {
        try expectCode(0, malloc.aclrtMallocAlign32(&pointer, size, 0));
        try expectCode(0, fill.aclrtMemset(pointer, size, 9, size));
    }
    try peer.send(u8, 1);
}

/// One is populated, one is not (physical.zig).
const sizes = [_]usize{ 4 << 20, 4096 };

test "aclrtResetDeviceForce leaves the parent's memory alone when a forked child calls it" {
    defer testing.cleanUp();
    var pointers: [2]?*anyopaque = @splat(null);
    try expectCode(0, device.aclrtSetDevice(0));
    for (&pointers, sizes) |*pointer, size| {
        try expectCode(0, malloc.aclrtMallocAlign32(pointer, size, 0));
        try expectCode(0, fill.aclrtMemset(pointer.*, size, 7, size));
    }
    const peer = try Peer.start(resetAndFill);
    _ = try peer.receive(u8);
    try peer.expectSuccess();
    for (pointers, sizes) |pointer, size| {
        const bytes: [*]const u8 = @ptrCast(pointer);
        for (bytes[0..size]) |byte| try std.testing.expectEqual(7, byte);
        try expectCode(0, malloc.aclrtFree(pointer));
    }
}

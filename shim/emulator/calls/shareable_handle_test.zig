const std = @import("std");
const acl = @import("acl");
const clock = @import("../clock.zig");
const copy_calls = @import("copy.zig");
const device = @import("device.zig");
const linux = std.os.linux;
const malloc_physical = @import("malloc_physical.zig");
const mapping = @import("mapping.zig");
const reservation = @import("reservation.zig");
const shareable_handle = @import("shareable_handle.zig");
const testing = @import("test_support.zig");
const test_peer = @import("test_peer.zig");
const Peer = test_peer.Peer;
const device_prop = test_peer.device_prop;
const expectCode = testing.expectCode;
const shared_bytes = testing.huge_page_bytes;

fn importAndCheck(peer: Peer) !void {
    var handle: acl.DrvMemHandle = null;
    var again: acl.DrvMemHandle = null;
    var start: ?*anyopaque = null;
    var value: u64 = 0;
    const shareable = try peer.receive(u64);
    try expectCode(107001, shareable_handle.aclrtMemImportFromShareableHandle(shareable, 5, &handle));
    // Not on the list yet.
    try expectCode(207006, shareable_handle.aclrtMemImportFromShareableHandle(shareable, 0, &handle));
    try peer.send(i32, linux.getpid());
    _ = try peer.receive(u8);
    try expectCode(0, shareable_handle.aclrtMemImportFromShareableHandle(shareable, 0, &handle));
    try expectCode(0, shareable_handle.aclrtMemImportFromShareableHandle(shareable, 0, &again));
    try std.testing.expectEqual(handle, again);
    try expectCode(0, malloc_physical.aclrtFreePhysical(again));
    try expectCode(0, reservation.aclrtReserveMemAddress(&start, shared_bytes, 0, null, 0));
    try expectCode(0, mapping.aclrtMapMem(start, shared_bytes, 0, handle, 0));
    try expectCode(0, copy_calls.aclrtMemcpy(&value, 8, start, 8, acl.MemcpyKind.device_to_host));
    try std.testing.expectEqual(123, value);
    try peer.send(u8, 1);
    _ = try peer.receive(u8);
    try expectCode(0, mapping.aclrtUnmapMem(start));
    try expectCode(0, malloc_physical.aclrtFreePhysical(handle));
    try expectCode(507899, shareable_handle.aclrtMemImportFromShareableHandle(shareable, 0, &handle));
    try peer.send(u8, 1);
    _ = try peer.receive(u8);
}

test "aclrtMemImportFromShareableHandle fails when the process is not on the list" {
    defer testing.cleanUp();
    var handle: acl.DrvMemHandle = null;
    var start: ?*anyopaque = null;
    var shareable: u64 = 0;
    var value: u64 = 123;
    try expectCode(0, device.aclrtSetDevice(0));
    const peer = try Peer.start(importAndCheck);
    try expectCode(0, malloc_physical.aclrtMallocPhysical(&handle, shared_bytes, &device_prop, 0));
    try expectCode(0, reservation.aclrtReserveMemAddress(&start, shared_bytes, 0, null, 0));
    try expectCode(0, mapping.aclrtMapMem(start, shared_bytes, 0, handle, 0));
    try expectCode(0, copy_calls.aclrtMemcpy(start, 8, &value, 8, acl.MemcpyKind.host_to_device));
    try expectCode(100000, shareable_handle.aclrtMemExportToShareableHandle(handle, 2, 0, &shareable));
    try expectCode(107000, shareable_handle.aclrtMemExportToShareableHandle(handle, 0, 2, &shareable));
    try expectCode(0, shareable_handle.aclrtMemExportToShareableHandle(handle, 0, 0, &shareable));
    try expectCode(507899, shareable_handle.aclrtMemExportToShareableHandle(handle, 0, 0, &shareable));
    var own: acl.DrvMemHandle = null;
    try expectCode(507899, shareable_handle.aclrtMemImportFromShareableHandle(shareable, 0, &own));
    try peer.send(u64, shareable);
    const pid = try peer.receive(i32);
    try expectCode(100000, shareable_handle.aclrtMemSetPidToShareableHandle(shareable, null, 1));
    try expectCode(100000, shareable_handle.aclrtMemSetPidToShareableHandle(shareable, @ptrCast(&pid), 0));
    try expectCode(107000, shareable_handle.aclrtMemSetPidToShareableHandle(shareable, @ptrCast(&pid), 65536));
    try expectCode(207006, shareable_handle.aclrtMemSetPidToShareableHandle(shareable +% 1, @ptrCast(&pid), 1));
    try expectCode(0, shareable_handle.aclrtMemSetPidToShareableHandle(shareable, @ptrCast(&pid), 1));
    try peer.send(u8, 1);
    _ = try peer.receive(u8);
    try expectCode(0, mapping.aclrtUnmapMem(start));
    try expectCode(0, malloc_physical.aclrtFreePhysical(handle));
    // The peer still holds it.
    try std.testing.expectEqual(shared_bytes, testing.held().physical_bytes);
    try peer.send(u8, 1);
    _ = try peer.receive(u8);
    var waited: u32 = 0;
    while (testing.held().physical_bytes > 0 and waited < 1000) : (waited += 1) clock.sleepMilliseconds(1);
    try std.testing.expectEqual(0, testing.held().physical_bytes);
    try peer.send(u8, 1);
    try peer.expectSuccess();
    try expectCode(0, reservation.aclrtReleaseMemAddress(start));
}

fn writeImported(peer: Peer) !void {
    var handle: acl.DrvMemHandle = null;
    var start: ?*anyopaque = null;
    const value: u64 = 55;
    const shareable = try peer.receive(u64);
    try expectCode(0, shareable_handle.aclrtMemImportFromShareableHandle(shareable, 0, &handle));
    try expectCode(0, reservation.aclrtReserveMemAddress(&start, shared_bytes, 0, null, 0));
    try expectCode(0, mapping.aclrtMapMem(start, shared_bytes, 0, handle, 0));
    try expectCode(0, copy_calls.aclrtMemcpy(start, 8, &value, 8, acl.MemcpyKind.host_to_device));
    try peer.send(u8, 1);
}

test "aclrtMapMem keeps content when another process wrote it first" {
    defer testing.cleanUp();
    var handle: acl.DrvMemHandle = null;
    var start: ?*anyopaque = null;
    var shareable: u64 = 0;
    var value: u64 = 0;
    try expectCode(0, device.aclrtSetDevice(0));
    const peer = try Peer.start(writeImported);
    try expectCode(0, malloc_physical.aclrtMallocPhysical(&handle, shared_bytes, &device_prop, 0));
    try expectCode(0, shareable_handle.aclrtMemExportToShareableHandle(handle, 0, 1, &shareable));
    try peer.send(u64, shareable);
    _ = try peer.receive(u8);
    try peer.expectSuccess();
    try expectCode(0, reservation.aclrtReserveMemAddress(&start, shared_bytes, 0, null, 0));
    try expectCode(0, mapping.aclrtMapMem(start, shared_bytes, 0, handle, 0));
    try expectCode(0, copy_calls.aclrtMemcpy(&value, 8, start, 8, acl.MemcpyKind.device_to_host));
    try std.testing.expectEqual(55, value);
    try expectCode(0, mapping.aclrtUnmapMem(start));
    try expectCode(0, malloc_physical.aclrtFreePhysical(handle));
    try expectCode(0, reservation.aclrtReleaseMemAddress(start));
}

const std = @import("std");
const acl = @import("acl");
const copy_calls = @import("copy.zig");
const device = @import("device.zig");
const ipc_key = @import("ipc_key.zig");
const malloc = @import("malloc.zig");
const malloc_physical = @import("malloc_physical.zig");
const shareable_handle = @import("shareable_handle.zig");
const testing = @import("test_support.zig");
const test_peer = @import("test_peer.zig");
const Peer = test_peer.Peer;
const device_prop = test_peer.device_prop;
const expectCode = testing.expectCode;
const shared_bytes = testing.huge_page_bytes;

const Key = [65]u8;

fn importKeyAndFabric(peer: Peer) !void {
    var pointer: ?*anyopaque = null;
    var value: u64 = 0;
    const key = try peer.receive(Key);
    const text: [*:0]const u8 = @ptrCast(&key);
    try expectCode(0, ipc_key.aclrtIpcMemImportByKey(&pointer, text, 0));
    try expectCode(0, copy_calls.aclrtMemcpy(&value, 8, pointer, 8, acl.MemcpyKind.device_to_host));
    try std.testing.expectEqual(321, value);
    try expectCode(107000, malloc.aclrtFree(pointer));
    try expectCode(0, ipc_key.aclrtIpcMemClose(text));
    try expectCode(507899, copy_calls.aclrtMemcpy(&value, 8, pointer, 8, acl.MemcpyKind.device_to_host));
    var handle: acl.DrvMemHandle = null;
    var fabric = try peer.receive(acl.MemFabricHandle);
    try expectCode(100000, shareable_handle.aclrtMemImportFromShareableHandleV2(&fabric, 2, 1, &handle));
    try expectCode(0, shareable_handle.aclrtMemImportFromShareableHandleV2(&fabric, 2, 0, &handle));
    try expectCode(0, malloc_physical.aclrtFreePhysical(handle));
    try peer.send(u8, 1);
}

test "aclrtIpcMemImportByKey needs no list when the key was exported without one" {
    defer testing.cleanUp();
    var pointer: ?*anyopaque = null;
    var handle: acl.DrvMemHandle = null;
    var key: Key = @splat(0);
    var fabric: acl.MemFabricHandle = .{};
    var value: u64 = 321;
    const pid: i32 = 1;
    try expectCode(0, device.aclrtSetDevice(0));
    const peer = try Peer.start(importKeyAndFabric);
    try expectCode(0, malloc.aclrtMalloc(&pointer, 1 << 20, 0));
    try expectCode(0, copy_calls.aclrtMemcpy(pointer, 8, &value, 8, acl.MemcpyKind.host_to_device));
    try expectCode(100000, ipc_key.aclrtIpcMemGetExportKey(null, 1, &key, 65, 1));
    try expectCode(107000, ipc_key.aclrtIpcMemGetExportKey(pointer, 0, &key, 65, 1));
    try expectCode(107000, ipc_key.aclrtIpcMemGetExportKey(pointer, 1, &key, 0, 1));
    try expectCode(107000, ipc_key.aclrtIpcMemGetExportKey(pointer, 1, &key, 65, 2));
    try expectCode(0, ipc_key.aclrtIpcMemGetExportKey(pointer, 1 << 20, &key, 65, 1));
    try expectCode(207006, ipc_key.aclrtIpcMemSetImportPid(@ptrCast(&key), @ptrCast(&pid), 1));
    try peer.send(Key, key);
    try expectCode(0, malloc_physical.aclrtMallocPhysical(&handle, shared_bytes, &device_prop, 0));
    try expectCode(107000, shareable_handle.aclrtMemExportToShareableHandleV2(handle, 1, 3, &fabric));
    try expectCode(0, shareable_handle.aclrtMemExportToShareableHandleV2(handle, 1, 2, &fabric));
    try expectCode(207006, shareable_handle.aclrtMemSetPidToShareableHandleV2(&fabric, 2, @ptrCast(&pid), 1));
    try peer.send(acl.MemFabricHandle, fabric);
    _ = try peer.receive(u8);
    try peer.expectSuccess();
    try expectCode(0, ipc_key.aclrtIpcMemClose(@ptrCast(&key)));
    try expectCode(107000, ipc_key.aclrtIpcMemClose(@ptrCast(&key)));
    try expectCode(0, malloc_physical.aclrtFreePhysical(handle));
    try expectCode(0, malloc.aclrtFree(pointer));
}

fn importAfterReset(peer: Peer) !void {
    var pointer: ?*anyopaque = null;
    const key = try peer.receive(Key);
    try expectCode(0, device.aclrtSetDevice(0));
    try expectCode(507899, ipc_key.aclrtIpcMemImportByKey(&pointer, @ptrCast(&key), 0));
}

test "aclrtIpcMemImportByKey fails when the exporter has reset its device" {
    defer testing.cleanUp();
    var pointer: ?*anyopaque = null;
    var key: Key = @splat(0);
    const peer = try Peer.start(importAfterReset);
    try expectCode(0, device.aclrtSetDevice(0));
    try expectCode(0, malloc.aclrtMalloc(&pointer, 1 << 20, 0));
    try expectCode(0, ipc_key.aclrtIpcMemGetExportKey(pointer, 1 << 20, &key, 65, 1));
    try expectCode(0, device.aclrtResetDeviceForce(0));
    try peer.send(Key, key);
    try peer.expectSuccess();
    try expectCode(107000, ipc_key.aclrtIpcMemClose(@ptrCast(&key)));
}

fn importThenReset(peer: Peer) !void {
    var pointer: ?*anyopaque = null;
    const key = try peer.receive(Key);
    const text: [*:0]const u8 = @ptrCast(&key);
    try expectCode(0, device.aclrtSetDevice(0));
    try expectCode(0, ipc_key.aclrtIpcMemImportByKey(&pointer, text, 0));
    try expectCode(0, device.aclrtResetDeviceForce(0));
    try expectCode(107000, ipc_key.aclrtIpcMemClose(text));
    try expectCode(0, device.aclrtSetDevice(0));
    try expectCode(0, ipc_key.aclrtIpcMemImportByKey(&pointer, text, 0));
    try expectCode(0, ipc_key.aclrtIpcMemClose(text));
    try expectCode(107000, ipc_key.aclrtIpcMemClose(text));
}

test "aclrtIpcMemClose fails when the importer has reset its device" {
    defer testing.cleanUp();
    var pointer: ?*anyopaque = null;
    var key: Key = @splat(0);
    try expectCode(0, device.aclrtSetDevice(0));
    try expectCode(0, malloc.aclrtMalloc(&pointer, 1 << 20, 0));
    const peer = try Peer.start(importThenReset);
    try expectCode(0, ipc_key.aclrtIpcMemGetExportKey(pointer, 1 << 20, &key, 65, 1));
    try peer.send(Key, key);
    try peer.expectSuccess();
    try expectCode(0, malloc.aclrtFree(pointer));
}

fn exportAsChild(peer: Peer) !void {
    var pointer: ?*anyopaque = null;
    var key: Key = @splat(0);
    try expectCode(0, device.aclrtSetDevice(0));
    try expectCode(0, malloc.aclrtMalloc(&pointer, 1 << 20, 0));
    try expectCode(0, ipc_key.aclrtIpcMemGetExportKey(pointer, 1 << 20, &key, 65, 1));
    try peer.send(Key, key);
    _ = try peer.receive(u8);
}

test "aclrtIpcMemGetExportKey shares memory when called in the forked child of an exporter" {
    defer testing.cleanUp();
    var pointer: ?*anyopaque = null;
    var imported: ?*anyopaque = null;
    var key: Key = @splat(0);
    try expectCode(0, device.aclrtSetDevice(0));
    try expectCode(0, malloc.aclrtMalloc(&pointer, 1 << 20, 0));
    try expectCode(0, ipc_key.aclrtIpcMemGetExportKey(pointer, 1 << 20, &key, 65, 1));
    const peer = try Peer.start(exportAsChild);
    const child_key = try peer.receive(Key);
    const code = ipc_key.aclrtIpcMemImportByKey(&imported, @ptrCast(&child_key), 0);
    try peer.send(u8, 1);
    try peer.expectSuccess();
    try expectCode(0, code);
    try expectCode(0, ipc_key.aclrtIpcMemClose(@ptrCast(&child_key)));
    try expectCode(0, ipc_key.aclrtIpcMemClose(@ptrCast(&key)));
    try expectCode(0, malloc.aclrtFree(pointer));
}

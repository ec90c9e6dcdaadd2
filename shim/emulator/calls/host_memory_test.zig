const std = @import("std");
const device = @import("device.zig");
const host_memory = @import("host_memory.zig");
const testing = @import("test_support.zig");
const expectCode = testing.expectCode;

test "aclrtHostRegister fails when the memory is page-locked already" {
    defer testing.cleanUp();
    var pointer: ?*anyopaque = null;
    var other: ?*anyopaque = null;
    try expectCode(107002, host_memory.aclrtMallocHost(&pointer, 100));
    try expectCode(0, device.aclrtSetDevice(0));
    try expectCode(100000, host_memory.aclrtMallocHost(null, 1));
    try expectCode(100000, host_memory.aclrtMallocHost(&pointer, 0));
    try expectCode(207001, host_memory.aclrtMallocHost(&pointer, std.math.maxInt(usize)));
    try expectCode(0, host_memory.aclrtMallocHost(&pointer, 100));
    try expectCode(507910, host_memory.aclrtHostRegister(pointer, 4096, 0, &other));
    try expectCode(507911, host_memory.aclrtHostUnregister(pointer));
    try expectCode(0, host_memory.aclrtFreeHost(pointer));
    try expectCode(107000, host_memory.aclrtFreeHost(pointer));
    try expectCode(100000, host_memory.aclrtFreeHost(null));
    var page: [8192]u8 align(4096) = undefined;
    try expectCode(207000, host_memory.aclrtHostRegister(&page, 4096, 1, &other));
    try expectCode(100000, host_memory.aclrtHostRegister(&page, 0, 0, &other));
    try expectCode(107000, host_memory.aclrtHostRegisterV2(&page, 4096, 0));
    try expectCode(107000, host_memory.aclrtHostRegisterV2(&page, 4096, 1));
    try expectCode(0, host_memory.aclrtHostRegisterV2(&page, 4096, 0x10000000));
    try expectCode(507910, host_memory.aclrtHostRegisterV2(&page, 4096, 2));
    try expectCode(107000, host_memory.aclrtFreeHost(&page));
    try expectCode(0, host_memory.aclrtHostUnregister(&page));
    try expectCode(507911, host_memory.aclrtHostUnregister(&page));
    try expectCode(100000, host_memory.aclrtHostUnregister(null));
}

test "aclrtMallocHost populates every page and keeps none when it is freed" {
    defer testing.cleanUp();
    const size = 6 << 20;
    var pointer: ?*anyopaque = null;
    try expectCode(0, device.aclrtSetDevice(0));
    try expectCode(0, host_memory.aclrtMallocHost(&pointer, size));
    try std.testing.expectEqual(size / std.heap.pageSize(), try testing.presentPages(pointer, size));
    try std.testing.expectEqual(size, testing.held().host_allocation_bytes);
    try expectCode(0, host_memory.aclrtFreeHost(pointer));
    try std.testing.expectEqual(0, testing.held().kept_bytes);
}

test "aclrtHostGetDevicePointer fails when the memory is not mapped for devices" {
    defer testing.cleanUp();
    var pointer: ?*anyopaque = null;
    var other: ?*anyopaque = null;
    var page: [8192]u8 align(4096) = undefined;
    try expectCode(100000, host_memory.aclrtHostGetDevicePointer(null, &other, 0));
    try expectCode(100000, host_memory.aclrtHostGetDevicePointer(&page, null, 0));
    try expectCode(100000, host_memory.aclrtHostGetDevicePointer(&page, &other, 1));
    try expectCode(107002, host_memory.aclrtHostGetDevicePointer(&page, &other, 0));
    try expectCode(0, device.aclrtSetDevice(0));
    try expectCode(0, host_memory.aclrtMallocHost(&pointer, 100));
    try expectCode(107000, host_memory.aclrtHostGetDevicePointer(pointer, &other, 0));
    try expectCode(0, host_memory.aclrtHostRegisterV2(pointer, 100, 2));
    try expectCode(507910, host_memory.aclrtHostRegisterV2(pointer, 100, 2));
    try expectCode(0, host_memory.aclrtHostGetDevicePointer(pointer, &other, 0));
    try std.testing.expectEqual(pointer, other);
    try expectCode(0, host_memory.aclrtHostUnregister(pointer));
    try expectCode(507911, host_memory.aclrtHostUnregister(pointer));
    try expectCode(0, host_memory.aclrtFreeHost(pointer));
    try expectCode(0, host_memory.aclrtHostRegisterV2(&page, 4096, 0x10000000));
    try expectCode(107000, host_memory.aclrtHostGetDevicePointer(&page, &other, 0));
    try expectCode(0, host_memory.aclrtHostUnregister(&page));
}

test "aclrtMemAllocManaged fails when the device has no unified memory" {
    var pointer: ?*anyopaque = null;
    try expectCode(100000, host_memory.aclrtMemAllocManaged(null, 4096, 1));
    try expectCode(100000, host_memory.aclrtMemAllocManaged(&pointer, 4096, 0));
    try expectCode(207000, host_memory.aclrtMemAllocManaged(&pointer, 4096, 1));
}

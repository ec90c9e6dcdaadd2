const std = @import("std");
const acl = @import("acl");
const block = @import("../block.zig");
const copy_calls = @import("copy.zig");
const device = @import("device.zig");
const fill_calls = @import("fill.zig");
const host_memory = @import("host_memory.zig");
const lock = @import("../lock.zig");
const malloc = @import("malloc.zig");
const malloc_physical = @import("malloc_physical.zig");
const mapping = @import("mapping.zig");
const page_mapping = @import("../page_mapping.zig");
const pointer_calls = @import("pointer.zig");
const reservation = @import("reservation.zig");
const stream_calls = @import("stream.zig");
const testing = @import("test_support.zig");
const expectCode = testing.expectCode;
const expectPhysical = testing.expectPhysical;
const expectReserve = testing.expectReserve;
const huge_page_bytes = testing.huge_page_bytes;
const host_to_device = acl.MemcpyKind.host_to_device;
const offsetBy = testing.offsetBy;

test "aclrtMapMem fails when range, size or handle does not fit" {
    defer testing.cleanUp();
    try expectCode(0, device.aclrtSetDevice(0));
    const start = try expectReserve(4 * huge_page_bytes);
    const handle = try expectPhysical(2 * huge_page_bytes);
    try expectCode(100000, mapping.aclrtMapMem(null, huge_page_bytes, 0, handle, 0));
    try expectCode(100000, mapping.aclrtMapMem(start, huge_page_bytes, 0, null, 0));
    try expectCode(100000, mapping.aclrtMapMem(start, 0, 0, handle, 0));
    try expectCode(100000, mapping.aclrtMapMem(start, huge_page_bytes, 0, handle, 1));
    try expectCode(107000, mapping.aclrtMapMem(start, huge_page_bytes, huge_page_bytes, handle, 0));
    const last_page = offsetBy(start, 3 * huge_page_bytes);
    try expectCode(507899, mapping.aclrtMapMem(last_page, 2 * huge_page_bytes, 0, handle, 0));
    try expectCode(507899, mapping.aclrtMapMem(@ptrFromInt(huge_page_bytes), huge_page_bytes, 0, handle, 0));
    try expectCode(507899, mapping.aclrtMapMem(offsetBy(start, 4096), huge_page_bytes, 0, handle, 0));
    try expectCode(507899, mapping.aclrtMapMem(start, huge_page_bytes + 4096, 0, handle, 0));
    try expectCode(207001, mapping.aclrtMapMem(start, 3 * huge_page_bytes, 0, handle, 0));
    try expectCode(0, mapping.aclrtMapMem(start, 2 * huge_page_bytes, 0, handle, 0));
    try expectCode(507899, mapping.aclrtMapMem(offsetBy(start, huge_page_bytes), huge_page_bytes, 0, handle, 0));
    // The same memory at a second address, and only its beginning.
    try expectCode(0, mapping.aclrtMapMem(offsetBy(start, 2 * huge_page_bytes), huge_page_bytes, 0, handle, 0));
    const words: [*]volatile u64 = @ptrCast(@alignCast(start));
    words[5] = 77;
    try std.testing.expectEqual(77, words[2 * huge_page_bytes / 8 + 5]);
    try expectCode(507899, reservation.aclrtReleaseMemAddress(start));
    try expectCode(507899, mapping.aclrtUnmapMem(offsetBy(start, huge_page_bytes)));
    try expectCode(0, malloc_physical.aclrtFreePhysical(handle));
    try expectCode(107000, malloc_physical.aclrtFreePhysical(handle));
    try std.testing.expectEqual(0, testing.held().physical_handles);
    try std.testing.expectEqual(2 * huge_page_bytes, testing.held().physical_bytes);
    try expectCode(0, mapping.aclrtUnmapMem(start));
    try expectCode(507899, mapping.aclrtUnmapMem(start));
    try expectCode(100000, mapping.aclrtUnmapMem(null));
    try expectCode(0, mapping.aclrtUnmapMem(offsetBy(start, 2 * huge_page_bytes)));
    try expectCode(107017, malloc_physical.aclrtFreePhysical(handle));
    try std.testing.expectEqual(0, testing.held().physical_bytes);
    try expectCode(0, reservation.aclrtReleaseMemAddress(start));
}

test "aclrtMapMem populates and poisons memory when it was freed and kept" {
    defer testing.cleanUp();
    const size = 2 * huge_page_bytes;
    const pages = size / std.heap.pageSize();
    try expectCode(0, device.aclrtSetDevice(0));
    const start = try expectReserve(2 * size);
    const bytes: [*]u8 = @ptrCast(start);
    for (0..2) |round| {
        const handle = try expectPhysical(size);
        try std.testing.expectEqual(0, testing.held().kept_bytes);
        try expectCode(0, mapping.aclrtMapMem(start, size, 0, handle, 0));
        try std.testing.expectEqual(pages, try testing.presentPages(start, size));
        var offset: usize = 0;
        while (offset < size) : (offset += page_mapping.poison_stride)
            try std.testing.expect(std.mem.allEqual(u8, bytes[offset..][0..page_mapping.poison_bytes], 0xff));
        @memset(bytes[0..size], 7);
        // The memory keeps its content at a second address, and when it is mapped at the first again.
        try expectCode(0, mapping.aclrtMapMem(offsetBy(start, size), size, 0, handle, 0));
        try std.testing.expectEqual(pages, try testing.presentPages(offsetBy(start, size), size));
        try expectCode(0, mapping.aclrtUnmapMem(start));
        try expectCode(0, mapping.aclrtMapMem(start, size, 0, handle, 0));
        try std.testing.expect(std.mem.allEqual(u8, bytes[0..size], 7));
        try expectCode(0, mapping.aclrtUnmapMem(offsetBy(start, size)));
        // In the second round, closing the device removes everything.
        if (round == 1) break;
        try expectCode(0, mapping.aclrtUnmapMem(start));
        try expectCode(0, malloc_physical.aclrtFreePhysical(handle));
        try std.testing.expectEqual(size, testing.held().kept_bytes);
    }
    try expectCode(0, device.aclrtResetDeviceForce(0));
    try std.testing.expectEqual(0, testing.held().kept_bytes);
    try expectCode(0, reservation.aclrtReleaseMemAddress(start));
}

test "aclrtUnmapMem fails when a copy uses the memory" {
    defer testing.cleanUp();
    var gate: testing.Gate = .{};
    var stream: acl.Stream = null;
    var host: ?*anyopaque = null;
    var attributes: acl.PtrAttributes = .{};
    try expectCode(0, device.aclrtSetDevice(0));
    try expectCode(0, stream_calls.aclrtCreateStream(&stream));
    try expectCode(0, host_memory.aclrtMallocHost(&host, 2 * huge_page_bytes));
    const start = try expectReserve(3 * huge_page_bytes);
    const first = try expectPhysical(huge_page_bytes);
    const second = try expectPhysical(huge_page_bytes);
    try expectCode(507899, copy_calls.aclrtMemcpy(start, 64, host, 64, host_to_device));
    try expectCode(107017, pointer_calls.aclrtPointerGetAttributes(start, &attributes));
    try expectCode(107000, malloc.aclrtFree(start));
    try expectCode(0, mapping.aclrtMapMem(start, huge_page_bytes, 0, first, 0));
    try expectCode(0, mapping.aclrtMapMem(offsetBy(start, huge_page_bytes), huge_page_bytes, 0, second, 0));
    try expectCode(0, pointer_calls.aclrtPointerGetAttributes(start, &attributes));
    try std.testing.expectEqual(huge_page_bytes, attributes.page_size);
    // One copy over two adjacent mappings; not one byte further.
    try expectCode(0, copy_calls.aclrtMemcpy(start, 2 * huge_page_bytes, host, 2 * huge_page_bytes, host_to_device));
    try expectCode(507899, fill_calls.aclrtMemset(start, 3 * huge_page_bytes, 1, 2 * huge_page_bytes + 1));
    try expectCode(0, stream_calls.aclrtLaunchHostFunc(stream, testing.Gate.pass, &gate));
    const size = huge_page_bytes;
    try expectCode(0, copy_calls.aclrtMemcpyAsync(start, size, host, size, host_to_device, stream));
    try expectCode(507899, mapping.aclrtUnmapMem(start));
    gate.open();
    try expectCode(0, stream_calls.aclrtSynchronizeStream(stream));
    try expectCode(0, mapping.aclrtUnmapMem(start));
    try expectCode(507899, copy_calls.aclrtMemcpyAsync(start, size, host, size, host_to_device, stream));
    // Closing the device removes mappings and physical memory, and keeps the address range.
    try expectCode(0, device.aclrtResetDeviceForce(0));
    try std.testing.expectEqual(0, testing.held().mappings);
    try std.testing.expectEqual(0, testing.held().physical_bytes);
    try expectCode(107017, malloc_physical.aclrtFreePhysical(second));
    try expectCode(0, reservation.aclrtReleaseMemAddress(start));
    try expectCode(0, host_memory.aclrtFreeHost(host));
}

test "aclrtMemcpy fails when another thread is still mapping the memory" {
    defer testing.cleanUp();
    var value: u64 = 0;
    var attributes: acl.PtrAttributes = .{};
    try expectCode(0, device.aclrtSetDevice(0));
    const start = try expectReserve(huge_page_bytes);
    lock.enter();
    const unfinished = try block.add(.{
        .kind = .mapping,
        .start = @intFromPtr(start),
        .size = huge_page_bytes,
        .device = 0,
    });
    lock.leave();
    try expectCode(507899, copy_calls.aclrtMemcpy(&value, 8, start, 8, acl.MemcpyKind.device_to_host));
    try expectCode(107017, pointer_calls.aclrtPointerGetAttributes(start, &attributes));
    try expectCode(507899, mapping.aclrtUnmapMem(start));
    lock.enter();
    unfinished.remove();
    lock.leave();
    try expectCode(0, reservation.aclrtReleaseMemAddress(start));
}

const std = @import("std");
const acl = @import("acl");
const address_window = @import("../address_window.zig");
const device = @import("device.zig");
const malloc_physical = @import("malloc_physical.zig");
const mapping = @import("mapping.zig");
const reservation = @import("reservation.zig");
const testing = @import("test_support.zig");
const device_prop = testing.device_prop;
const expectCode = testing.expectCode;
const expectReserve = testing.expectReserve;
const huge_page_bytes = testing.huge_page_bytes;
const offsetBy = testing.offsetBy;

test "aclrtReserveMemAddress fails when no device was opened yet" {
    defer testing.cleanUp();
    var pointer: ?*anyopaque = null;
    var handle: acl.DrvMemHandle = null;
    var size: usize = 0;
    try expectCode(107017, reservation.aclrtReserveMemAddress(&pointer, huge_page_bytes, 0, null, 0));
    try expectCode(107017, malloc_physical.aclrtMallocPhysical(&handle, huge_page_bytes, &device_prop, 0));
    try expectCode(0, malloc_physical.aclrtMemGetAllocationGranularity(&device_prop, 0, &size));
    const address: *anyopaque = @ptrFromInt(address_window.start_address);
    try expectCode(107017, mapping.aclrtUnmapMem(address));
    try expectCode(107017, mapping.aclrtMapMem(address, huge_page_bytes, 0, @ptrFromInt(64), 0));
}

test "aclrtReserveMemAddress fails when an argument is invalid or the range is taken" {
    defer testing.cleanUp();
    var pointer: ?*anyopaque = null;
    try expectCode(0, device.aclrtSetDevice(0));
    try expectCode(100000, reservation.aclrtReserveMemAddress(null, huge_page_bytes, 0, null, 0));
    try expectCode(100000, reservation.aclrtReserveMemAddress(&pointer, 0, 0, null, 0));
    try expectCode(100000, reservation.aclrtReserveMemAddress(&pointer, huge_page_bytes, 0, null, 2));
    try expectCode(107000, reservation.aclrtReserveMemAddress(&pointer, huge_page_bytes, huge_page_bytes, null, 0));
    try expectCode(207001, reservation.aclrtReserveMemAddress(&pointer, 129 << 30, 0, null, 0));
    for ([_]u64{ address_window.start_address + 4096, address_window.end_address }) |address| {
        const expected: *anyopaque = @ptrFromInt(address);
        try expectCode(107000, reservation.aclrtReserveMemAddress(&pointer, huge_page_bytes, 0, expected, 0));
    }
    const fixed: *anyopaque = @ptrFromInt(address_window.end_address - (1 << 30));
    try expectCode(0, reservation.aclrtReserveMemAddress(&pointer, 1 << 30, 0, fixed, 1));
    try std.testing.expectEqual(fixed, pointer);
    try expectCode(207001, reservation.aclrtReserveMemAddress(&pointer, 1 << 30, 0, fixed, 0));
    try expectCode(107000, reservation.aclrtReleaseMemAddress(offsetBy(fixed, huge_page_bytes)));
    try expectCode(0, reservation.aclrtReleaseMemAddress(fixed));
    try expectCode(107000, reservation.aclrtReleaseMemAddress(fixed));
    try expectCode(100000, reservation.aclrtReleaseMemAddress(null));
    const small = try expectReserve(100);
    try std.testing.expectEqual(0, @intFromPtr(small) % huge_page_bytes);
    try std.testing.expectEqual(huge_page_bytes, testing.held().reserved_bytes);
    try expectCode(0, reservation.aclrtReleaseMemAddress(small));
}

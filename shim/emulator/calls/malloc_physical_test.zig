const std = @import("std");
const acl = @import("acl");
const device = @import("device.zig");
const init = @import("init.zig");
const malloc_physical = @import("malloc_physical.zig");
const mapping = @import("mapping.zig");
const physical = @import("../physical.zig");
const reservation = @import("reservation.zig");
const testing = @import("test_support.zig");
const device_prop = testing.device_prop;
const expectCode = testing.expectCode;
const expectPhysical = testing.expectPhysical;
const expectReserve = testing.expectReserve;
const huge_page_bytes = testing.huge_page_bytes;

test "aclrtMallocPhysical fails when a property is invalid or memory is short" {
    defer testing.cleanUp();
    var handle: acl.DrvMemHandle = null;
    var prop = device_prop;
    try expectCode(0, device.aclrtSetDevice(0));
    try expectCode(100000, malloc_physical.aclrtMallocPhysical(null, huge_page_bytes, &prop, 0));
    try expectCode(100000, malloc_physical.aclrtMallocPhysical(&handle, huge_page_bytes, null, 0));
    try expectCode(100000, malloc_physical.aclrtMallocPhysical(&handle, 0, &prop, 0));
    try expectCode(100000, malloc_physical.aclrtMallocPhysical(&handle, huge_page_bytes, &prop, 1));
    try expectCode(507899, malloc_physical.aclrtMallocPhysical(&handle, huge_page_bytes + 1, &prop, 0));
    try expectCode(207001, malloc_physical.aclrtMallocPhysical(&handle, 65 << 30, &prop, 0));
    prop.reserve = 1;
    try expectCode(107000, malloc_physical.aclrtMallocPhysical(&handle, huge_page_bytes, &prop, 0));
    prop = device_prop;
    for ([_]c_int{ 0, 1, 2, 3, 6, 7, 8, 9, 11, 18, -1 }) |attr| {
        prop.mem_attr = attr;
        try expectCode(100000, malloc_physical.aclrtMallocPhysical(&handle, huge_page_bytes, &prop, 0));
    }
    prop = device_prop;
    prop.location.id = 3;
    try expectCode(107001, malloc_physical.aclrtMallocPhysical(&handle, huge_page_bytes, &prop, 0));
    prop.location = .{ .id = 0, .type = acl.MemLocationType.managed };
    try expectCode(100000, malloc_physical.aclrtMallocPhysical(&handle, huge_page_bytes, &prop, 0));
    prop.location = .{ .id = 0, .type = acl.MemLocationType.host_numa };
    prop.mem_attr = acl.MemAttr.mem_huge;
    try expectCode(207000, malloc_physical.aclrtMallocPhysical(&handle, huge_page_bytes, &prop, 0));
    prop.location = .{ .id = 1, .type = acl.MemLocationType.host };
    try expectCode(207000, malloc_physical.aclrtMallocPhysical(&handle, huge_page_bytes, &prop, 0));
    const first = try expectPhysical(3 * huge_page_bytes);
    try std.testing.expectEqual(3 * huge_page_bytes, testing.held().physical_bytes);
    try expectCode(0, malloc_physical.aclrtFreePhysical(first));
    try expectCode(107017, malloc_physical.aclrtFreePhysical(first));
    try expectCode(100000, malloc_physical.aclrtFreePhysical(null));
    try expectCode(107017, malloc_physical.aclrtMemGetAllocationPropertiesFromHandle(first, &prop));
}

test "aclrtMemGetAllocationGranularity fails when the option is unknown" {
    defer testing.cleanUp();
    var size: usize = 0;
    var prop = device_prop;
    var handle: acl.DrvMemHandle = null;
    try expectCode(0, device.aclrtSetDevice(0));
    try expectCode(0, malloc_physical.aclrtMemGetAllocationGranularity(&prop, acl.MemGranularity.minimum, &size));
    try std.testing.expectEqual(huge_page_bytes, size);
    try expectCode(207000, malloc_physical.aclrtMemGetAllocationGranularity(&prop, 7, &size));
    try expectCode(100000, malloc_physical.aclrtMemGetAllocationGranularity(null, 0, &size));
    prop.mem_attr = acl.MemAttr.mem_huge1g;
    try expectCode(0, malloc_physical.aclrtMemGetAllocationGranularity(&prop, acl.MemGranularity.recommended, &size));
    try std.testing.expectEqual(physical.giant_page_bytes, size);
    try expectCode(0, malloc_physical.aclrtMallocPhysical(&handle, huge_page_bytes, &prop, 0));
    try std.testing.expectEqual(physical.giant_page_bytes, testing.held().physical_bytes);
    try expectCode(0, malloc_physical.aclrtFreePhysical(handle));
    prop.mem_attr = acl.MemAttr.mem_huge;
    try expectCode(0, malloc_physical.aclrtMallocPhysical(&handle, huge_page_bytes, &prop, 0));
    try expectCode(0, malloc_physical.aclrtMemGetAllocationPropertiesFromHandle(handle, &prop));
    try std.testing.expectEqual(acl.MemAttr.hbm_huge, prop.mem_attr);
    try std.testing.expectEqual(acl.MemLocationType.device, prop.location.type);
    try expectCode(0, malloc_physical.aclrtFreePhysical(handle));
}

test "aclFinalize returns memory to the host when it was kept" {
    defer testing.cleanUp();
    try expectCode(0, init.aclInit(null));
    try expectCode(0, device.aclrtSetDevice(0));
    const start = try expectReserve(huge_page_bytes);
    const handle = try expectPhysical(huge_page_bytes);
    try expectCode(0, mapping.aclrtMapMem(start, huge_page_bytes, 0, handle, 0));
    try expectCode(0, mapping.aclrtUnmapMem(start));
    try expectCode(0, malloc_physical.aclrtFreePhysical(handle));
    try std.testing.expectEqual(huge_page_bytes, testing.held().kept_bytes);
    try expectCode(0, init.aclFinalize());
    try std.testing.expectEqual(0, testing.held().kept_bytes);
    try expectCode(0, reservation.aclrtReleaseMemAddress(start));
}

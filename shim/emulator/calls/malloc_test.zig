const std = @import("std");
const acl = @import("acl");
const device = @import("device.zig");
const malloc = @import("malloc.zig");
const testing = @import("test_support.zig");
const expectCode = testing.expectCode;

fn freeBytes() !usize {
    var free_now: usize = 0;
    var total: usize = 0;
    try expectCode(0, malloc.aclrtGetMemInfo(acl.MemAttr.hbm_mem, &free_now, &total));
    return free_now;
}

test "aclrtMalloc takes whole pages and fails when the budget is too small" {
    defer testing.cleanUp();
    var pointer: ?*anyopaque = null;
    try expectCode(107002, malloc.aclrtMalloc(&pointer, 1, 0));
    try expectCode(0, device.aclrtSetDevice(0));
    try expectCode(100000, malloc.aclrtMalloc(null, 1, 0));
    try expectCode(100000, malloc.aclrtMalloc(&pointer, 0, 0));
    try expectCode(100000, malloc.aclrtMalloc(&pointer, std.math.maxInt(usize), 0));
    try expectCode(207001, malloc.aclrtMalloc(&pointer, 65 << 30, 0));
    try expectCode(207001, malloc.aclrtMalloc(&pointer, 1 << 60, 0));
    const before = try freeBytes();
    for ([_]struct { size: usize, policy: c_int, taken: usize }{
        .{ .size = 1, .policy = acl.MallocPolicy.huge_first, .taken = 4096 },
        .{ .size = 1, .policy = acl.MallocPolicy.huge_only, .taken = 2 << 20 },
        .{ .size = 2 << 20, .policy = acl.MallocPolicy.huge_first, .taken = 4 << 20 },
        .{ .size = 4096, .policy = acl.MallocPolicy.normal_only, .taken = 8192 },
        .{ .size = 4096, .policy = 0x1234, .taken = 8192 },
    }) |case| {
        try expectCode(0, malloc.aclrtMalloc(&pointer, case.size, case.policy));
        try std.testing.expectEqual(0, @intFromPtr(pointer) % 64);
        try std.testing.expectEqual(case.taken, before - try freeBytes());
        try expectCode(0, malloc.aclrtFree(pointer));
        try std.testing.expectEqual(before, try freeBytes());
    }
    try expectCode(0, malloc.aclrtMallocAlign32(&pointer, 2 << 20, 0));
    try std.testing.expectEqual(2 << 20, before - try freeBytes());
    try expectCode(0, malloc.aclrtFree(pointer));
}

test "aclrtMallocCached takes memory when the policy asks for huge pages" {
    defer testing.cleanUp();
    var pointer: ?*anyopaque = null;
    try expectCode(107002, malloc.aclrtMallocCached(&pointer, 100, acl.MallocPolicy.huge_only));
    try expectCode(0, device.aclrtSetDevice(0));
    for ([_]c_int{ acl.MallocPolicy.huge_first, acl.MallocPolicy.huge_only, acl.MallocPolicy.normal_only }) |policy| {
        try expectCode(0, malloc.aclrtMallocCached(&pointer, 100, policy));
        try expectCode(0, malloc.aclrtFree(pointer));
    }
}

test "aclrtFree fails when the address is not the start of an allocation" {
    defer testing.cleanUp();
    var pointer: ?*anyopaque = null;
    var local: u64 = 0;
    try expectCode(100000, malloc.aclrtFree(null));
    try expectCode(107017, malloc.aclrtFree(&local));
    try expectCode(0, device.aclrtSetDevice(0));
    try expectCode(107000, malloc.aclrtFree(&local));
    try expectCode(0, malloc.aclrtMalloc(&pointer, 100, 0));
    try expectCode(107000, malloc.aclrtFree(@ptrFromInt(@intFromPtr(pointer) + 64)));
    try expectCode(0, malloc.aclrtFree(pointer));
    try expectCode(107000, malloc.aclrtFree(pointer));
}

test "aclrtGetMemInfo fails when the attribute is unknown" {
    defer testing.cleanUp();
    var free_bytes: usize = 0;
    var total_bytes: usize = 0;
    try expectCode(0, device.aclrtSetDevice(0));
    try expectCode(107016, malloc.aclrtGetMemInfo(18, &free_bytes, &total_bytes));
    try expectCode(107016, malloc.aclrtGetMemInfo(-1, &free_bytes, &total_bytes));
    try expectCode(100000, malloc.aclrtGetMemInfo(1, null, &total_bytes));
}

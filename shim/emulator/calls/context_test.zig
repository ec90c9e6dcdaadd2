const std = @import("std");
const acl = @import("acl");
const context = @import("context.zig");
const device = @import("device.zig");
const testing = @import("test_support.zig");
const expectCode = testing.expectCode;

test "aclrtSetCurrentContext fails when the context was destroyed" {
    defer testing.cleanUp();
    var primary: acl.Context = null;
    var explicit: acl.Context = null;
    var seen: acl.Context = null;
    try expectCode(107002, context.aclrtGetCurrentContext(&seen));
    try expectCode(100000, context.aclrtGetCurrentContext(null));
    try expectCode(0, device.aclrtSetDevice(0));
    try expectCode(0, context.aclrtGetCurrentContext(&primary));
    try expectCode(107002, context.aclrtDestroyContext(primary));
    try expectCode(100000, context.aclrtCreateContext(null, 0));
    try expectCode(107001, context.aclrtCreateContext(&explicit, 9));
    try expectCode(0, context.aclrtCreateContext(&explicit, 0));
    try expectCode(0, context.aclrtGetCurrentContext(&seen));
    try std.testing.expectEqual(explicit, seen);
    try expectCode(0, device.aclrtSetDevice(0));
    try expectCode(0, context.aclrtGetCurrentContext(&seen));
    try std.testing.expectEqual(primary, seen);
    try expectCode(0, context.aclrtSetCurrentContext(explicit));
    try expectCode(0, context.aclrtDestroyContext(explicit));
    try expectCode(107002, context.aclrtGetCurrentContext(&seen));
    try expectCode(107002, context.aclrtDestroyContext(explicit));
    try expectCode(107000, context.aclrtSetCurrentContext(explicit));
    try expectCode(100000, context.aclrtSetCurrentContext(null));
}

test "aclrtGetPrimaryCtxState is active while somebody has the device set" {
    defer testing.cleanUp();
    var active: i32 = 7;
    var flags: u32 = 0;
    try expectCode(100000, context.aclrtGetPrimaryCtxState(0, null, null));
    try expectCode(100000, context.aclrtGetPrimaryCtxState(0, &flags, &active));
    try expectCode(107001, context.aclrtGetPrimaryCtxState(9, null, &active));
    var explicit: acl.Context = null;
    try expectCode(0, context.aclrtCreateContext(&explicit, 0));
    for ([_]i32{ 0, 1, 0 }) |expected| {
        try expectCode(0, context.aclrtGetPrimaryCtxState(0, null, &active));
        try std.testing.expectEqual(expected, active);
        try expectCode(0, if (expected == 0) device.aclrtSetDevice(0) else device.aclrtResetDevice(0));
    }
    try expectCode(0, device.aclrtResetDevice(0));
    try expectCode(0, context.aclrtDestroyContext(explicit));
}

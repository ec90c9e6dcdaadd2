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

const std = @import("std");
const init = @import("init.zig");
const testing = @import("test_support.zig");
const expectCode = testing.expectCode;

test "aclFinalize fails when nothing is initialised" {
    defer testing.cleanUp();
    var count: u64 = 9;
    try expectCode(0, init.aclInit(null));
    try expectCode(100002, init.aclInit(""));
    try expectCode(0, init.aclFinalizeReference(&count));
    try std.testing.expectEqual(1, count);
    try expectCode(0, init.aclFinalizeReference(null));
    try expectCode(100037, init.aclFinalizeReference(&count));
    try std.testing.expectEqual(0, count);
    try expectCode(100037, init.aclFinalize());
    try expectCode(100003, init.aclInit("/nowhere/acl.json"));
    try expectCode(0, init.aclInit(null));
    try expectCode(100002, init.aclInit(null));
    try expectCode(0, init.aclFinalize());
    try expectCode(100037, init.aclFinalize());
    // Any file with content differs from the first configuration, which was empty.
    try expectCode(100000, init.aclInit("/proc/self/cmdline"));
}

const std = @import("std");
const version = @import("version.zig");
const expectCode = @import("test_support.zig").expectCode;

test "aclsysGetVersionStr fails when ASCEND_HOME_PATH is unset" {
    var major: i32 = 0;
    var minor: i32 = 0;
    var patch: i32 = -1;
    var text: [128]u8 = undefined;
    var number: i32 = 0;
    var package: version.PackageVersion = .{};
    try expectCode(0, version.aclrtGetVersion(&major, &minor, &patch));
    try expectCode(100000, version.aclrtGetVersion(&major, null, &patch));
    try std.testing.expectEqual(17, minor);
    if (std.c.getenv("ASCEND_HOME_PATH") != null) return error.SkipZigTest;
    try expectCode(100003, version.aclsysGetVersionStr("runtime", &text));
    try expectCode(100000, version.aclsysGetVersionStr(null, &text));
    try expectCode(100003, version.aclsysGetVersionNum("runtime", &number));
    try expectCode(100000, version.aclsysGetVersionNum("runtime", null));
    try expectCode(100003, version.aclsysGetCANNVersion(1, &package));
    try expectCode(100000, version.aclsysGetCANNVersion(8, &package));
}

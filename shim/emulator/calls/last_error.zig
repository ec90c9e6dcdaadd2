//! AscendCL's calls about the thread's last error.

const std = @import("std");
const acl = @import("acl");
const errors = @import("../errors.zig");

pub fn aclrtPeekAtLastError(level: c_int) errors.LastError {
    if (level != 0) return @enumFromInt(acl.code.invalid_param);
    return @enumFromInt(errors.lastCode());
}

pub fn aclrtGetLastError(level: c_int) errors.LastError {
    if (level != 0) return @enumFromInt(acl.code.invalid_param);
    defer errors.clearLastCode();
    return @enumFromInt(errors.lastCode());
}

pub fn aclGetRecentErrMsg() ?[*:0]const u8 {
    return errors.takeMessage();
}

/// aclrtErrorInfo begins with two flags and a type. All zero means "nothing to repair, no detail".
pub fn aclrtGetErrorVerbose(device_id: i32, info: ?*anyopaque) acl.Error {
    _ = device_id;
    const bytes: [*]u8 = @ptrCast(info orelse return errors.fail(acl.code.invalid_param, "errorInfo is NULL"));
    @memset(bytes[0..8], 0);
    return acl.code.success;
}

fn expectLast(expected: acl.Error, actual: errors.LastError) !void {
    try std.testing.expectEqual(expected, @intFromEnum(actual));
}

test "aclrtGetLastError returns a code once when the runtime layer failed" {
    _ = aclrtGetLastError(0);
    _ = aclGetRecentErrMsg();
    errors.begin();
    try std.testing.expectEqual(100000, errors.finish("aclrtX", errors.fail(acl.code.invalid_param, "a reason")));
    try expectLast(0, aclrtPeekAtLastError(0));
    errors.begin();
    try std.testing.expectEqual(507899, errors.finish("aclrtY", acl.code.rt_drv_internal_error));
    try expectLast(507899, aclrtPeekAtLastError(0));
    try expectLast(507899, aclrtGetLastError(0));
    try expectLast(0, aclrtGetLastError(0));
    try expectLast(100000, aclrtPeekAtLastError(1));
    const text = std.mem.span(aclGetRecentErrMsg().?);
    try std.testing.expect(std.mem.indexOf(u8, text, "aclrtY returned 507899") != null);
    try std.testing.expectEqual(null, aclGetRecentErrMsg());
}

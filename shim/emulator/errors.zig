//! What each thread remembers of its failures: the last runtime-layer code and a text for aclGetRecentErrMsg.

const std = @import("std");
const acl = @import("acl");

threadlocal var last: acl.Error = acl.code.success;
threadlocal var reason: []const u8 = "";
threadlocal var pending: [512]u8 = undefined;
threadlocal var pending_length: usize = 0;
threadlocal var shown: [512]u8 = undefined;

/// Names why a call fails; the text reaches the caller through aclGetRecentErrMsg.
pub fn fail(code: acl.Error, why: []const u8) acl.Error {
    reason = why;
    return code;
}

pub fn begin() void {
    reason = "";
}

/// Every aclError leaves the library through here.
pub fn finish(name: []const u8, code: acl.Error) acl.Error {
    if (code == acl.code.success or code == acl.code.repeat_initialize) return code;
    if (isRuntimeLayer(code)) last = code;
    const module = if (code == acl.code.rt_memory_allocation) "EL0004: " else "";
    const room = pending[0 .. pending.len - 1];
    const text = (if (reason.len > 0)
        std.fmt.bufPrint(room, "{s}{s} (camem emulator)", .{ module, reason })
    else
        std.fmt.bufPrint(room, "{s}{s} returned {d} (camem emulator)", .{ module, name, code })) catch room; // a text that is too long is cut, which bufPrint leaves in the buffer
    pending_length = text.len;
    return code;
}

/// The ACL layer's own argument checks, and most "not supported" answers, never reach the runtime's per-thread record.
fn isRuntimeLayer(code: acl.Error) bool {
    if (code == acl.code.rt_feature_not_supported) return false;
    return switch (code) {
        107000...107999, 207000...207999, 507000...507999 => true,
        else => false,
    };
}

pub fn peek(level: c_int) acl.Error {
    if (level != 0) return acl.code.invalid_param;
    return last;
}

pub fn take(level: c_int) acl.Error {
    if (level != 0) return acl.code.invalid_param;
    defer last = acl.code.success;
    return last;
}

pub fn recentMessage() ?[*:0]const u8 {
    if (pending_length == 0) return null;
    @memcpy(shown[0..pending_length], pending[0..pending_length]);
    shown[pending_length] = 0;
    defer pending_length = 0;
    return shown[0..pending_length :0].ptr;
}

/// aclrtErrorInfo begins with two flags and a type; all zero says "nothing to repair, no detail".
pub fn verbose(device: i32, info: ?*anyopaque) acl.Error {
    _ = device;
    const bytes: [*]u8 = @ptrCast(info orelse return fail(acl.code.invalid_param, "errorInfo is NULL"));
    @memset(bytes[0..8], 0);
    return acl.code.success;
}

test "only runtime-layer failures are remembered, and a message is shown once" {
    _ = take(0);
    _ = recentMessage();
    begin();
    try std.testing.expectEqual(100000, finish("aclrtX", fail(acl.code.invalid_param, "a reason")));
    try std.testing.expectEqual(0, peek(0));
    begin();
    try std.testing.expectEqual(507899, finish("aclrtY", acl.code.rt_drv_internal_error));
    try std.testing.expectEqual(507899, peek(0));
    try std.testing.expectEqual(507899, take(0));
    try std.testing.expectEqual(0, take(0));
    try std.testing.expectEqual(100000, peek(1));
    const text = std.mem.span(recentMessage().?);
    try std.testing.expect(std.mem.indexOf(u8, text, "aclrtY returned 507899") != null);
    try std.testing.expectEqual(null, recentMessage());
}

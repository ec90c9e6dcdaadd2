//! Each thread's record of its failures: the last runtime-layer code, and a text for aclGetRecentErrMsg.

const std = @import("std");
const acl = @import("acl");

threadlocal var last: acl.Error = acl.code.success;
threadlocal var reason: []const u8 = "";
threadlocal var pending: [512]u8 = undefined;
threadlocal var pending_length: usize = 0;
threadlocal var shown: [512]u8 = undefined;

/// The result of a call that returns the record itself, so that its value is not a failure of that call.
pub const LastError = enum(acl.Error) { _ };

/// Names the reason of a failure; the text reaches the caller through aclGetRecentErrMsg.
pub fn fail(code: acl.Error, why: []const u8) acl.Error {
    reason = why;
    return code;
}

pub fn outOfHostMemory() acl.Error {
    return fail(acl.code.rt_memory_allocation, "out of host memory");
}

pub fn begin() void {
    reason = "";
}

/// Every aclError leaves the library through here.
pub fn finish(name: []const u8, code: acl.Error) acl.Error {
    if (code == acl.code.success or code == acl.code.repeat_initialize) return code;
    if (isRuntimeLayer(code)) last = code;
    const module = if (code == acl.code.rt_memory_allocation) "EL0004: " else "";
    const room: []u8 = pending[0 .. pending.len - 1];
    const text = if (reason.len > 0)
        std.fmt.bufPrint(room, "{s}{s} (camem emulator)", .{ module, reason })
    else
        std.fmt.bufPrint(room, "{s}{s} returned {d} (camem emulator)", .{ module, name, code });
    // bufPrint leaves the beginning of a text that is too long in the buffer.
    pending_length = (text catch room).len;
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

pub fn lastCode() acl.Error {
    return last;
}

pub fn clearLastCode() void {
    last = acl.code.success;
}

/// The text of the newest failure. Returns it once.
pub fn takeMessage() ?[*:0]const u8 {
    if (pending_length == 0) return null;
    @memcpy(shown[0..pending_length], pending[0..pending_length]);
    shown[pending_length] = 0;
    defer pending_length = 0;
    return shown[0..pending_length :0].ptr;
}

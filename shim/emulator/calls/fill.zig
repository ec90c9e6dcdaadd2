//! Fills, synchronous and queued.

const acl = @import("acl");
const context = @import("../context.zig");
const errors = @import("../errors.zig");
const lock = @import("../lock.zig");
const stream_module = @import("../stream.zig");
const Fill = @import("../copy.zig").Fill;
const checkRoom = @import("../copy.zig").checkRoom;
const Stream = stream_module.Stream;

pub fn aclrtMemset(pointer: ?*anyopaque, room: usize, value: i32, count: usize) acl.Error {
    if (count == 0) return acl.code.success;
    if (pointer == null) return errors.fail(acl.code.invalid_param, "devPtr is NULL");
    lock.enter();
    defer lock.leave();
    _ = context.current() orelse return context.noContext();
    const code = checkRoom(room, count);
    if (code != acl.code.success) return code;
    var fill: Fill = .{ .destination = @intFromPtr(pointer), .value = value, .size = count };
    return fill.runNow();
}

pub fn aclrtMemsetAsync(pointer: ?*anyopaque, room: usize, value: i32, count: usize, handle: acl.Stream) acl.Error {
    if (count == 0) return acl.code.success;
    if (pointer == null) return errors.fail(acl.code.invalid_param, "devPtr is NULL");
    lock.enter();
    defer lock.leave();
    if (stream_module.isStale(handle)) return stream_module.stale();
    var code = checkRoom(room, count);
    if (code != acl.code.success) return code;
    var stream: *Stream = undefined;
    code = context.resolveOwnStream(handle, &stream);
    if (code != acl.code.success) return code;
    var fill: Fill = .{ .destination = @intFromPtr(pointer), .value = value, .size = count };
    code = fill.pin();
    if (code != acl.code.success) return code;
    if (fill.to.isHost()) {
        fill.to.unpin();
        return fill.runNow();
    }
    code = stream.enqueue(.{ .fill = fill });
    if (code != acl.code.success) fill.to.unpin();
    return code;
}

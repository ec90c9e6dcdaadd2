//! Single copies, synchronous and queued.

const acl = @import("acl");
const context = @import("../context.zig");
const copy_module = @import("../copy.zig");
const errors = @import("../errors.zig");
const lock = @import("../lock.zig");
const stream_module = @import("../stream.zig");
const Copy = copy_module.Copy;
const Stream = stream_module.Stream;

const invalid = acl.code.invalid_param;

fn checkPointers(destination: ?*anyopaque, source: ?*const anyopaque, kind: c_int) acl.Error {
    if (destination == null or source == null) return errors.fail(invalid, "dst or src is NULL");
    if (kind < 0 or kind > acl.MemcpyKind.host_to_buf_to_device) return errors.fail(invalid, "unknown copy kind");
    return acl.code.success;
}

pub fn aclrtMemcpy(
    destination: ?*anyopaque,
    room: usize,
    source: ?*const anyopaque,
    count: usize,
    kind: c_int,
) acl.Error {
    if (count == 0) return acl.code.success;
    var code = checkPointers(destination, source, kind);
    if (code == acl.code.success) code = copy_module.checkRoom(room, count);
    if (code != acl.code.success) return code;
    if (destination == source) return acl.code.success;
    lock.enter();
    defer lock.leave();
    _ = context.current() orelse return context.noContext();
    var copy = makeCopy(destination, source, count);
    code = copy.pin();
    if (code != acl.code.success) return code;
    return copy.runNow();
}

fn makeCopy(destination: ?*anyopaque, source: ?*const anyopaque, size: usize) Copy {
    return .{ .destination = @intFromPtr(destination), .source = @intFromPtr(source), .size = size };
}

pub fn aclrtMemcpyAsync(
    destination: ?*anyopaque,
    room: usize,
    source: ?*const anyopaque,
    count: usize,
    kind: c_int,
    handle: acl.Stream,
) acl.Error {
    if (count == 0) return acl.code.success;
    var code = checkPointers(destination, source, kind);
    if (code != acl.code.success) return code;
    lock.enter();
    defer lock.leave();
    if (stream_module.isStale(handle)) return stream_module.stale();
    code = copy_module.checkRoom(room, count);
    if (code != acl.code.success) return code;
    if (destination == source) return acl.code.success;
    var stream: *Stream = undefined;
    code = context.resolveOwnStream(handle, &stream);
    if (code != acl.code.success) return code;
    var copy = makeCopy(destination, source, count);
    code = copy.pin();
    if (code != acl.code.success) return code;
    code = checkKind(&copy, kind);
    if (code != acl.code.success) {
        copy.unpin();
        return code;
    }
    return stream.submitCopy(&copy);
}

/// The runtime corrects the kind by the pointers, but a side that the kind calls a device cannot be plain host memory.
fn checkKind(copy: *const Copy, kind: c_int) acl.Error {
    const to_device = switch (kind) {
        acl.MemcpyKind.host_to_device, acl.MemcpyKind.device_to_device, acl.MemcpyKind.host_to_buf_to_device => true,
        else => false,
    };
    const from_device = kind == acl.MemcpyKind.device_to_host or kind == acl.MemcpyKind.device_to_device;
    if ((to_device and copy.to.side == .pageable_host) or (from_device and copy.from.side == .pageable_host))
        return errors.fail(acl.code.rt_param_invalid, "the copy kind contradicts the pointers");
    if (copy.to.isHost() and copy.from.isHost())
        return errors.fail(acl.code.rt_feature_not_supported, "no asynchronous copy from host to host");
    return acl.code.success;
}

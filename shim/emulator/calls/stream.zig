//! AscendCL's calls on streams, and waiting for a whole device.

const acl = @import("acl");
const clock = @import("../clock.zig");
const context_module = @import("../context.zig");
const errors = @import("../errors.zig");
const handles = @import("../handles.zig");
const lock = @import("../lock.zig");
const stream_module = @import("../stream.zig");
const HostFunction = @import("../stream_task.zig").HostFunction;
const Stream = stream_module.Stream;

const max_streams_per_device = 1984;
const known_flags: u32 = 0x3f;
const flag_device_only: u32 = 0x20;
const lowest_priority = 7;

pub fn aclrtCreateStream(handle: ?*acl.Stream) acl.Error {
    return aclrtCreateStreamWithConfig(handle, 0, 0);
}

pub fn aclrtCreateStreamWithConfig(handle: ?*acl.Stream, priority: u32, flags: u32) acl.Error {
    const out = handle orelse return errors.fail(acl.code.invalid_param, "stream is NULL");
    lock.enter();
    defer lock.leave();
    const context = context_module.current() orelse return context_module.noContext();
    const device = context.device.user_id;
    if (stream_module.countOn(device) >= max_streams_per_device)
        return errors.fail(acl.code.rt_no_stream_resource, "too many streams");
    const stream = stream_module.create(context.handle, device, false) catch
        return errors.fail(acl.code.rt_no_stream_resource, "out of host memory");
    stream.priority = @min(priority, lowest_priority);
    stream.flags = flags & known_flags;
    out.* = handles.toPointer(stream.handle);
    return acl.code.success;
}

pub fn aclrtDestroyStream(handle: acl.Stream) acl.Error {
    return destroy(handle, false);
}

pub fn aclrtDestroyStreamForce(handle: acl.Stream) acl.Error {
    return destroy(handle, true);
}

fn destroy(handle: acl.Stream, force: bool) acl.Error {
    if (handle == null) return errors.fail(acl.code.invalid_param, "stream is NULL");
    lock.enter();
    defer lock.leave();
    if (isCaptured(handle)) return stream_module.captured();
    var stream: *Stream = undefined;
    const code = context_module.resolveOwnStream(handle, &stream);
    if (code != acl.code.success) return code;
    if (stream.is_default) return errors.fail(acl.code.rt_param_invalid, "the context owns its default stream");
    stream.close(force);
    return acl.code.success;
}

fn isCaptured(handle: acl.Stream) bool {
    const stream = stream_module.registry.get(handle) orelse return false;
    return stream.capture != null;
}

pub fn aclrtSynchronizeStream(handle: acl.Stream) acl.Error {
    return aclrtSynchronizeStreamWithTimeout(handle, -1);
}

pub fn aclrtSynchronizeStreamWithTimeout(handle: acl.Stream, milliseconds: i32) acl.Error {
    if (milliseconds < -1) return errors.fail(acl.code.rt_param_invalid, "the timeout is below -1");
    lock.enter();
    defer lock.leave();
    if (stream_module.isStale(handle)) return stream_module.stale();
    const deadline = deadlineOf(milliseconds) orelse return errors.fail(acl.code.rt_param_invalid, "the timeout is 0");
    if (isCaptured(handle)) return stream_module.captured();
    var stream: *Stream = undefined;
    const code = context_module.resolveStream(handle, &stream);
    if (code != acl.code.success) return code;
    stream.references += 1;
    defer stream.release();
    if (!stream.drain(deadline.at))
        return errors.fail(acl.code.rt_stream_sync_timeout, "the stream was not done in time");
    return stream.takeFailure();
}

const Deadline = struct { at: ?u64 };

/// -1 waits without end; 0 is no valid timeout (null).
fn deadlineOf(milliseconds: i32) ?Deadline {
    if (milliseconds == 0) return null;
    if (milliseconds < 0) return .{ .at = null };
    return .{ .at = clock.afterMilliseconds(@intCast(milliseconds)) };
}

pub fn aclrtSynchronizeDevice() acl.Error {
    return aclrtSynchronizeDeviceWithTimeout(-1);
}

pub fn aclrtSynchronizeDeviceWithTimeout(milliseconds: i32) acl.Error {
    if (milliseconds < -1) return errors.fail(acl.code.rt_param_invalid, "the timeout is below -1");
    const deadline = deadlineOf(milliseconds) orelse return errors.fail(acl.code.rt_param_invalid, "the timeout is 0");
    lock.enter();
    defer lock.leave();
    const context = context_module.current() orelse return context_module.noContext();
    const device = context.device.user_id;
    for (stream_module.registry.items.values()) |stream| {
        if (stream.context == context.handle and stream.capture != null) return stream_module.captured();
    }
    while (firstBusy(device)) |stream| {
        stream.references += 1;
        defer stream.release();
        if (!stream.drain(deadline.at))
            return errors.fail(acl.code.rt_stream_sync_timeout, "the device was not done in time");
    }
    for (stream_module.registry.items.values()) |stream| {
        if (stream.device != device) continue;
        const code = stream.takeFailure();
        if (code != acl.code.success) return code;
    }
    return acl.code.success;
}

fn firstBusy(device: u8) ?*Stream {
    for (stream_module.registry.items.values()) |stream| {
        if (stream.device == device and !stream.isIdle()) return stream;
    }
    return null;
}

pub fn aclrtStreamQuery(handle: acl.Stream, status: ?*c_int) acl.Error {
    const out = status orelse return errors.fail(acl.code.invalid_param, "status is NULL");
    lock.enter();
    defer lock.leave();
    if (isCaptured(handle)) return stream_module.captured();
    var stream: *Stream = undefined;
    const code = context_module.resolveStream(handle, &stream);
    if (code != acl.code.success) return code;
    out.* = if (stream.isIdle()) acl.StreamStatus.complete else acl.StreamStatus.not_ready;
    return acl.code.success;
}

pub fn aclrtStreamGetId(handle: acl.Stream, id: ?*i32) acl.Error {
    const out = id orelse return errors.fail(acl.code.invalid_param, "streamId is NULL");
    lock.enter();
    defer lock.leave();
    // Only the default stream depends on a context.
    var stream = stream_module.registry.get(handle);
    if (stream == null) {
        var found: *Stream = undefined;
        const code = context_module.resolveStream(handle, &found);
        if (code != acl.code.success) return code;
        stream = found;
    }
    out.* = @intCast(handles.indexOf(stream.?.handle));
    return acl.code.success;
}

pub fn aclrtStreamGetPriority(handle: acl.Stream, priority: ?*u32) acl.Error {
    const out = priority orelse return errors.fail(acl.code.invalid_param, "priority is NULL");
    lock.enter();
    defer lock.leave();
    var stream: *Stream = undefined;
    const code = context_module.resolveStream(handle, &stream);
    if (code != acl.code.success) return code;
    out.* = stream.priority;
    return acl.code.success;
}

pub fn aclrtStreamGetFlags(handle: acl.Stream, flags: ?*u32) acl.Error {
    const out = flags orelse return errors.fail(acl.code.invalid_param, "flags is NULL");
    lock.enter();
    defer lock.leave();
    var stream: *Stream = undefined;
    const code = context_module.resolveStream(handle, &stream);
    if (code != acl.code.success) return code;
    out.* = stream.flags;
    return acl.code.success;
}

/// Bit 0 of the mode: whether a failed task stops the stream. A stopped stream cannot be changed back.
pub fn aclrtSetStreamFailureMode(handle: acl.Stream, mode: u64) acl.Error {
    lock.enter();
    defer lock.leave();
    if (handle == null and context_module.current() == null)
        return errors.fail(acl.code.rt_param_invalid, "no default stream without a context");
    var stream: *Stream = undefined;
    const code = context_module.resolveStream(handle, &stream);
    if (code != acl.code.success) return code;
    if (stream.flags & flag_device_only != 0)
        return errors.fail(acl.code.rt_feature_not_supported, "the stream is for the device only");
    const stops = mode & 1 != 0;
    if (stops == stream.stops_on_failure) return acl.code.success;
    if (!stops) return errors.fail(acl.code.rt_feature_not_supported, "the stream stops on failure already");
    var own: *Stream = undefined;
    const ownership = context_module.resolveOwnStream(handle, &own);
    if (ownership != acl.code.success) return ownership;
    own.stops_on_failure = true;
    return acl.code.success;
}

pub fn aclrtLaunchHostFunc(handle: acl.Stream, function: ?HostFunction, argument: ?*anyopaque) acl.Error {
    const call = function orelse return errors.fail(acl.code.rt_param_invalid, "fn is NULL");
    lock.enter();
    defer lock.leave();
    var stream: *Stream = undefined;
    const code = context_module.resolveOwnStream(handle, &stream);
    if (code != acl.code.success) return code;
    return stream.enqueue(.{ .host_function = .{ .function = call, .argument = argument } });
}

/// The real runtime runs callbacks on a subscribed thread. Here the stream's own thread runs them, in the same order.
pub fn aclrtLaunchCallback(
    function: ?HostFunction,
    argument: ?*anyopaque,
    block_type: c_int,
    handle: acl.Stream,
) acl.Error {
    if (block_type != 0 and block_type != 1) return errors.fail(acl.code.rt_param_invalid, "unknown block type");
    return aclrtLaunchHostFunc(handle, function, argument);
}

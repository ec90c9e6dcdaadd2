//! AscendCL's calls on events.

const std = @import("std");
const acl = @import("acl");
const clock = @import("../clock.zig");
const context = @import("../context.zig");
const errors = @import("../errors.zig");
const event_module = @import("../event.zig");
const handles = @import("../handles.zig");
const lock = @import("../lock.zig");
const Stream = @import("../stream.zig").Stream;

const flag_timeline: u32 = 0x8;
const flag_device_only: u32 = 0x10;
const flag_external: u32 = 0x20;
const flag_ipc: u32 = 0x40;
const flags_old: u32 = 0x3b;

pub fn aclrtCreateEvent(handle: ?*acl.Event) acl.Error {
    return new(handle, flag_timeline, false);
}

pub fn aclrtCreateEventWithFlag(handle: ?*acl.Event, flags: u32) acl.Error {
    if (handle == null) return nullEvent();
    if (!validFlags(flags, flags_old)) return errors.fail(acl.code.rt_param_invalid, "invalid event flags");
    return new(handle, flags, false);
}

pub fn aclrtCreateEventExWithFlag(handle: ?*acl.Event, flags: u32) acl.Error {
    if (handle == null) return nullEvent();
    if (flags == flag_ipc) return errors.fail(acl.code.rt_feature_not_supported, "no IPC events");
    if (!validFlags(flags, flags_old)) return errors.fail(acl.code.rt_param_invalid, "invalid event flags");
    return new(handle, flags, true);
}

fn validFlags(flags: u32, mask: u32) bool {
    if (flags == 0 or flags & ~mask != 0) return false;
    if (flags & (flag_device_only | flag_external) == 0) return true;
    return flags == flag_device_only or flags == flag_external;
}

fn nullEvent() acl.Error {
    return errors.fail(acl.code.invalid_param, "event is NULL");
}

fn staleEvent() acl.Error {
    return errors.fail(acl.code.rt_invalid_handle, "no such event, or destroyed already");
}

fn new(handle: ?*acl.Event, flags: u32, is_new_mode: bool) acl.Error {
    const out = handle orelse return nullEvent();
    lock.enter();
    defer lock.leave();
    _ = context.current() orelse return context.noContext();
    const event = event_module.register(.{ .is_new_mode = is_new_mode, .has_time = flags & flag_timeline != 0 }) catch
        return errors.fail(acl.code.rt_resource_alloc_fail, "out of host memory");
    out.* = handles.toPointer(event.handle);
    return acl.code.success;
}

pub fn aclrtDestroyEvent(handle: acl.Event) acl.Error {
    if (handle == null) return nullEvent();
    lock.enter();
    defer lock.leave();
    const event = event_module.registry.get(handle) orelse return staleEvent();
    event_module.registry.remove(event.handle);
    event.release();
    return acl.code.success;
}

pub fn aclrtRecordEvent(handle: acl.Event, stream_handle: acl.Stream) acl.Error {
    if (handle == null) return nullEvent();
    lock.enter();
    defer lock.leave();
    const event = event_module.registry.get(handle) orelse return staleEvent();
    var stream: *Stream = undefined;
    var code = context.resolveOwnStream(stream_handle, &stream);
    if (code != acl.code.success) return code;
    code = stream.enqueue(.{ .record_event = .{ .event = event, .generation = event.recorded + 1 } });
    if (code != acl.code.success) return code;
    event.recorded += 1;
    event.references += 1;
    return acl.code.success;
}

pub fn aclrtStreamWaitEvent(stream_handle: acl.Stream, handle: acl.Event) acl.Error {
    if (handle == null) return nullEvent();
    lock.enter();
    defer lock.leave();
    const event = event_module.registry.get(handle) orelse return staleEvent();
    var stream: *Stream = undefined;
    var code = context.resolveOwnStream(stream_handle, &stream);
    if (code != acl.code.success) return code;
    if (event.recorded == 0 and !event.is_new_mode) return errors.fail(acl.code.rt_param_invalid, "never recorded");
    code = stream.enqueue(.{ .wait_event = .{ .event = event, .generation = event.recorded } });
    if (code != acl.code.success) return code;
    event.references += 1;
    return acl.code.success;
}

pub fn aclrtSynchronizeEvent(handle: acl.Event) acl.Error {
    return aclrtSynchronizeEventWithTimeout(handle, -1);
}

pub fn aclrtSynchronizeEventWithTimeout(handle: acl.Event, milliseconds: i32) acl.Error {
    if (handle == null) return nullEvent();
    if (milliseconds < -1) return errors.fail(acl.code.rt_param_invalid, "the timeout is below -1");
    lock.enter();
    defer lock.leave();
    const event = event_module.registry.get(handle) orelse return staleEvent();
    if (milliseconds == 0) return errors.fail(acl.code.rt_param_invalid, "the timeout is 0");
    event.references += 1;
    defer event.release();
    const target = event.recorded;
    if (milliseconds < 0) {
        while (event.completed < target) lock.wait();
        return acl.code.success;
    }
    const deadline = clock.afterMilliseconds(@intCast(milliseconds));
    while (event.completed < target) {
        if (clock.now() >= deadline)
            return errors.fail(acl.code.rt_event_sync_timeout, "the event was not reached in time");
        lock.waitUntil(deadline);
    }
    return acl.code.success;
}

pub fn aclrtQueryEventStatus(handle: acl.Event, status: ?*c_int) acl.Error {
    const out = status orelse return errors.fail(acl.code.invalid_param, "status is NULL");
    var complete = false;
    const code = isComplete(handle, &complete);
    if (code != acl.code.success) return code;
    out.* = if (complete) acl.EventRecordedStatus.complete else acl.EventRecordedStatus.not_ready;
    return acl.code.success;
}

/// The deprecated query has the opposite polarity: 0 is complete.
pub fn aclrtQueryEvent(handle: acl.Event, status: ?*c_int) acl.Error {
    const out = status orelse return errors.fail(acl.code.invalid_param, "status is NULL");
    var complete = false;
    const code = isComplete(handle, &complete);
    if (code != acl.code.success) return code;
    out.* = if (complete) 0 else 1;
    return acl.code.success;
}

fn isComplete(handle: acl.Event, out: *bool) acl.Error {
    if (handle == null) return nullEvent();
    lock.enter();
    defer lock.leave();
    const event = event_module.registry.get(handle) orelse return staleEvent();
    out.* = if (event.recorded == 0) event.is_new_mode else !event.isPending();
    return acl.code.success;
}

pub fn aclrtEventElapsedTime(milliseconds: ?*f32, start: acl.Event, end: acl.Event) acl.Error {
    const out = milliseconds orelse return errors.fail(acl.code.invalid_param, "ms is NULL");
    if (start == null or end == null) return nullEvent();
    lock.enter();
    defer lock.leave();
    const first = event_module.registry.get(start) orelse return staleEvent();
    const last = event_module.registry.get(end) orelse return staleEvent();
    if (first.recorded == 0 or last.recorded == 0)
        return errors.fail(acl.code.rt_internal_error, "an event was never recorded");
    if (first.isPending() or last.isPending() or !first.has_time or !last.has_time)
        return errors.fail(acl.code.rt_event_timestamp_invalid, "an event is pending or records no time");
    const from: f64 = @floatFromInt(first.time);
    const to: f64 = @floatFromInt(last.time);
    out.* = @floatCast((to - from) / std.time.ns_per_ms);
    return acl.code.success;
}

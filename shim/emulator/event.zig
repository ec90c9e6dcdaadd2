//! Events: a point in a stream's order that others can wait for. Each record starts a new generation.

const std = @import("std");
const acl = @import("acl");
const sync = @import("sync.zig");
const state = @import("state.zig");
const errors = @import("errors.zig");
const handles = @import("handles.zig");
const device = @import("device.zig");
const streams = @import("stream.zig");

const flag_timeline: u32 = 0x8;
const flag_device_only: u32 = 0x10;
const flag_external: u32 = 0x20;
const flag_ipc: u32 = 0x40;
const flags_old: u32 = 0x3b;

pub const Event = struct {
    handle: u64 = 0,
    is_new_mode: bool,
    has_time: bool,
    recorded: u64 = 0,
    completed: u64 = 0,
    time: u64 = 0,
    /// One for the registry, one for each queued use and each waiter.
    references: u32 = 1,

    pub fn complete(event: *Event, generation: u64) void {
        if (generation <= event.completed) return;
        event.completed = generation;
        event.time = sync.now();
        state.announce();
    }

    pub fn release(event: *Event) void {
        event.references -= 1;
        if (event.references == 0) state.allocator.destroy(event);
    }

    fn isPending(event: *const Event) bool {
        return event.completed < event.recorded;
    }
};

pub var registry: handles.Registry(Event, .event) = .{};

pub fn create(handle: ?*acl.Event) acl.Error {
    return new(handle, flag_timeline, false);
}

pub fn createWithFlag(handle: ?*acl.Event, flags: u32) acl.Error {
    if (handle == null) return nullEvent();
    if (!validFlags(flags, flags_old)) return errors.fail(acl.code.rt_param_invalid, "invalid event flags");
    return new(handle, flags, false);
}

pub fn createExtended(handle: ?*acl.Event, flags: u32) acl.Error {
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
    state.enter();
    defer state.leave();
    _ = device.current() orelse return device.noContext();
    const event = register(.{ .is_new_mode = is_new_mode, .has_time = flags & flag_timeline != 0 }) catch
        return errors.fail(acl.code.rt_resource_alloc_fail, "out of host memory");
    out.* = handles.toPointer(event.handle);
    return acl.code.success;
}

fn register(event: Event) error{OutOfMemory}!*Event {
    const stored = try state.allocator.create(Event);
    errdefer state.allocator.destroy(stored);
    stored.* = event;
    stored.handle = try registry.add(stored);
    return stored;
}

pub fn destroy(handle: acl.Event) acl.Error {
    if (handle == null) return nullEvent();
    state.enter();
    defer state.leave();
    const event = registry.get(handle) orelse return staleEvent();
    registry.remove(event.handle);
    event.release();
    return acl.code.success;
}

pub fn record(handle: acl.Event, stream_handle: acl.Stream) acl.Error {
    if (handle == null) return nullEvent();
    state.enter();
    defer state.leave();
    const event = registry.get(handle) orelse return staleEvent();
    var stream: *streams.Stream = undefined;
    var code = streams.resolveOwn(stream_handle, &stream);
    if (code != acl.code.success) return code;
    code = stream.enqueue(.{ .record_event = .{ .event = event, .generation = event.recorded + 1 } });
    if (code != acl.code.success) return code;
    event.recorded += 1;
    event.references += 1;
    return acl.code.success;
}

pub fn streamWait(stream_handle: acl.Stream, handle: acl.Event) acl.Error {
    if (handle == null) return nullEvent();
    state.enter();
    defer state.leave();
    const event = registry.get(handle) orelse return staleEvent();
    var stream: *streams.Stream = undefined;
    var code = streams.resolveOwn(stream_handle, &stream);
    if (code != acl.code.success) return code;
    code = stream.enqueue(.{ .wait_event = .{ .event = event, .generation = event.recorded } });
    if (code != acl.code.success) return code;
    event.references += 1;
    return acl.code.success;
}

pub fn synchronize(handle: acl.Event) acl.Error {
    return synchronizeWithTimeout(handle, -1);
}

pub fn synchronizeWithTimeout(handle: acl.Event, milliseconds: i32) acl.Error {
    if (handle == null) return nullEvent();
    if (milliseconds < -1) return errors.fail(acl.code.rt_param_invalid, "the timeout is below -1");
    state.enter();
    defer state.leave();
    const event = registry.get(handle) orelse return staleEvent();
    if (milliseconds == 0) return errors.fail(acl.code.rt_param_invalid, "the timeout is 0");
    event.references += 1;
    defer event.release();
    const target = event.recorded;
    if (milliseconds < 0) {
        while (event.completed < target) state.wait();
        return acl.code.success;
    }
    const deadline = sync.afterMilliseconds(@intCast(milliseconds));
    while (event.completed < target) {
        if (sync.now() >= deadline)
            return errors.fail(acl.code.rt_event_sync_timeout, "the event was not reached in time");
        state.waitUntil(deadline);
    }
    return acl.code.success;
}

pub fn queryStatus(handle: acl.Event, status: ?*c_int) acl.Error {
    const out = status orelse return errors.fail(acl.code.invalid_param, "status is NULL");
    var complete = false;
    const code = isComplete(handle, &complete);
    if (code != acl.code.success) return code;
    out.* = if (complete) acl.EventRecordedStatus.complete else acl.EventRecordedStatus.not_ready;
    return acl.code.success;
}

/// The deprecated query has the opposite polarity: 0 is complete.
pub fn query(handle: acl.Event, status: ?*c_int) acl.Error {
    const out = status orelse return errors.fail(acl.code.invalid_param, "status is NULL");
    var complete = false;
    const code = isComplete(handle, &complete);
    if (code != acl.code.success) return code;
    out.* = if (complete) 0 else 1;
    return acl.code.success;
}

fn isComplete(handle: acl.Event, out: *bool) acl.Error {
    if (handle == null) return nullEvent();
    state.enter();
    defer state.leave();
    const event = registry.get(handle) orelse return staleEvent();
    out.* = if (event.recorded == 0) event.is_new_mode else !event.isPending();
    return acl.code.success;
}

pub fn elapsed(milliseconds: ?*f32, start: acl.Event, end: acl.Event) acl.Error {
    const out = milliseconds orelse return errors.fail(acl.code.invalid_param, "ms is NULL");
    if (start == null or end == null) return nullEvent();
    state.enter();
    defer state.leave();
    const first = registry.get(start) orelse return staleEvent();
    const last = registry.get(end) orelse return staleEvent();
    if (first.recorded == 0 or last.recorded == 0)
        return errors.fail(acl.code.rt_internal_error, "an event was never recorded");
    if (first.isPending() or last.isPending() or !first.has_time or !last.has_time)
        return errors.fail(acl.code.rt_event_timestamp_invalid, "an event has no time stamp (yet)");
    const from: f64 = @floatFromInt(first.time);
    const to: f64 = @floatFromInt(last.time);
    out.* = @floatCast((to - from) / std.time.ns_per_ms);
    return acl.code.success;
}

const testing = @import("testing.zig");
const expectCode = testing.expectCode;

test "events are recorded in stream order and timed" {
    defer testing.cleanUp();
    var gate: testing.Gate = .{};
    var stream: acl.Stream = null;
    var start: acl.Event = null;
    var end: acl.Event = null;
    var status: c_int = -1;
    var milliseconds: f32 = -1;
    try expectCode(107002, create(&start));
    try expectCode(0, device.set(0));
    try expectCode(100000, create(null));
    try expectCode(0, create(&start));
    try expectCode(0, create(&end));
    try expectCode(0, streams.create(&stream));
    try expectCode(0, queryStatus(start, &status));
    try std.testing.expectEqual(acl.EventRecordedStatus.not_ready, status);
    try expectCode(0, synchronize(start));
    try expectCode(0, streamWait(stream, start));
    try expectCode(507000, elapsed(&milliseconds, start, end));
    try expectCode(0, record(start, stream));
    try expectCode(0, synchronize(start)); // so that the wait below lies between the two events, however late the stream runs
    try expectCode(0, streams.launchHostFunction(stream, testing.Gate.pass, &gate));
    try expectCode(0, record(end, stream));
    try expectCode(0, queryStatus(end, &status));
    try std.testing.expectEqual(acl.EventRecordedStatus.not_ready, status);
    try expectCode(107006, elapsed(&milliseconds, start, end));
    try expectCode(507047, synchronizeWithTimeout(end, 2));
    gate.open();
    try expectCode(0, synchronize(end));
    try expectCode(0, queryStatus(end, &status));
    try std.testing.expectEqual(acl.EventRecordedStatus.complete, status);
    try expectCode(0, elapsed(&milliseconds, start, end));
    try std.testing.expect(milliseconds >= 1.0);
    try expectCode(0, destroy(start));
    try expectCode(107017, destroy(start));
    try expectCode(107017, record(start, stream));
    try expectCode(0, destroy(end));
}

test "event flags" {
    defer testing.cleanUp();
    var event: acl.Event = null;
    var status: c_int = -1;
    try expectCode(0, device.set(0));
    for ([_]u32{ 0, 0x80, 0x40, 0x11, 0x21, 0x30 }) |flags| try expectCode(107000, createWithFlag(&event, flags));
    try expectCode(207000, createExtended(&event, 0x40));
    try expectCode(0, createExtended(&event, 1));
    try expectCode(0, queryStatus(event, &status));
    try std.testing.expectEqual(acl.EventRecordedStatus.complete, status);
    try expectCode(0, query(event, &status));
    try std.testing.expectEqual(0, status);
    try expectCode(0, destroy(event));
}

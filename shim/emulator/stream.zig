//! Streams: in-order queues, each with a thread of its own that starts with the first work.

const std = @import("std");
const linux = std.os.linux;
const acl = @import("acl");
const sync = @import("sync.zig");
const state = @import("state.zig");
const errors = @import("errors.zig");
const handles = @import("handles.zig");
const device_module = @import("device.zig");
const config = @import("config.zig");
const threads = @import("threads.zig");
const timing = @import("timing.zig");
const task_module = @import("task.zig");
const Task = task_module.Task;
const Work = task_module.Work;
const Context = device_module.Context;

const max_streams_per_device = 1984;
const known_flags: u32 = 0x3f;

/// A forced destroy waits for no work, but on a device work that was launched starts within microseconds. Ours has to
/// wait for a thread to be scheduled, so short work gets this long to finish before it is dropped.
const forced_grace_milliseconds = 100;

const nobody_waits = std.math.maxInt(u64);

pub const Stream = struct {
    handle: u64 = 0,
    context: u64,
    device: u8,
    is_default: bool,
    head: ?*Task = null,
    tail: ?*Task = null,
    work_arrived: sync.Condition = .{},
    submitted: u64 = 0,
    completed: u64 = 0,
    /// The lowest count of completed tasks that a thread waits for: waking it for every task would cost more than the task.
    awaited: u64 = nobody_waits,
    /// When its last copy ends by the timing model.
    modelled_end: u64 = 0,
    has_thread: bool = false,
    /// The thread ends once the queue is empty.
    closing: bool = false,
    /// Queued work is dropped and waits give up.
    abandoned: bool = false,
    /// Of the first task that failed since the last synchronize.
    failure: acl.Error = acl.code.success,
    /// One for the registry, one for the thread, one for each waiter.
    references: u32 = 1,

    pub fn release(stream: *Stream) void {
        stream.references -= 1;
        if (stream.references > 0) return;
        stream.work_arrived.destroy();
        state.allocator.destroy(stream);
    }

    /// Queues the work; on failure the work still belongs to the caller.
    pub fn enqueue(stream: *Stream, work: Work) acl.Error {
        if (stream.closing) return errors.fail(acl.code.rt_invalid_handle, "the stream is being destroyed");
        const task = state.allocator.create(Task) catch
            return errors.fail(acl.code.rt_memory_allocation, "out of host memory");
        if (!stream.has_thread) {
            if (!threads.start(runStream, stream)) {
                state.allocator.destroy(task);
                return errors.fail(acl.code.rt_resource_alloc_fail, "no thread for the stream");
            }
            stream.has_thread = true;
            stream.references += 1;
        }
        task.* = .{ .work = work, .submitted_at = timing.begin(&config.get().timing) };
        if (stream.tail) |tail| tail.next = task else stream.head = task;
        stream.tail = task;
        stream.submitted += 1;
        stream.work_arrived.signal();
        return acl.code.success;
    }

    fn pop(stream: *Stream) ?*Task {
        const task = stream.head orelse return null;
        stream.head = task.next;
        if (stream.head == null) stream.tail = null;
        return task;
    }

    fn finish(stream: *Stream, task: *Task) void {
        task.work.release();
        state.allocator.destroy(task);
        stream.completed += 1;
        if (stream.completed < stream.awaited) return;
        stream.awaited = nobody_waits;
        state.announce();
    }

    /// Waits for everything submitted so far; false when the deadline passed first.
    pub fn drain(stream: *Stream, deadline: ?u64) bool {
        const target = stream.submitted;
        stream.references += 1;
        defer stream.release();
        while (stream.completed < target) {
            stream.awaited = @min(stream.awaited, target);
            const limit = deadline orelse {
                state.wait();
                continue;
            };
            if (sync.now() >= limit) return false;
            state.waitUntil(limit);
        }
        return true;
    }

    pub fn takeFailure(stream: *Stream) acl.Error {
        defer stream.failure = acl.code.success;
        if (stream.failure == acl.code.success) return acl.code.success;
        return errors.fail(stream.failure, "work queued on the stream failed");
    }
};

pub var registry: handles.Registry(Stream, .stream) = .{};

fn runStream(argument: ?*anyopaque) callconv(.c) ?*anyopaque {
    const stream: *Stream = @ptrCast(@alignCast(argument));
    state.enter();
    while (true) {
        const task = stream.pop() orelse {
            if (stream.closing) break;
            state.waitOn(&stream.work_arrived);
            continue;
        };
        const code = task.work.run(stream, task.submitted_at);
        // A copy ends when the model says, everything else when it does.
        if (task.work != .copy) stream.modelled_end = timing.begin(&config.get().timing);
        if (code != acl.code.success and stream.failure == acl.code.success) stream.failure = code;
        stream.finish(task);
    }
    stream.release();
    state.leave();
    return null;
}

fn new(context: *Context, is_default: bool) error{OutOfMemory}!*Stream {
    const stream = try state.allocator.create(Stream);
    errdefer state.allocator.destroy(stream);
    stream.* = .{ .context = context.handle, .device = context.device.user_id, .is_default = is_default };
    stream.handle = try registry.add(stream);
    return stream;
}

/// The stream that a call means, checked in the runtime's order: handle, then context. Null is the default stream.
pub fn resolve(handle: acl.Stream, out: **Stream) acl.Error {
    if (handle != null and registry.get(handle) == null) return staleStream();
    const context = device_module.current() orelse return device_module.noContext();
    if (registry.get(handle)) |stream| {
        out.* = stream;
        return acl.code.success;
    }
    const stream = context.default_stream orelse new(context, true) catch
        return errors.fail(acl.code.rt_no_stream_resource, "out of host memory");
    context.default_stream = stream;
    out.* = stream;
    return acl.code.success;
}

/// As `resolve`, for calls that accept streams of the current context only.
pub fn resolveOwn(handle: acl.Stream, out: **Stream) acl.Error {
    const code = resolve(handle, out);
    if (code != acl.code.success) return code;
    const context = device_module.current() orelse return device_module.noContext();
    if (out.*.context != context.handle)
        return errors.fail(acl.code.rt_stream_context, "the stream belongs to another context");
    return acl.code.success;
}

/// The check that precedes every other one at the runtime layer.
pub fn isStale(handle: acl.Stream) bool {
    return handle != null and registry.get(handle) == null;
}

pub fn staleStream() acl.Error {
    return errors.fail(acl.code.rt_invalid_handle, "no such stream, or destroyed already");
}

pub fn create(handle: ?*acl.Stream) acl.Error {
    return createWithConfig(handle, 0, 0);
}

pub fn createWithConfig(handle: ?*acl.Stream, priority: u32, flags: u32) acl.Error {
    _ = priority; // any value is clamped into the valid range, and the emulator has one priority
    const out = handle orelse return errors.fail(acl.code.invalid_param, "stream is NULL");
    if (flags & ~known_flags != 0) return errors.fail(acl.code.rt_param_invalid, "unknown flag");
    state.enter();
    defer state.leave();
    const context = device_module.current() orelse return device_module.noContext();
    var on_device: usize = 0;
    for (registry.items.values()) |stream| {
        if (stream.device == context.device.user_id) on_device += 1;
    }
    if (on_device >= max_streams_per_device) return errors.fail(acl.code.rt_no_stream_resource, "too many streams");
    const stream = new(context, false) catch
        return errors.fail(acl.code.rt_no_stream_resource, "out of host memory");
    out.* = handles.toPointer(stream.handle);
    return acl.code.success;
}

pub fn destroy(handle: acl.Stream) acl.Error {
    return destroyChecked(handle, false);
}

pub fn destroyForce(handle: acl.Stream) acl.Error {
    return destroyChecked(handle, true);
}

fn destroyChecked(handle: acl.Stream, force: bool) acl.Error {
    if (handle == null) return errors.fail(acl.code.invalid_param, "stream is NULL");
    state.enter();
    defer state.leave();
    var stream: *Stream = undefined;
    const code = resolveOwn(handle, &stream);
    if (code != acl.code.success) return code;
    close(stream, force);
    return acl.code.success;
}

/// Forced or not, the thread outlives the call only while it still executes one task.
fn close(stream: *Stream, force: bool) void {
    registry.remove(stream.handle);
    stream.closing = true;
    const deadline = if (force) sync.afterMilliseconds(forced_grace_milliseconds) else null;
    if (!stream.drain(deadline)) abandon(stream);
    stream.work_arrived.signal();
    stream.release();
}

fn abandon(stream: *Stream) void {
    stream.abandoned = true;
    while (stream.pop()) |task| stream.finish(task);
    state.announce();
}

pub fn destroyContext(context: u64, force: bool) void {
    while (firstOf(context)) |stream| close(stream, force);
}

fn firstOf(context: u64) ?*Stream {
    for (registry.items.values()) |stream| {
        if (stream.context == context) return stream;
    }
    return null;
}

pub fn synchronize(handle: acl.Stream) acl.Error {
    return synchronizeWithTimeout(handle, -1);
}

pub fn synchronizeWithTimeout(handle: acl.Stream, milliseconds: i32) acl.Error {
    if (milliseconds < -1) return errors.fail(acl.code.rt_param_invalid, "the timeout is below -1");
    state.enter();
    defer state.leave();
    if (isStale(handle)) return staleStream();
    const deadline = deadlineOf(milliseconds) orelse return errors.fail(acl.code.rt_param_invalid, "the timeout is 0");
    var stream: *Stream = undefined;
    const code = resolve(handle, &stream);
    if (code != acl.code.success) return code;
    return wait(stream, deadline);
}

fn wait(stream: *Stream, deadline: Deadline) acl.Error {
    stream.references += 1;
    defer stream.release();
    if (!stream.drain(deadline.at))
        return errors.fail(acl.code.rt_stream_sync_timeout, "the stream was not done in time");
    return stream.takeFailure();
}

const Deadline = struct { at: ?u64 };

/// -1 waits for ever; 0 is no valid timeout (null).
fn deadlineOf(milliseconds: i32) ?Deadline {
    if (milliseconds == 0) return null;
    if (milliseconds < 0) return .{ .at = null };
    return .{ .at = sync.afterMilliseconds(@intCast(milliseconds)) };
}

pub fn synchronizeDevice() acl.Error {
    return synchronizeDeviceWithTimeout(-1);
}

pub fn synchronizeDeviceWithTimeout(milliseconds: i32) acl.Error {
    if (milliseconds < -1) return errors.fail(acl.code.rt_param_invalid, "the timeout is below -1");
    const deadline = deadlineOf(milliseconds) orelse return errors.fail(acl.code.rt_param_invalid, "the timeout is 0");
    state.enter();
    defer state.leave();
    const context = device_module.current() orelse return device_module.noContext();
    const id = context.device.user_id;
    while (firstBusy(id)) |stream| {
        stream.references += 1;
        defer stream.release();
        if (!stream.drain(deadline.at))
            return errors.fail(acl.code.rt_stream_sync_timeout, "the device was not done in time");
    }
    for (registry.items.values()) |stream| {
        if (stream.device != id) continue;
        const code = stream.takeFailure();
        if (code != acl.code.success) return code;
    }
    return acl.code.success;
}

fn firstBusy(device: u8) ?*Stream {
    for (registry.items.values()) |stream| {
        if (stream.device == device and stream.completed < stream.submitted) return stream;
    }
    return null;
}

pub fn query(handle: acl.Stream, status: ?*c_int) acl.Error {
    const out = status orelse return errors.fail(acl.code.invalid_param, "status is NULL");
    state.enter();
    defer state.leave();
    var stream: *Stream = undefined;
    const code = resolve(handle, &stream);
    if (code != acl.code.success) return code;
    const idle = stream.completed == stream.submitted;
    out.* = if (idle) acl.StreamStatus.complete else acl.StreamStatus.not_ready;
    return acl.code.success;
}

pub fn launchHostFunction(handle: acl.Stream, function: ?task_module.HostFunction, argument: ?*anyopaque) acl.Error {
    const call = function orelse return errors.fail(acl.code.invalid_param, "fn is NULL");
    state.enter();
    defer state.leave();
    var stream: *Stream = undefined;
    const code = resolveOwn(handle, &stream);
    if (code != acl.code.success) return code;
    return stream.enqueue(.{ .host_function = .{ .function = call, .argument = argument } });
}

/// The real runtime runs callbacks on a subscribed thread; here the stream's own thread does, in the same order.
pub fn launchCallback(
    function: ?task_module.HostFunction,
    argument: ?*anyopaque,
    block_type: c_int,
    handle: acl.Stream,
) acl.Error {
    if (block_type != 0 and block_type != 1) return errors.fail(acl.code.rt_param_invalid, "unknown block type");
    return launchHostFunction(handle, function, argument);
}

/// Streams that the caller created, and work that is queued or running on any stream.
pub fn explicitCount() u64 {
    var count: u64 = 0;
    for (registry.items.values()) |stream| {
        if (!stream.is_default) count += 1;
    }
    return count;
}

pub fn queuedTasks() u64 {
    var count: u64 = 0;
    for (registry.items.values()) |stream| count += stream.submitted - stream.completed;
    return count;
}

const testing = @import("testing.zig");
const expectCode = testing.expectCode;

test "stream handles and contexts are checked" {
    defer testing.cleanUp();
    var stream: acl.Stream = null;
    try expectCode(107002, create(&stream));
    try expectCode(0, device_module.set(0));
    try expectCode(100000, create(null));
    try expectCode(107000, createWithConfig(&stream, 0, 0x40));
    try expectCode(0, createWithConfig(&stream, 99, 1));
    try expectCode(100000, destroy(null));
    var explicit: acl.Context = null;
    try expectCode(0, device_module.createContext(&explicit, 0));
    try expectCode(107003, destroy(stream));
    try expectCode(0, synchronize(stream));
    try expectCode(0, device_module.destroyContext(explicit));
    try expectCode(107002, destroy(stream));
    try expectCode(0, device_module.set(0));
    try expectCode(0, destroy(stream));
    try expectCode(107017, destroy(stream));
    try expectCode(107017, synchronize(stream));
    try expectCode(0, synchronize(null));
}

test "timeouts, order, and forced destroy" {
    defer testing.cleanUp();
    var gate: testing.Gate = .{};
    var stream: acl.Stream = null;
    var status: c_int = -1;
    try expectCode(0, device_module.set(0));
    try expectCode(0, create(&stream));
    try expectCode(100000, launchHostFunction(stream, null, null));
    try expectCode(0, launchHostFunction(stream, testing.Gate.pass, &gate));
    try expectCode(0, launchHostFunction(stream, testing.Gate.pass, &gate));
    try expectCode(0, query(stream, &status));
    try std.testing.expectEqual(acl.StreamStatus.not_ready, status);
    try expectCode(507046, synchronizeWithTimeout(stream, 2));
    try expectCode(507046, synchronizeDeviceWithTimeout(2));
    try expectCode(107000, synchronizeWithTimeout(stream, 0));
    try expectCode(107000, synchronizeWithTimeout(stream, -2));
    try expectCode(107000, synchronizeDeviceWithTimeout(0));
    gate.open();
    try expectCode(0, synchronizeDevice());
    try std.testing.expectEqual(2, gate.passed.load(.monotonic));
    try expectCode(0, query(stream, &status));
    try std.testing.expectEqual(acl.StreamStatus.complete, status);

    gate.close();
    try expectCode(0, launchHostFunction(stream, testing.Gate.pass, &gate));
    try expectCode(0, launchHostFunction(stream, testing.Gate.pass, &gate));
    try expectCode(0, destroyForce(stream));
    gate.open();
    while (gate.passed.load(.monotonic) < 3) sync.sleepMilliseconds(1);
    try std.testing.expectEqual(3, gate.passed.load(.monotonic));
}

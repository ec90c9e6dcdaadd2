//! A stream: an in-order queue of tasks with a thread of its own, which starts with the first task.

const std = @import("std");
const acl = @import("acl");
const clock = @import("clock.zig");
const config = @import("config.zig");
const errors = @import("errors.zig");
const faults = @import("faults.zig");
const graph_module = @import("graph.zig");
const handles = @import("handles.zig");
const lock = @import("lock.zig");
const stream_task = @import("stream_task.zig");
const sync = @import("sync.zig");
const threads = @import("threads.zig");
const timing = @import("timing.zig");
const Copy = @import("copy.zig").Copy;
const Graph = graph_module.Graph;
const Task = stream_task.Task;
const allocator = std.heap.c_allocator;

/// A forced destroy waits for no task. But a task that was launched on a device starts within microseconds, whereas
/// this library's thread must be scheduled first. So short tasks get this long to finish before they are dropped.
const forced_grace_milliseconds = 100;

const nobody_waits = std.math.maxInt(u64);

const QueuedTask = struct {
    task: Task,
    /// By the timing model's clock; 0 without a model.
    submitted_at: u64,
    next: ?*QueuedTask = null,
};

pub const Stream = struct {
    handle: u64 = 0,
    /// Handle of the context that it belongs to.
    context: u64,
    device: u8,
    is_default: bool,
    /// From 0, the highest, to 7. Every stream has a thread of its own, so nothing depends on it.
    priority: u32 = 0,
    flags: u32 = 0,
    /// After a failure nothing more runs, and every synchronize returns it.
    stops_on_failure: bool = false,
    head: ?*QueuedTask = null,
    tail: ?*QueuedTask = null,
    task_arrived: sync.Condition = .{},
    submitted: u64 = 0,
    completed: u64 = 0,
    /// The lowest count of completed tasks that a thread waits for. Waking the thread for every task would cost more
    /// than the task.
    awaited: u64 = nobody_waits,
    execution: stream_task.Execution = .{},
    /// Records tasks instead of executing them.
    capture: ?*Graph = null,
    has_thread: bool = false,
    /// The thread ends once the queue is empty.
    closing: bool = false,
    /// Of the first task that failed since the last synchronize.
    failure: acl.Error = acl.code.success,
    /// One for the registry, one for the thread, one for each waiter.
    references: u32 = 1,

    pub fn release(stream: *Stream) void {
        stream.references -= 1;
        if (stream.references > 0) return;
        stream.task_arrived.destroy();
        allocator.destroy(stream);
    }

    /// Queues the task; on failure it still belongs to the caller.
    pub fn enqueue(stream: *Stream, task: Task) acl.Error {
        if (stream.closing) return errors.fail(acl.code.rt_invalid_handle, "the stream is being destroyed");
        if (stream.capture) |graph| return graph.record(task);
        const queued = allocator.create(QueuedTask) catch
            return errors.outOfHostMemory();
        if (!stream.has_thread) {
            if (!threads.start(runStream, stream)) {
                allocator.destroy(queued);
                return errors.fail(acl.code.rt_resource_alloc_fail, "no thread for the stream");
            }
            stream.has_thread = true;
            stream.references += 1;
        }
        queued.* = .{ .task = task, .submitted_at = timing.begin(&config.get().timing) };
        if (stream.tail) |tail| tail.next = queued else stream.head = queued;
        stream.tail = queued;
        stream.submitted += 1;
        stream.task_arrived.signal();
        return acl.code.success;
    }

    /// Takes over the copy's pins. Pageable memory makes the copy synchronous, after everything queued before it.
    pub fn submitCopy(stream: *Stream, copy: *Copy) acl.Error {
        if (copy.to.side != .pageable_host and copy.from.side != .pageable_host) {
            const code = stream.enqueue(.{ .copy = copy.* });
            if (code != acl.code.success) copy.unpin();
            return code;
        }
        if (stream.capture != null) {
            copy.unpin();
            return errors.fail(acl.code.rt_capture_mode_not_support, "pageable memory in a captured stream");
        }
        stream.references += 1;
        defer stream.release();
        _ = stream.drain(null);
        const code = stream.takeFailure();
        if (code != acl.code.success) {
            copy.unpin();
            return code;
        }
        if (faults.interceptTask(copy.fault)) |fault| {
            stream.failure = fault;
            copy.unpin();
            return acl.code.success;
        }
        return copy.runNow();
    }

    pub fn replay(stream: *Stream, graph: *const Graph) acl.Error {
        for (graph.tasks.items) |recorded| {
            var task = recorded;
            const missing = task.pin();
            if (missing != acl.code.success) task = .{ .fail = missing };
            const code = stream.enqueue(task);
            if (code == acl.code.success) continue;
            task.unpin();
            return code;
        }
        return acl.code.success;
    }

    fn pop(stream: *Stream) ?*QueuedTask {
        const queued = stream.head orelse return null;
        stream.head = queued.next;
        if (stream.head == null) stream.tail = null;
        return queued;
    }

    fn finish(stream: *Stream, queued: *QueuedTask) void {
        queued.task.release();
        allocator.destroy(queued);
        stream.completed += 1;
        if (stream.completed < stream.awaited) return;
        stream.awaited = nobody_waits;
        lock.announce();
    }

    fn isStopped(stream: *const Stream) bool {
        return stream.stops_on_failure and stream.failure != acl.code.success;
    }

    pub fn isIdle(stream: *const Stream) bool {
        return stream.completed == stream.submitted;
    }

    /// Waits for everything submitted so far; false when the deadline passed first.
    pub fn drain(stream: *Stream, deadline: ?u64) bool {
        const target = stream.submitted;
        stream.references += 1;
        defer stream.release();
        while (stream.completed < target) {
            stream.awaited = @min(stream.awaited, target);
            const limit = deadline orelse {
                lock.wait();
                continue;
            };
            if (clock.now() >= limit) return false;
            lock.waitUntil(limit);
        }
        return true;
    }

    pub fn takeFailure(stream: *Stream) acl.Error {
        if (stream.failure == acl.code.success) return acl.code.success;
        defer if (!stream.stops_on_failure) {
            stream.failure = acl.code.success;
        };
        return errors.fail(stream.failure, "work queued on the stream failed");
    }

    /// Ends the stream. Its thread outlives the call only while it still executes one task.
    pub fn close(stream: *Stream, force: bool) void {
        registry.remove(stream.handle);
        if (stream.capture) |graph| graph.destroy();
        stream.capture = null;
        stream.closing = true;
        const deadline = if (force) clock.afterMilliseconds(forced_grace_milliseconds) else null;
        if (!stream.drain(deadline)) stream.abandon();
        stream.task_arrived.signal();
        stream.release();
    }

    fn abandon(stream: *Stream) void {
        stream.execution.abandoned = true;
        while (stream.pop()) |queued| stream.finish(queued);
        lock.announce();
    }
};

pub var registry: handles.Registry(Stream, .stream) = .{};

fn runStream(argument: ?*anyopaque) callconv(.c) ?*anyopaque {
    const stream: *Stream = @ptrCast(@alignCast(argument));
    lock.enter();
    while (true) {
        const queued = stream.pop() orelse {
            if (stream.closing) break;
            lock.waitOn(&stream.task_arrived);
            continue;
        };
        const code = if (stream.isStopped())
            acl.code.success
        else
            queued.task.run(&stream.execution, queued.submitted_at);
        // The model decides when a copy ends; any other task ends when it really does.
        if (queued.task != .copy) stream.execution.modelled_end = timing.begin(&config.get().timing);
        if (code != acl.code.success and stream.failure == acl.code.success) stream.failure = code;
        stream.finish(queued);
    }
    stream.release();
    lock.leave();
    return null;
}

pub fn create(context: u64, device: u8, is_default: bool) error{OutOfMemory}!*Stream {
    const stream = try allocator.create(Stream);
    errdefer allocator.destroy(stream);
    stream.* = .{ .context = context, .device = device, .is_default = is_default };
    stream.handle = try registry.add(stream);
    return stream;
}

/// The runtime makes this check before all others.
pub fn isStale(handle: acl.Stream) bool {
    return handle != null and registry.get(handle) == null;
}

pub fn stale() acl.Error {
    return errors.fail(acl.code.rt_invalid_handle, "no such stream, or destroyed already");
}

pub fn captured() acl.Error {
    return errors.fail(acl.code.rt_stream_captured, "the stream is captured");
}

pub fn closeAllOf(context: u64, force: bool) void {
    while (firstOf(context)) |stream| stream.close(force);
}

fn firstOf(context: u64) ?*Stream {
    for (registry.items.values()) |stream| {
        if (stream.context == context) return stream;
    }
    return null;
}

pub fn countOn(device: u8) usize {
    var count: usize = 0;
    for (registry.items.values()) |stream| {
        if (stream.device == device) count += 1;
    }
    return count;
}

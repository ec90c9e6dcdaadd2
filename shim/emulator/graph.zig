//! A graph: the tasks that a stream recorded while it was captured, to be replayed any number of times.
//!
//! It holds addresses, not memory. Each replay looks up what is behind them, so memory that was unmapped and mapped
//! again at the same address replays with its new content. A task whose memory is gone fails when it executes.
//!
//! A capture covers one stream. Events would connect it with others, so they are refused while a stream is captured.

const std = @import("std");
const linux = std.os.linux;
const acl = @import("acl");
const errors = @import("errors.zig");
const handles = @import("handles.zig");
const stream_task = @import("stream_task.zig");
const Task = stream_task.Task;
const allocator = std.heap.c_allocator;

pub const CaptureMode = struct {
    pub const relaxed: c_int = 2;
};

pub const Graph = struct {
    handle: u64 = 0,
    /// Handle of the context that it belongs to.
    context: u64,
    mode: c_int,
    /// The thread that began the capture.
    thread: i32,
    tasks: std.ArrayList(Task) = .empty,

    /// Takes over the task and what it pins; on failure it still belongs to the caller.
    pub fn record(graph: *Graph, task: Task) acl.Error {
        switch (task) {
            .record_event, .wait_event => {
                return errors.fail(acl.code.rt_feature_not_supported, "no events in a captured stream");
            },
            else => {},
        }
        graph.tasks.append(allocator, task) catch return errors.outOfHostMemory();
        graph.tasks.items[graph.tasks.items.len - 1].unpin();
        return acl.code.success;
    }

    pub fn mayEnd(graph: *const Graph) bool {
        return graph.mode == CaptureMode.relaxed or graph.thread == linux.gettid();
    }

    pub fn destroy(graph: *Graph) void {
        graph.tasks.deinit(allocator);
        allocator.destroy(graph);
    }
};

/// Complete graphs. One that is being captured belongs to its stream.
pub var registry: handles.Registry(Graph, .graph) = .{};

pub fn create(context: u64, mode: c_int) error{OutOfMemory}!*Graph {
    const graph = try allocator.create(Graph);
    graph.* = .{ .context = context, .mode = mode, .thread = linux.gettid() };
    return graph;
}

pub fn remove(graph: *Graph) void {
    registry.remove(graph.handle);
    graph.destroy();
}

pub fn dropContext(context: u64) void {
    while (firstOf(context)) |graph| remove(graph);
}

fn firstOf(context: u64) ?*Graph {
    for (registry.items.values()) |graph| {
        if (graph.context == context) return graph;
    }
    return null;
}

//! An event: a point in a stream's order that others can wait for. Each record starts a new generation.

const std = @import("std");
const clock = @import("clock.zig");
const handles = @import("handles.zig");
const lock = @import("lock.zig");
const allocator = std.heap.c_allocator;

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
        event.time = clock.now();
        lock.announce();
    }

    pub fn release(event: *Event) void {
        event.references -= 1;
        if (event.references == 0) allocator.destroy(event);
    }

    pub fn isPending(event: *const Event) bool {
        return event.completed < event.recorded;
    }
};

pub var registry: handles.Registry(Event, .event) = .{};

pub fn register(event: Event) error{OutOfMemory}!*Event {
    const stored = try allocator.create(Event);
    errdefer allocator.destroy(stored);
    stored.* = event;
    stored.handle = try registry.add(stored);
    return stored;
}

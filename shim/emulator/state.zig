//! The one lock. Every table of this library is read and written under it; copies, page faults and the freeing of large
//! amounts of memory happen outside it, so that no call waits longer than a lookup for another thread's bytes.

const std = @import("std");
const sync = @import("sync.zig");

pub const allocator = std.heap.c_allocator;

var mutex: sync.Mutex = .{};
/// Broadcast whenever something that a thread may wait for has happened: a task ended, a pin was dropped.
var progress: sync.Condition = .{};
var started = false;
/// What goes back to the host once the lock is free.
var discarded: ?*Discarded = null;

pub const Discarded = struct { giveBack: *const fn (*Discarded) void, next: ?*Discarded = null };

pub fn enter() void {
    mutex.lock();
    if (!started) {
        progress.useMonotonicClock();
        started = true;
    }
}

pub fn leave() void {
    var dead = discarded;
    discarded = null;
    mutex.unlock();
    while (dead) |memory| {
        dead = memory.next;
        memory.giveBack(memory);
    }
}

pub fn discard(memory: *Discarded) void {
    memory.next = discarded;
    discarded = memory;
}

pub fn wait() void {
    progress.wait(&mutex);
}

pub fn waitUntil(deadline: u64) void {
    progress.waitUntil(&mutex, deadline);
}

pub fn waitOn(condition: *sync.Condition) void {
    condition.wait(&mutex);
}

pub fn announce() void {
    progress.broadcast();
}

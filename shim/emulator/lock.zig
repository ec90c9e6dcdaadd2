//! The one lock of this library. It guards every table. Copies, page faults and the freeing of large amounts of
//! memory run outside it, so no call waits longer than a lookup while another thread's bytes move.

const sync = @import("sync.zig");

var mutex: sync.Mutex = .{};
/// Broadcast whenever something happens that a thread may wait for: a task ended, a pin was dropped.
var progress: sync.Condition = .{};
var started = false;
var deferred: ?*Deferred = null;

/// Work for the moment after the lock is free, embedded in the object that it is about.
pub const Deferred = struct { run: *const fn (*Deferred) void, next: ?*Deferred = null };

pub fn enter() void {
    mutex.lock();
    if (!started) {
        progress.useMonotonicClock();
        started = true;
    }
}

pub fn leave() void {
    var next = deferred;
    deferred = null;
    mutex.unlock();
    while (next) |work| {
        next = work.next;
        work.run(work);
    }
}

pub fn runAfterLeave(work: *Deferred) void {
    work.next = deferred;
    deferred = work;
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

//! How far the places of a sleep's new backups are, for the threads that copy to them meanwhile.

const sync = @import("sync.zig");

pub const Placed = struct {
    mutex: sync.Mutex = .{},
    changed: sync.Condition = .{},
    /// Steps of the plan, in order, whose backups have their places.
    steps: usize = 0,
    /// There will be no more.
    ended: bool = false,

    pub fn advance(self: *Placed) void {
        self.mutex.lock();
        defer self.mutex.unlock();
        self.steps += 1;
        self.changed.broadcast();
    }

    pub fn end(self: *Placed) void {
        self.mutex.lock();
        defer self.mutex.unlock();
        self.ended = true;
        self.changed.broadcast();
    }

    /// Waits until at least `count` steps have their places, and returns how many have. Null when they never will.
    pub fn waitFor(self: *Placed, count: usize) ?usize {
        self.mutex.lock();
        defer self.mutex.unlock();
        while (self.steps < count) {
            if (self.ended) return null;
            self.changed.wait(&self.mutex);
        }
        return self.steps;
    }
};

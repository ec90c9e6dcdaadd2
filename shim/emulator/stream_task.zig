//! The tasks that a stream can queue, and how its thread executes them.

const acl = @import("acl");
const block = @import("block.zig");
const clock = @import("clock.zig");
const faults = @import("faults.zig");
const lock = @import("lock.zig");
const Copy = @import("copy.zig").Copy;
const Event = @import("event.zig").Event;
const Fill = @import("copy.zig").Fill;

pub const HostFunction = *const fn (?*anyopaque) callconv(.c) void;

/// A 64-bit word of device memory, to wait for or to write.
pub const Word = struct {
    address: u64,
    value: u64,
    flag: u32 = 0,
    at: block.PinnedRange = .{},

    fn pointer(word: *const Word) *align(1) volatile u64 {
        return @ptrFromInt(word.address);
    }

    fn holds(word: *const Word) bool {
        const found = word.pointer().*;
        return switch (word.flag) {
            0 => found >= word.value,
            1 => found == word.value,
            2 => found & word.value != 0,
            else => ~(found | word.value) != 0,
        };
    }
};

const EventUse = struct { event: *Event, generation: u64 };

/// The state of a stream that its tasks read and change.
pub const Execution = struct {
    /// When the last copy ends by the timing model.
    modelled_end: u64 = 0,
    /// Queued tasks are dropped and waits give up.
    abandoned: bool = false,
};

pub const Task = union(enum) {
    copy: Copy,
    fill: Fill,
    host_function: struct { function: HostFunction, argument: ?*anyopaque },
    record_event: EventUse,
    wait_event: EventUse,
    wait_value: Word,
    write_value: Word,
    /// A device fault.
    fail: acl.Error,

    /// Pins the memory that it uses; on failure nothing is pinned.
    pub fn pin(task: *Task) acl.Error {
        return switch (task.*) {
            .copy => |*copy| copy.pin(),
            .fill => |*fill| fill.pin(),
            .wait_value, .write_value => |*word| block.pin(word.address, @sizeOf(u64), &word.at),
            .host_function, .record_event, .wait_event, .fail => acl.code.success,
        };
    }

    pub fn unpin(task: *Task) void {
        switch (task.*) {
            .copy => |*copy| copy.unpin(),
            .fill => |*fill| fill.to.unpin(),
            .wait_value, .write_value => |*word| word.at.unpin(),
            .host_function, .record_event, .wait_event, .fail => {},
        }
    }

    /// Entered and left with the lock held.
    pub fn run(task: *Task, execution: *Execution, submitted_at: u64) acl.Error {
        switch (task.*) {
            .copy => |*copy| {
                if (faults.interceptTask(copy.fault)) |code| return code;
                // A copy that was queued in time begins when its engine is free, however late this thread woke up.
                execution.modelled_end = copy.schedule(@max(submitted_at, execution.modelled_end));
                const end = execution.modelled_end;
                lock.leave();
                defer lock.enter();
                const code = copy.moveBytes();
                if (code != acl.code.success) return code;
                clock.sleepUntil(end);
            },
            .fill => |*fill| {
                if (faults.interceptTask(.fill)) |code| return code;
                lock.leave();
                defer lock.enter();
                return fill.write();
            },
            .host_function => |call| {
                if (faults.interceptTask(.host_function)) |code| return code;
                lock.leave();
                defer lock.enter();
                call.function(call.argument);
            },
            .record_event => |use| use.event.complete(use.generation),
            .wait_event => |use| {
                while (use.event.completed < use.generation and !execution.abandoned) lock.wait();
            },
            .wait_value => |*word| {
                // Another process or the host may write the word, and neither can wake this thread.
                while (!word.holds() and !execution.abandoned) lock.waitUntil(clock.afterMilliseconds(1));
            },
            .write_value => |*word| word.pointer().* = word.value,
            .fail => |code| return code,
        }
        return acl.code.success;
    }

    /// Releases what the task holds, whether it ran or not. An event counts as recorded, so that nobody waits for it
    /// forever.
    pub fn release(task: *Task) void {
        switch (task.*) {
            .record_event => |use| {
                use.event.complete(use.generation);
                use.event.release();
            },
            .wait_event => |use| use.event.release(),
            else => task.unpin(),
        }
    }
};

//! What a stream can be asked to do, and how it is done on the stream's thread.

const std = @import("std");
const acl = @import("acl");
const sync = @import("sync.zig");
const state = @import("state.zig");
const faults = @import("faults.zig");
const address_space = @import("address_space.zig");
const Event = @import("event.zig").Event;
const Stream = @import("stream.zig").Stream;

extern "c" fn memmove(destination: u64, source: u64, size: usize) ?*anyopaque;
extern "c" fn memset(destination: u64, value: c_int, size: usize) ?*anyopaque;

pub const HostFunction = *const fn (?*anyopaque) callconv(.c) void;

pub const Copy = struct {
    destination: u64,
    source: u64,
    size: u64,
    to: address_space.View = .{},
    from: address_space.View = .{},
    fault: usize,

    pub fn run(copy: *const Copy) void {
        // Source and destination may overlap, or be two mappings of the same memory.
        _ = memmove(copy.destination, copy.source, copy.size);
    }

    pub fn unpin(copy: *Copy) void {
        copy.to.unpin();
        copy.from.unpin();
    }
};

pub const Fill = struct {
    destination: u64,
    value: i32,
    size: u64,
    to: address_space.View = .{},

    pub fn run(fill: *const Fill) void {
        _ = memset(fill.destination, fill.value, fill.size);
    }
};

/// A 64-bit word of device memory, waited for or written.
pub const Word = struct {
    address: u64,
    value: u64,
    flag: u32 = 0,
    at: address_space.View = .{},

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

pub const EventUse = struct { event: *Event, generation: u64 };

pub const Work = union(enum) {
    copy: Copy,
    fill: Fill,
    host_function: struct { function: HostFunction, argument: ?*anyopaque },
    record_event: EventUse,
    wait_event: EventUse,
    wait_value: Word,
    write_value: Word,

    /// Entered and left with the lock held.
    pub fn run(work: *Work, stream: *Stream) acl.Error {
        switch (work.*) {
            .copy => |*copy| {
                if (faults.interceptTask(copy.fault)) |code| return code;
                state.leave();
                defer state.enter();
                copy.run();
            },
            .fill => |*fill| {
                if (faults.interceptTask(comptime faults.indexOf("aclrtMemsetAsync.task"))) |code| return code;
                state.leave();
                defer state.enter();
                fill.run();
            },
            .host_function => |call| {
                if (faults.interceptTask(comptime faults.indexOf("aclrtLaunchHostFunc.task"))) |code| return code;
                state.leave();
                defer state.enter();
                call.function(call.argument);
            },
            .record_event => |use| use.event.complete(use.generation),
            .wait_event => |use| {
                while (use.event.completed < use.generation and !stream.abandoned) state.wait();
            },
            .wait_value => |*word| {
                // Another process or the host may write the word, and neither can wake us.
                while (!word.holds() and !stream.abandoned) state.waitUntil(sync.afterMilliseconds(1));
            },
            .write_value => |*word| word.pointer().* = word.value,
        }
        return acl.code.success;
    }

    /// Lets go of what the work held, done or not. Nobody can be left waiting for an event that is never recorded.
    pub fn release(work: *Work) void {
        switch (work.*) {
            .copy => |*copy| copy.unpin(),
            .fill => |*fill| fill.to.unpin(),
            .host_function => {},
            .record_event => |use| {
                use.event.complete(use.generation);
                use.event.release();
            },
            .wait_event => |use| use.event.release(),
            .wait_value, .write_value => |*word| word.at.unpin(),
        }
    }
};

pub const Task = struct { work: Work, next: ?*Task = null };

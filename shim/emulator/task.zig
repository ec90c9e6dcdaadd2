//! What a stream can be asked to do, and how it is done on the stream's thread.

const std = @import("std");
const builtin = @import("builtin");
const acl = @import("acl");
const sync = @import("sync.zig");
const state = @import("state.zig");
const config = @import("config.zig");
const device = @import("device.zig");
const faults = @import("faults.zig");
const timing = @import("timing.zig");
const address_space = @import("address_space.zig");
const Event = @import("event.zig").Event;
const Stream = @import("stream.zig").Stream;

extern "c" fn memset(destination: u64, value: c_int, size: usize) ?*anyopaque;

/// From here on the processor's own copy is the fastest there is: 19 to 25 GiB/s where the loops of glibc and of Zig's
/// runtime library reach 15 to 18.
const block_copy_bytes = 1 << 20;

/// Source and destination may overlap.
fn move(destination: u64, source: u64, size: u64) void {
    const apart = destination >= source +| size or source >= destination +| size;
    if (builtin.cpu.arch == .x86_64 and size >= block_copy_bytes and apart) {
        var to = destination;
        var from = source;
        var left = size;
        asm volatile ("rep movsb"
            : [to] "+{rdi}" (to),
              [from] "+{rsi}" (from),
              [left] "+{rcx}" (left),
            :
            : .{ .memory = true });
        return;
    }
    const to: [*]u8 = @ptrFromInt(destination);
    const from: [*]const u8 = @ptrFromInt(source);
    @memmove(to[0..size], from[0..size]);
}

pub const HostFunction = *const fn (?*anyopaque) callconv(.c) void;

pub const Copy = struct {
    destination: u64,
    source: u64,
    size: u64,
    to: address_space.View = .{},
    from: address_space.View = .{},
    fault: usize,

    /// When it will have ended by the timing model, having become ready at `ready`. Called with the lock held.
    pub fn schedule(copy: *const Copy, ready: u64) u64 {
        const engine: timing.Engine, const on = if (copy.to.isHost())
            .{ .d2h, copy.from.device }
        else
            .{ if (copy.from.isHost()) .h2d else .d2d, copy.to.device };
        if (copy.to.isHost() and copy.from.isHost()) return ready;
        return timing.schedule(&config.get().timing, &device.devices[on].engines, engine, copy.size, ready);
    }

    /// Called without the lock.
    pub fn run(copy: *const Copy) void {
        if (config.get().timing.has_content) move(copy.destination, copy.source, copy.size);
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
        if (config.get().timing.has_content) _ = memset(fill.destination, fill.value, fill.size);
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
    pub fn run(work: *Work, stream: *Stream, submitted_at: u64) acl.Error {
        switch (work.*) {
            .copy => |*copy| {
                if (faults.interceptTask(copy.fault)) |code| return code;
                // The engine goes on with what was queued in time, however late this thread was woken.
                stream.modelled_end = copy.schedule(@max(submitted_at, stream.modelled_end));
                const end = stream.modelled_end;
                state.leave();
                defer state.enter();
                copy.run();
                sync.sleepUntil(end);
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

pub const Task = struct {
    work: Work,
    /// By the timing model's clock; 0 without one.
    submitted_at: u64,
    next: ?*Task = null,
};

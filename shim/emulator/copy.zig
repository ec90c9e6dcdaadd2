//! Copies and fills: how their memory is pinned, how the bytes move, and when they end by the timing model.

const builtin = @import("builtin");
const acl = @import("acl");
const block = @import("block.zig");
const clock = @import("clock.zig");
const config = @import("config.zig");
const device = @import("device.zig");
const errors = @import("errors.zig");
const faults = @import("faults.zig");
const host_range = @import("host_range.zig");
const lock = @import("lock.zig");
const timing = @import("timing.zig");

extern "c" fn memset(destination: u64, value: c_int, size: usize) ?*anyopaque;

/// From this size on the processor's own block copy is fastest: 19 to 25 GiB/s, where the loops of glibc and of Zig's
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

pub const Copy = struct {
    destination: u64,
    source: u64,
    size: u64,
    to: block.PinnedRange = .{},
    from: block.PinnedRange = .{},
    /// The name by which a fault finds the copy.
    fault: faults.Task = .copy,

    /// Classifies and pins both sides; on failure neither is pinned.
    pub fn pin(copy: *Copy) acl.Error {
        const code = block.pin(copy.destination, copy.size, &copy.to);
        if (code != acl.code.success) return code;
        const from = block.pin(copy.source, copy.size, &copy.from);
        if (from != acl.code.success) copy.to.unpin();
        return from;
    }

    pub fn unpin(copy: *Copy) void {
        copy.to.unpin();
        copy.from.unpin();
    }

    /// When the copy ends by the timing model if it can begin at `ready`. Called with the lock held.
    pub fn schedule(copy: *const Copy, ready: u64) u64 {
        const engine: timing.Engine, const on = if (copy.to.isHost())
            .{ .d2h, copy.from.device }
        else
            .{ if (copy.from.isHost()) .h2d else .d2d, copy.to.device };
        if (copy.to.isHost() and copy.from.isHost()) return ready;
        return timing.schedule(&config.get().timing, device.enginesOf(on), engine, copy.size, ready);
    }

    /// Called without the lock. On failure no byte moved.
    pub fn moveBytes(copy: *const Copy) acl.Error {
        if (!config.get().timing.has_content) return acl.code.success;
        if (copy.to.isCallers()) {
            const code = host_range.check(copy.destination, copy.size, .write);
            if (code != acl.code.success) return code;
        }
        if (copy.from.isCallers()) {
            const code = host_range.check(copy.source, copy.size, .read);
            if (code != acl.code.success) return code;
        }
        move(copy.destination, copy.source, copy.size);
        return acl.code.success;
    }

    /// Runs a pinned copy on the calling thread and unpins it. The lock is held on entry and on return, and free
    /// while bytes move.
    pub fn runNow(copy: *Copy) acl.Error {
        const end = copy.schedule(timing.begin(&config.get().timing));
        lock.leave();
        const code = copy.moveBytes();
        if (code == acl.code.success) clock.spinUntil(end);
        lock.enter();
        copy.unpin();
        return code;
    }
};

pub const Fill = struct {
    destination: u64,
    value: i32,
    size: u64,
    to: block.PinnedRange = .{},

    pub fn pin(fill: *Fill) acl.Error {
        return block.pin(fill.destination, fill.size, &fill.to);
    }

    /// Called without the lock. On failure no byte changed.
    pub fn write(fill: *const Fill) acl.Error {
        if (!config.get().timing.has_content) return acl.code.success;
        if (fill.to.isCallers()) {
            const code = host_range.check(fill.destination, fill.size, .write);
            if (code != acl.code.success) return code;
        }
        _ = memset(fill.destination, fill.value, fill.size);
        return acl.code.success;
    }

    /// Pins, writes and unpins on the calling thread. The lock is held on entry and on return, and free while bytes
    /// move.
    pub fn runNow(fill: *Fill) acl.Error {
        const pinned = fill.pin();
        if (pinned != acl.code.success) return pinned;
        lock.leave();
        const code = fill.write();
        lock.enter();
        fill.to.unpin();
        return code;
    }
};

/// The runtime's check of the room at the destination.
pub fn checkRoom(room: usize, count: usize) acl.Error {
    if (room == 0 or count > room) return errors.fail(acl.code.rt_param_invalid, "count exceeds destMax");
    return acl.code.success;
}

//! Helpers of the unit tests. State is global per process, so each test ends by undoing everything.

const std = @import("std");
const linux = std.os.linux;
const acl = @import("acl");
const held_counts = @import("../held_counts.zig");
const clock = @import("../clock.zig");
const device = @import("../device.zig");
const device_calls = @import("device.zig");
const init = @import("init.zig");
const lock = @import("../lock.zig");
const malloc_physical = @import("malloc_physical.zig");
const physical = @import("../physical.zig");
const reservation = @import("reservation.zig");

pub const huge_page_bytes = physical.huge_page_bytes;

pub fn expectCode(expected: acl.Error, actual: acl.Error) !void {
    try std.testing.expectEqual(expected, actual);
}

/// What the process holds right now.
pub const held = held_counts.read;

/// Closes everything; a test that left memory, a reservation or an event behind stops here.
pub fn cleanUp() void {
    _ = device_calls.aclrtResetDeviceForce(0);
    _ = init.aclFinalize();
    lock.enter();
    device.ever_opened = false;
    lock.leave();
    // Tasks that were abandoned may still be running on their thread.
    const deadline = clock.afterMilliseconds(2000);
    while (!std.meta.eql(held_counts.read(), .{}) and clock.now() < deadline) clock.sleepMilliseconds(1);
    if (!std.meta.eql(held_counts.read(), .{})) std.debug.panic("left behind: {any}", .{held_counts.read()});
}

/// The number of pages in the range that the process reaches without a fault.
pub fn presentPages(pointer: ?*anyopaque, size: usize) !usize {
    const opened = linux.open("/proc/self/pagemap", .{ .CLOEXEC = true }, 0);
    if (linux.errno(opened) != .SUCCESS) return error.TestUnexpectedResult;
    const fd: i32 = @intCast(opened);
    defer _ = linux.close(fd);
    const page = std.heap.pageSize();
    var count: usize = 0;
    for (0..size / page) |index| {
        var entry: packed struct(u64) { rest: u63, present: bool } = undefined;
        const at = (@intFromPtr(pointer) / page + index) * @sizeOf(u64);
        if (linux.pread(fd, std.mem.asBytes(&entry), @sizeOf(u64), @intCast(at)) != @sizeOf(u64))
            return error.TestUnexpectedResult;
        if (entry.present) count += 1;
    }
    return count;
}

/// A host function that holds its stream until the test opens the gate.
pub const Gate = struct {
    is_open: std.atomic.Value(bool) = .init(false),
    passed: std.atomic.Value(u32) = .init(0),

    pub fn pass(argument: ?*anyopaque) callconv(.c) void {
        const gate: *Gate = @ptrCast(@alignCast(argument));
        while (!gate.is_open.load(.acquire)) clock.sleepMilliseconds(1);
        _ = gate.passed.fetchAdd(1, .monotonic);
    }

    pub fn open(gate: *Gate) void {
        gate.is_open.store(true, .release);
    }

    pub fn close(gate: *Gate) void {
        gate.is_open.store(false, .release);
    }
};

pub const device_prop: acl.PhysicalMemProp = .{
    .mem_attr = acl.MemAttr.hbm_huge,
    .location = .{ .id = 0, .type = acl.MemLocationType.device },
};

pub fn expectReserve(size: usize) !*anyopaque {
    var pointer: ?*anyopaque = null;
    try expectCode(0, reservation.aclrtReserveMemAddress(&pointer, size, 0, null, 0));
    return pointer orelse error.TestUnexpectedResult;
}

pub fn expectPhysical(size: usize) !*anyopaque {
    var handle: acl.DrvMemHandle = null;
    try expectCode(0, malloc_physical.aclrtMallocPhysical(&handle, size, &device_prop, 0));
    return handle orelse error.TestUnexpectedResult;
}

pub fn offsetBy(pointer: *anyopaque, bytes: usize) ?*anyopaque {
    return @ptrFromInt(@intFromPtr(pointer) + bytes);
}

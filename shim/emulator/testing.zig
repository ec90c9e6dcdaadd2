//! What the unit tests share. State is global per process, so each test ends by undoing everything.

const std = @import("std");
const linux = std.os.linux;
const acl = @import("acl");
const sync = @import("sync.zig");
const state = @import("state.zig");
const accounting = @import("accounting.zig");
const device = @import("device.zig");
const system = @import("system.zig");

pub fn expectCode(expected: acl.Error, actual: acl.Error) !void {
    try std.testing.expectEqual(expected, actual);
}

pub fn held() accounting.Accounting {
    var result: accounting.Accounting = .{};
    _ = accounting.read(&result);
    return result;
}

/// Closes everything; a test that left memory, a reservation or an event behind stops here.
pub fn cleanUp() void {
    _ = device.resetForce(0);
    _ = system.finalize();
    state.enter();
    device.ever_opened = false;
    state.leave();
    // Work that was abandoned may still be ending on its thread.
    const deadline = sync.afterMilliseconds(2000);
    while (!std.meta.eql(held(), .{}) and sync.now() < deadline) sync.sleepMilliseconds(1);
    if (!std.meta.eql(held(), .{})) std.debug.panic("left behind: {any}", .{held()});
}

/// How many pages of the range the process reaches without a fault.
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

/// A host function that holds its stream until the test lets it go.
pub const Gate = struct {
    is_open: std.atomic.Value(bool) = .init(false),
    passed: std.atomic.Value(u32) = .init(0),

    pub fn pass(argument: ?*anyopaque) callconv(.c) void {
        const gate: *Gate = @ptrCast(@alignCast(argument));
        while (!gate.is_open.load(.acquire)) sync.sleepMilliseconds(1);
        _ = gate.passed.fetchAdd(1, .monotonic);
    }

    pub fn open(gate: *Gate) void {
        gate.is_open.store(true, .release);
    }

    pub fn close(gate: *Gate) void {
        gate.is_open.store(false, .release);
    }
};

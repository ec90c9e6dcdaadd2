//! What the unit tests share. State is global per process, so each test ends by undoing everything.

const std = @import("std");
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

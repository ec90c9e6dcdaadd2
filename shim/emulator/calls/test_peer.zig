//! A second process for tests of memory that processes share.

const std = @import("std");
const linux = std.os.linux;
const acl = @import("acl");
const lock = @import("../lock.zig");

/// Properties of the memory that the tests share.
pub const device_prop: acl.PhysicalMemProp = .{
    .mem_attr = acl.MemAttr.hbm_normal,
    .location = .{ .id = 0, .type = acl.MemLocationType.device },
};

/// A second process with a pipe in each direction; it runs `body` and exits with 0 if that succeeded.
pub const Peer = struct {
    pid: i32,
    input: i32,
    output: i32,

    pub fn start(comptime body: fn (Peer) anyerror!void) !Peer {
        var down: [2]i32 = undefined;
        var up: [2]i32 = undefined;
        if (linux.errno(linux.pipe2(&down, .{ .CLOEXEC = true })) != .SUCCESS) return error.TestUnexpectedResult;
        if (linux.errno(linux.pipe2(&up, .{ .CLOEXEC = true })) != .SUCCESS) return error.TestUnexpectedResult;
        // No other thread may hold the lock when the process is copied.
        lock.enter();
        const pid = std.c.fork();
        lock.leave();
        if (pid == 0) {
            body(.{ .pid = 0, .input = down[0], .output = up[1] }) catch std.c._exit(1);
            std.c._exit(0);
        }
        _ = linux.close(down[0]);
        _ = linux.close(up[1]);
        return .{ .pid = pid, .input = up[0], .output = down[1] };
    }

    pub fn send(peer: Peer, comptime T: type, value: T) !void {
        const written = linux.write(peer.output, std.mem.asBytes(&value), @sizeOf(T));
        if (written != @sizeOf(T)) return error.TestUnexpectedResult;
    }

    pub fn receive(peer: Peer, comptime T: type) !T {
        var value: T = undefined;
        const count = linux.read(peer.input, std.mem.asBytes(&value), @sizeOf(T));
        if (count != @sizeOf(T)) return error.TestUnexpectedResult;
        return value;
    }

    pub fn expectSuccess(peer: Peer) !void {
        var status: c_int = -1;
        _ = std.c.waitpid(peer.pid, &status, 0);
        _ = linux.close(peer.input);
        _ = linux.close(peer.output);
        try std.testing.expectEqual(0, status);
    }
};

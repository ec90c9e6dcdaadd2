//! Unix sockets between an engine and its controllers: where they are, who is at the other end, and moving bytes.

const std = @import("std");
const linux = std.os.linux;
const status = @import("status.zig");
const sync = @import("sync.zig");
const Failure = status.Failure;

pub const Error = error{ EngineGone, TimedOut, OutOfHostMemory };

pub fn describe(err: Error) []const u8 {
    return switch (err) {
        error.EngineGone => "the connection has ended",
        error.TimedOut => "it does not answer",
        error.OutOfHostMemory => "",
    };
}

pub const Address = struct {
    inner: linux.sockaddr.un,

    /// The socket `name` in an open folder: no path is too long that way, and the folder is the one that was checked.
    pub fn within(folder: i32, name: []const u8) ?Address {
        var self: Address = .{ .inner = .{ .path = @splat(0) } };
        _ = std.fmt.bufPrintZ(&self.inner.path, "/proc/self/fd/{d}/{s}", .{ folder, name }) catch return null;
        return self;
    }
};

/// A stream socket that neither blocks nor is inherited by a program that this process starts.
pub fn create() ?i32 {
    const kind = linux.SOCK.STREAM | linux.SOCK.CLOEXEC | linux.SOCK.NONBLOCK;
    const created = linux.socket(linux.AF.UNIX, kind, 0);
    return if (linux.errno(created) == .SUCCESS) @intCast(created) else null;
}

/// Connects to the socket at `path`. A server that is alive accepts at once.
pub fn connect(path: []const u8, failure: *Failure) status.Error!i32 {
    var folder_path: [linux.PATH_MAX]u8 = undefined;
    const parent = std.fs.path.dirnamePosix(path) orelse ".";
    const folder_text = std.fmt.bufPrintZ(&folder_path, "{s}", .{parent}) catch return error.InvalidArgument;
    const opened = linux.open(folder_text, .{ .PATH = true, .DIRECTORY = true, .CLOEXEC = true }, 0);
    if (linux.errno(opened) != .SUCCESS) return refusal(linux.errno(opened), failure);
    const folder: i32 = @intCast(opened);
    defer _ = linux.close(folder);
    const address = Address.within(folder, std.fs.path.basenamePosix(path)) orelse return error.InvalidArgument;
    const descriptor = create() orelse return error.OutOfHostMemory;
    errdefer _ = linux.close(descriptor);
    const code = linux.errno(linux.connect(descriptor, &address.inner, @sizeOf(linux.sockaddr.un)));
    if (code != .SUCCESS) return refusal(code, failure);
    return descriptor;
}

fn refusal(code: linux.E, failure: *Failure) status.Error {
    const message, const err = switch (code) {
        .NOENT, .NOTDIR => .{ "there is no such socket", error.EngineNotFound },
        .CONNREFUSED => .{ "the process that made the socket has ended", error.EngineNotFound },
        .ACCES, .PERM, .LOOP => .{ "it belongs to another user", error.EngineRefused },
        .AGAIN => .{ "it does not answer", error.EngineGone },
        .PROTOTYPE, .NOTSOCK => .{ "it is no control socket of camem's", error.EngineRefused },
        else => .{ @tagName(code), error.EngineNotFound },
    };
    failure.describe("", 0, 0, 0, message);
    return err;
}

pub const Peer = struct {
    /// In this process's namespace; 0 where that does not have it.
    pid: i32,
    uid: u32,

    /// Whether it may control this process.
    pub fn mayControl(self: Peer) bool {
        return self.uid == linux.geteuid() or self.uid == 0;
    }

    /// Whether this process may control it.
    pub fn mayBeControlled(self: Peer) bool {
        return self.mayControl() or linux.geteuid() == 0;
    }
};

const Credentials = extern struct { pid: i32, uid: u32, gid: u32 };

/// The process that connected, or that made the socket which this one connected to.
pub fn peerOf(descriptor: i32, failure: *Failure) status.Error!Peer {
    var credentials: Credentials = undefined;
    var length: linux.socklen_t = @sizeOf(Credentials);
    const bytes: [*]u8 = @ptrCast(&credentials);
    const code = linux.errno(linux.getsockopt(descriptor, linux.SOL.SOCKET, linux.SO.PEERCRED, bytes, &length));
    if (code == .SUCCESS) return .{ .pid = credentials.pid, .uid = credentials.uid };
    failure.describe("getsockopt", 0, 0, 0, @tagName(code));
    return error.EngineRefused;
}

/// When a process began, in clock ticks after the machine did; null where that is unknown.
pub fn startTime(pid: i32) ?u64 {
    if (pid <= 0) return null;
    var path: [64]u8 = undefined;
    const text = std.fmt.bufPrintZ(&path, "/proc/{d}/stat", .{pid}) catch return null;
    const opened = linux.open(text, .{ .CLOEXEC = true }, 0);
    if (linux.errno(opened) != .SUCCESS) return null;
    defer _ = linux.close(@intCast(opened));
    var buffer: [1024]u8 = undefined;
    const read = linux.read(@intCast(opened), &buffer, buffer.len);
    if (linux.errno(read) != .SUCCESS) return null;
    return parseStartTime(buffer[0..read]);
}

/// The program's name, in parentheses, may contain spaces and parentheses.
fn parseStartTime(text: []const u8) ?u64 {
    const name_end = std.mem.lastIndexOfScalar(u8, text, ')') orelse return null;
    var fields = std.mem.tokenizeScalar(u8, text[name_end + 1 ..], ' ');
    const fields_between = 19;
    for (0..fields_between) |_| _ = fields.next() orelse return null;
    return std.fmt.parseInt(u64, fields.next() orelse return null, 10) catch null;
}

/// Sends all of `bytes` until the deadline.
pub fn sendAll(descriptor: i32, bytes: []const u8, deadline: u64) Error!void {
    var sent: usize = 0;
    while (sent < bytes.len) {
        sent += try send(descriptor, bytes[sent..]) orelse {
            try waitFor(descriptor, linux.POLL.OUT, deadline);
            continue;
        };
    }
}

/// Fills `bytes` until the deadline.
pub fn receiveAll(descriptor: i32, bytes: []u8, deadline: u64) Error!void {
    var received: usize = 0;
    while (received < bytes.len) {
        received += try receive(descriptor, bytes[received..]) orelse {
            try waitFor(descriptor, linux.POLL.IN, deadline);
            continue;
        };
    }
}

/// Sends what fits; null where nothing does now.
pub fn send(descriptor: i32, bytes: []const u8) Error!?usize {
    const sent = linux.sendto(descriptor, bytes.ptr, bytes.len, linux.MSG.NOSIGNAL, null, 0);
    return switch (linux.errno(sent)) {
        .SUCCESS => sent,
        .AGAIN => null,
        .INTR => 0,
        else => error.EngineGone,
    };
}

/// Receives what is there; null where that is nothing now.
pub fn receive(descriptor: i32, bytes: []u8) Error!?usize {
    const received = linux.recvfrom(descriptor, bytes.ptr, bytes.len, 0, null, null);
    return switch (linux.errno(received)) {
        .SUCCESS => if (received == 0) error.EngineGone else received,
        .AGAIN => null,
        .INTR => 0,
        else => error.EngineGone,
    };
}

fn waitFor(descriptor: i32, events: i16, deadline: u64) Error!void {
    const left_ns = deadline -| sync.now();
    if (left_ns == 0) return error.TimedOut;
    var polled = [_]linux.pollfd{.{ .fd = descriptor, .events = events, .revents = 0 }};
    const left_ms = @min(left_ns / std.time.ns_per_ms + 1, std.math.maxInt(i32));
    _ = linux.poll(&polled, polled.len, @intCast(left_ms)); // whatever woke it, the next call shows
}

test "parseStartTime reads the time after a name with spaces and parentheses" {
    const text = "12 (a) b (c)) S 1 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 98765 1 1";
    try std.testing.expectEqual(98765, parseStartTime(text));
    try std.testing.expectEqual(null, parseStartTime("12"));
}

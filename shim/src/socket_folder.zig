//! Where an engine's control socket is, and making it: a folder that is this user's alone, and `<pid>.sock` in it.

const std = @import("std");
const linux = std.os.linux;
const sockets = @import("sockets.zig");
const status = @import("status.zig");
const Failure = status.Failure;

const own_only: linux.mode_t = 0o700;

pub const Socket = struct {
    folder: i32,
    listener: i32,
    name: [32]u8,

    /// Makes the folder if needed, and a listening socket in it.
    pub fn open(failure: *Failure) status.Error!Socket {
        const folder = try openFolder(failure);
        errdefer _ = linux.close(folder);
        var self: Socket = .{ .folder = folder, .listener = 0, .name = @splat(0) };
        _ = std.fmt.bufPrintZ(&self.name, "{d}.sock", .{linux.getpid()}) catch return error.InvalidArgument;
        self.listener = sockets.create() orelse return error.OutOfHostMemory;
        errdefer _ = linux.close(self.listener);
        try check("fchmod", linux.fchmod(self.listener, 0o600), failure);
        try self.bind(failure);
        errdefer self.unlink();
        try check("listen", linux.listen(self.listener, backlog), failure);
        return self;
    }

    const backlog = 16;

    pub fn unlink(self: *const Socket) void {
        _ = linux.unlinkat(self.folder, self.fileName(), 0); // where it is gone already, all is well
    }

    pub fn close(self: *const Socket) void {
        _ = linux.close(self.listener);
        _ = linux.close(self.folder);
    }

    fn fileName(self: *const Socket) [*:0]const u8 {
        return @ptrCast(&self.name);
    }

    fn bind(self: *const Socket, failure: *Failure) status.Error!void {
        const address = sockets.Address.within(self.folder, std.mem.span(self.fileName())) orelse
            return error.InvalidArgument;
        const length = @sizeOf(linux.sockaddr.un);
        const bound = linux.bind(self.listener, @ptrCast(&address.inner), length);
        if (linux.errno(bound) != .ADDRINUSE) return check("bind", bound, failure);
        if (isServed(&address)) {
            failure.describe("bind", 0, 0, 0, "a process of the same number in another namespace uses this folder");
            return error.Busy;
        }
        self.unlink(); // of an earlier process of this number
        return check("bind", linux.bind(self.listener, @ptrCast(&address.inner), length), failure);
    }
};

fn isServed(address: *const sockets.Address) bool {
    const descriptor = sockets.create() orelse return false;
    defer _ = linux.close(descriptor);
    return linux.errno(linux.connect(descriptor, &address.inner, @sizeOf(linux.sockaddr.un))) != .CONNREFUSED;
}

/// Nobody else may be able to replace what is in the folder.
fn openFolder(failure: *Failure) status.Error!i32 {
    var buffer: [linux.PATH_MAX]u8 = undefined;
    const path = folderPath(&buffer) orelse return error.InvalidArgument;
    const made = linux.mkdir(path, own_only);
    if (linux.errno(made) != .EXIST) try check("mkdir", made, failure);
    const opened = linux.open(path, .{ .DIRECTORY = true, .NOFOLLOW = true, .CLOEXEC = true }, 0);
    try check("open", opened, failure);
    const folder: i32 = @intCast(opened);
    errdefer _ = linux.close(folder);
    var found: linux.Statx = undefined;
    const found_result = linux.statx(folder, "", linux.AT.EMPTY_PATH, .{ .UID = true, .MODE = true }, &found);
    try check("statx", found_result, failure);
    if (found.uid != linux.geteuid() or found.mode & 0o077 != 0) {
        failure.describe("", 0, 0, 0, "the folder for sockets must belong to this user, with mode 0700");
        return error.EngineRefused;
    }
    return folder;
}

/// CAMEM_SOCKET_DIR, or `camem` in the user's run-time folder, or `/tmp/camem-<uid>`.
fn folderPath(buffer: []u8) ?[:0]const u8 {
    if (environment("CAMEM_SOCKET_DIR")) |path| return std.fmt.bufPrintZ(buffer, "{s}", .{path}) catch null;
    if (environment("XDG_RUNTIME_DIR")) |path| return std.fmt.bufPrintZ(buffer, "{s}/camem", .{path}) catch null;
    return std.fmt.bufPrintZ(buffer, "/tmp/camem-{d}", .{linux.geteuid()}) catch null;
}

fn environment(name: [:0]const u8) ?[]const u8 {
    const value = std.mem.span(std.c.getenv(name) orelse return null);
    return if (value.len == 0) null else value;
}

fn check(call: []const u8, code: usize, failure: *Failure) status.Error!void {
    const errno = linux.errno(code);
    if (errno == .SUCCESS) return;
    failure.describe(call, 0, 0, 0, @tagName(errno));
    return error.FileFailed;
}

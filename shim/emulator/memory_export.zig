//! Memory that crosses process boundaries.
//!
//! An export listens on an abstract Unix socket that is named after its 32-bit id. So ids are unique on the machine
//! (per network namespace), and nothing remains when a process dies. A process that connects and may import receives
//! the device's memfd and the range in it. It keeps the connection open while it holds the memory, and the exporter
//! keeps the memory while the connection is open.

const std = @import("std");
const linux = std.os.linux;
const acl = @import("acl");
const errors = @import("errors.zig");
const lock = @import("lock.zig");
const threads = @import("threads.zig");
const Memory = @import("physical.zig").Memory;
const allocator = std.heap.c_allocator;

pub const max_pids = 65535;
const import_timeout_seconds = 5;
const reply_magic: u64 = 0x6d65_6d61_6373_6163;

const Export = struct {
    id: u32,
    listener: i32,
    memory: *Memory,
    mem_attr: c_int,
    any_pid: bool,
    pids: std.ArrayList(i32) = .empty,
};

/// A process that holds memory of this one.
const Importer = struct { connection: i32, memory: *Memory };

/// The message to an importer; the file descriptor travels beside it.
const Reply = extern struct {
    magic: u64 = reply_magic,
    code: acl.Error = acl.code.success,
    mem_attr: c_int = 0,
    offset: u64 = 0,
    size: u64 = 0,
};

pub const Imported = struct {
    reply: Reply,
    fd: i32,
    connection: i32,

    pub fn discard(imported: *const Imported) void {
        _ = linux.close(imported.fd);
        _ = linux.close(imported.connection);
    }

    /// Takes over both descriptors, also on failure.
    pub fn adopt(imported: *const Imported) error{OutOfMemory}!*Memory {
        errdefer imported.discard();
        return Memory.adopt(imported.fd, imported.connection, imported.reply.offset, imported.reply.size);
    }
};

var exports: std.ArrayList(*Export) = .empty;
var importers: std.ArrayList(Importer) = .empty;
var wake: i32 = -1;
var is_serving = false;
/// The process that all of this belongs to.
var owner: i32 = 0;

/// A forked child has copies of what its parent exported and no thread that serves them.
fn leaveParent() void {
    if (owner == linux.getpid()) return;
    owner = linux.getpid();
    while (exports.pop()) |exported| destroy(exported);
    while (importers.pop()) |importer| _ = linux.close(importer.connection);
    if (wake >= 0) _ = linux.close(wake);
    wake = -1;
    is_serving = false;
}

/// Starts listening, and returns the id by which others import.
pub fn create(memory: *Memory, mem_attr: c_int, any_pid: bool) error{Unavailable}!u32 {
    leaveParent();
    if (wake < 0) {
        const result = linux.eventfd(0, linux.EFD.CLOEXEC | linux.EFD.NONBLOCK);
        if (linux.errno(result) != .SUCCESS) return error.Unavailable;
        wake = @intCast(result);
    }
    const exported = allocator.create(Export) catch return error.Unavailable;
    errdefer allocator.destroy(exported);
    // From now on another process may write to it.
    memory.is_undefined = false;
    exported.* = .{
        .id = 0,
        .listener = -1,
        .memory = memory,
        .mem_attr = mem_attr,
        .any_pid = any_pid,
    };
    try listen(exported);
    errdefer _ = linux.close(exported.listener);
    exports.append(allocator, exported) catch return error.Unavailable;
    errdefer _ = exports.pop();
    if (!is_serving) {
        if (!threads.start(serve, null)) return error.Unavailable;
        is_serving = true;
    }
    nudge();
    return exported.id;
}

fn listen(exported: *Export) error{Unavailable}!void {
    const result = linux.socket(linux.AF.UNIX, linux.SOCK.SEQPACKET | linux.SOCK.CLOEXEC | linux.SOCK.NONBLOCK, 0);
    if (linux.errno(result) != .SUCCESS) return error.Unavailable;
    exported.listener = @intCast(result);
    errdefer _ = linux.close(exported.listener);
    for (0..64) |_| {
        if (linux.getrandom(std.mem.asBytes(&exported.id), 4, 0) != 4) return error.Unavailable;
        if (exported.id == 0) continue;
        const address = addressOf(exported.id);
        switch (linux.errno(linux.bind(exported.listener, @ptrCast(&address.name), address.length))) {
            .SUCCESS => break,
            .ADDRINUSE => {},
            else => return error.Unavailable,
        }
    } else return error.Unavailable;
    if (linux.errno(linux.listen(exported.listener, 64)) != .SUCCESS) return error.Unavailable;
}

const Address = struct { name: linux.sockaddr.un, length: u32 };

fn addressOf(id: u32) Address {
    var address: Address = .{ .name = .{ .path = @splat(0) }, .length = 0 };
    const prefix = "camem-emulator/";
    @memcpy(address.name.path[1..][0..prefix.len], prefix);
    const digits = std.fmt.hex(id);
    @memcpy(address.name.path[1 + prefix.len ..][0..digits.len], &digits);
    address.length = @offsetOf(linux.sockaddr.un, "path") + 1 + prefix.len + digits.len;
    return address;
}

fn nudge() void {
    const one: u64 = 1;
    // The counter is full only if a wake-up is pending already.
    _ = linux.write(wake, std.mem.asBytes(&one), 8);
}

fn find(id: u32) ?*Export {
    leaveParent();
    for (exports.items) |exported| {
        if (exported.id == id) return exported;
    }
    return null;
}

/// Whether this process exported the id. A forked child did not.
pub fn isOwn(id: u32) bool {
    return find(id) != null;
}

pub fn allow(id: u32, pids: []const i32) acl.Error {
    const exported = find(id) orelse
        return errors.fail(acl.code.rt_no_permission, "this process did not export the handle");
    if (exported.any_pid) return errors.fail(acl.code.rt_no_permission, "exported without a pid whitelist");
    if (exported.pids.items.len + pids.len > max_pids) return errors.fail(acl.code.rt_param_invalid, "too many pids");
    exported.pids.appendSlice(allocator, pids) catch
        return errors.outOfHostMemory();
    return acl.code.success;
}

pub fn close(id: u32) bool {
    leaveParent();
    for (exports.items, 0..) |exported, index| {
        if (exported.id != id) continue;
        _ = exports.swapRemove(index);
        destroy(exported);
        nudge();
        return true;
    }
    return false;
}

fn destroy(exported: *Export) void {
    _ = linux.close(exported.listener);
    exported.pids.deinit(allocator);
    allocator.destroy(exported);
}

/// The exporter gave the memory up. Nobody can import it any more, but a process that has it keeps it.
pub fn closeAllOf(memory: *const Memory) void {
    leaveParent();
    var index = exports.items.len;
    while (index > 0) {
        index -= 1;
        if (exports.items[index].memory == memory) _ = close(exports.items[index].id);
    }
}

const Watched = union(enum) { wake, exported: u32, importer: i32 };

fn serve(_: ?*anyopaque) callconv(.c) ?*anyopaque {
    var polled: std.ArrayList(linux.pollfd) = .empty;
    var watched: std.ArrayList(Watched) = .empty;
    defer polled.deinit(allocator);
    defer watched.deinit(allocator);
    while (true) {
        lock.enter();
        for (watched.items, polled.items) |what, entry| {
            if (entry.revents != 0) attend(what);
        }
        const idle = exports.items.len == 0 and importers.items.len == 0;
        collect(&polled, &watched) catch {
            // Without memory for the list, try again later.
            polled.clearRetainingCapacity();
            watched.clearRetainingCapacity();
        };
        if (idle) is_serving = false;
        lock.leave();
        if (idle) return null;
        _ = linux.poll(polled.items.ptr, polled.items.len, if (polled.items.len == 0) 10 else -1);
    }
}

fn collect(polled: *std.ArrayList(linux.pollfd), watched: *std.ArrayList(Watched)) error{OutOfMemory}!void {
    polled.clearRetainingCapacity();
    watched.clearRetainingCapacity();
    const count = exports.items.len + importers.items.len + 1;
    try polled.ensureTotalCapacity(allocator, count);
    try watched.ensureTotalCapacity(allocator, count);
    watch(polled, watched, wake, .wake);
    for (exports.items) |exported| watch(polled, watched, exported.listener, .{ .exported = exported.id });
    for (importers.items) |importer| watch(polled, watched, importer.connection, .{ .importer = importer.connection });
}

fn watch(polled: *std.ArrayList(linux.pollfd), watched: *std.ArrayList(Watched), fd: i32, what: Watched) void {
    polled.appendAssumeCapacity(.{ .fd = fd, .events = linux.POLL.IN, .revents = 0 });
    watched.appendAssumeCapacity(what);
}

fn attend(what: Watched) void {
    switch (what) {
        .wake => {
            var count: u64 = 0;
            _ = linux.read(wake, std.mem.asBytes(&count), 8);
        },
        .exported => |id| if (find(id)) |exported| accept(exported),
        .importer => |connection| dropImporter(connection),
    }
}

/// An importer never sends anything, so any event on its connection is its end.
fn dropImporter(connection: i32) void {
    for (importers.items, 0..) |importer, index| {
        if (importer.connection != connection) continue;
        _ = importers.swapRemove(index);
        _ = linux.close(connection);
        importer.memory.release();
        return;
    }
}

fn accept(exported: *Export) void {
    const result = linux.accept4(exported.listener, null, null, linux.SOCK.CLOEXEC | linux.SOCK.NONBLOCK);
    if (linux.errno(result) != .SUCCESS) return;
    const connection: i32 = @intCast(result);
    const permitted = mayImport(exported, connection);
    importers.ensureUnusedCapacity(allocator, 1) catch {
        _ = linux.close(connection);
        return;
    };
    const reply: Reply = .{
        .code = if (permitted) acl.code.success else acl.code.rt_no_permission,
        .mem_attr = exported.mem_attr,
        .offset = exported.memory.offset,
        .size = exported.memory.size,
    };
    if (send(connection, &reply, if (permitted) exported.memory.fd else null) and permitted) {
        exported.memory.retain();
        importers.appendAssumeCapacity(.{ .connection = connection, .memory = exported.memory });
    } else {
        _ = linux.close(connection);
    }
}

const Credentials = extern struct { pid: i32 = 0, uid: u32 = 0, gid: u32 = 0 };

fn mayImport(exported: *const Export, connection: i32) bool {
    var peer: Credentials = .{};
    var length: u32 = @sizeOf(Credentials);
    const bytes: [*]u8 = @ptrCast(&peer);
    const result = linux.getsockopt(connection, linux.SOL.SOCKET, linux.SO.PEERCRED, bytes, &length);
    if (linux.errno(result) != .SUCCESS) return false;
    if (peer.uid != linux.getuid()) return false;
    return exported.any_pid or std.mem.indexOfScalar(i32, exported.pids.items, peer.pid) != null;
}

const FdMessage = extern struct { header: linux.cmsghdr, fd: i32, pad: i32 = 0 };
const fd_message_length = @sizeOf(linux.cmsghdr) + @sizeOf(i32);

fn send(connection: i32, reply: *const Reply, fd: ?i32) bool {
    const part: std.posix.iovec_const = .{ .base = @ptrCast(reply), .len = @sizeOf(Reply) };
    var control: FdMessage = .{
        .header = .{ .len = fd_message_length, .level = linux.SOL.SOCKET, .type = linux.SCM.RIGHTS },
        .fd = fd orelse -1,
    };
    const message: linux.msghdr_const = .{
        .name = null,
        .namelen = 0,
        .iov = @ptrCast(&part),
        .iovlen = 1,
        .control = if (fd == null) null else &control,
        .controllen = if (fd == null) 0 else @sizeOf(FdMessage),
        .flags = 0,
    };
    return linux.sendmsg(connection, &message, linux.MSG.NOSIGNAL) == @sizeOf(Reply);
}

/// Asks the exporter for the memory. Called without the lock, as the exporter may take long.
pub fn fetch(id: u32, out: *Imported) acl.Error {
    const result = linux.socket(linux.AF.UNIX, linux.SOCK.SEQPACKET | linux.SOCK.CLOEXEC, 0);
    if (linux.errno(result) != .SUCCESS) return errors.fail(acl.code.rt_resource_alloc_fail, "no socket");
    const connection: i32 = @intCast(result);
    const code = fetchOver(connection, id, out);
    if (code != acl.code.success) _ = linux.close(connection);
    return code;
}

fn fetchOver(connection: i32, id: u32, out: *Imported) acl.Error {
    const gone = "nobody exports the handle, or no longer";
    const address = addressOf(id);
    if (linux.errno(linux.connect(connection, &address.name, address.length)) != .SUCCESS)
        return errors.fail(acl.code.rt_drv_internal_error, gone);
    const timeout: linux.timeval = .{ .sec = import_timeout_seconds, .usec = 0 };
    const bytes: [*]const u8 = @ptrCast(&timeout);
    _ = linux.setsockopt(connection, linux.SOL.SOCKET, linux.SO.RCVTIMEO, bytes, @sizeOf(linux.timeval));
    var reply: Reply = .{ .magic = 0 };
    const fd = receive(connection, &reply);
    if (reply.magic == reply_magic and reply.code != acl.code.success)
        return errors.fail(reply.code, "the exporter did not allow this process");
    if (reply.magic != reply_magic or fd == null) {
        if (fd) |stray| _ = linux.close(stray);
        return errors.fail(acl.code.rt_drv_internal_error, gone);
    }
    out.* = .{ .reply = reply, .fd = fd.?, .connection = connection };
    return acl.code.success;
}

fn receive(connection: i32, reply: *Reply) ?i32 {
    var part: std.posix.iovec = .{ .base = @ptrCast(reply), .len = @sizeOf(Reply) };
    var control: FdMessage = .{ .header = .{ .len = 0, .level = 0, .type = 0 }, .fd = -1 };
    var message: linux.msghdr = .{
        .name = null,
        .namelen = 0,
        .iov = @ptrCast(&part),
        .iovlen = 1,
        .control = &control,
        .controllen = @sizeOf(FdMessage),
        .flags = 0,
    };
    while (true) {
        const result = linux.recvmsg(connection, &message, linux.MSG.CMSG_CLOEXEC);
        if (linux.errno(result) == .INTR) continue;
        if (result != @sizeOf(Reply)) reply.magic = 0;
        break;
    }
    return if (control.header.type == linux.SCM.RIGHTS and control.fd >= 0) control.fd else null;
}

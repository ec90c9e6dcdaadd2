//! Memory that crosses process boundaries.
//!
//! An export listens on an abstract unix socket named after its 32-bit id, so ids are unique on the machine (per network
//! namespace) and nothing is left behind when a process dies. Whoever connects and may import gets the device's memfd and
//! the range in it; it keeps the connection open for as long as it holds the memory, and the exporter keeps the memory
//! for as long as the connection is open.

const std = @import("std");
const linux = std.os.linux;
const acl = @import("acl");
const state = @import("state.zig");
const errors = @import("errors.zig");
const threads = @import("threads.zig");
const Backing = @import("backing.zig").Backing;

pub const max_pids = 65535;
const import_timeout_seconds = 5;
const reply_magic: u64 = 0x6d65_6d61_6373_6163;

const Share = struct {
    id: u32,
    device: u8,
    owner: i32,
    listener: i32,
    backing: *Backing,
    mem_attr: c_int,
    any_pid: bool,
    pids: std.ArrayList(i32) = .empty,
};

/// A process that holds memory of ours.
const Holder = struct { connection: i32, backing: *Backing };

/// What an importer is told; the descriptor travels beside it.
pub const Reply = extern struct {
    magic: u64 = reply_magic,
    code: acl.Error = acl.code.success,
    mem_attr: c_int = 0,
    offset: u64 = 0,
    size: u64 = 0,
};

pub const Imported = struct { reply: Reply, fd: i32, connection: i32 };

var shares: std.ArrayList(*Share) = .empty;
var holders: std.ArrayList(Holder) = .empty;
var wake: i32 = -1;
var is_serving = false;

/// Starts listening; the id that others import by.
pub fn create(backing: *Backing, device: u8, mem_attr: c_int, any_pid: bool) error{Unavailable}!u32 {
    if (wake < 0) {
        const result = linux.eventfd(0, linux.EFD.CLOEXEC | linux.EFD.NONBLOCK);
        if (linux.errno(result) != .SUCCESS) return error.Unavailable;
        wake = @intCast(result);
    }
    const share = state.allocator.create(Share) catch return error.Unavailable;
    errdefer state.allocator.destroy(share);
    // From now on another process may have written to it.
    backing.is_undefined = false;
    share.* = .{
        .id = 0,
        .device = device,
        .owner = linux.getpid(),
        .listener = -1,
        .backing = backing,
        .mem_attr = mem_attr,
        .any_pid = any_pid,
    };
    try listen(share);
    errdefer _ = linux.close(share.listener);
    shares.append(state.allocator, share) catch return error.Unavailable;
    errdefer _ = shares.pop();
    if (!is_serving) {
        if (!threads.start(serve, null)) return error.Unavailable;
        is_serving = true;
    }
    nudge();
    return share.id;
}

fn listen(share: *Share) error{Unavailable}!void {
    const result = linux.socket(linux.AF.UNIX, linux.SOCK.SEQPACKET | linux.SOCK.CLOEXEC | linux.SOCK.NONBLOCK, 0);
    if (linux.errno(result) != .SUCCESS) return error.Unavailable;
    share.listener = @intCast(result);
    errdefer _ = linux.close(share.listener);
    for (0..64) |_| {
        if (linux.getrandom(std.mem.asBytes(&share.id), 4, 0) != 4) return error.Unavailable;
        if (share.id == 0) continue;
        const address = addressOf(share.id);
        switch (linux.errno(linux.bind(share.listener, @ptrCast(&address.name), address.length))) {
            .SUCCESS => break,
            .ADDRINUSE => {},
            else => return error.Unavailable,
        }
    } else return error.Unavailable;
    if (linux.errno(linux.listen(share.listener, 64)) != .SUCCESS) return error.Unavailable;
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
    // The counter can only be full when a wake-up is pending already.
    _ = linux.write(wake, std.mem.asBytes(&one), 8);
}

fn find(id: u32) ?*Share {
    for (shares.items) |share| {
        if (share.id == id) return share;
    }
    return null;
}

/// Whether this very process exported the id; a forked child did not.
pub fn isOwn(id: u32) bool {
    const share = find(id) orelse return false;
    return share.owner == linux.getpid();
}

pub fn allow(id: u32, pids: []const i32) acl.Error {
    const share = find(id) orelse
        return errors.fail(acl.code.rt_no_permission, "this process did not export the handle");
    if (share.any_pid) return errors.fail(acl.code.rt_no_permission, "exported without a pid whitelist");
    if (share.pids.items.len + pids.len > max_pids) return errors.fail(acl.code.rt_param_invalid, "too many pids");
    share.pids.appendSlice(state.allocator, pids) catch
        return errors.fail(acl.code.rt_memory_allocation, "out of host memory");
    return acl.code.success;
}

pub fn close(id: u32) bool {
    for (shares.items, 0..) |share, index| {
        if (share.id != id) continue;
        _ = shares.swapRemove(index);
        _ = linux.close(share.listener);
        share.pids.deinit(state.allocator);
        state.allocator.destroy(share);
        nudge();
        return true;
    }
    return false;
}

/// The exporter gave the memory up: nobody can import it any more, but who has it keeps it.
pub fn closeAllOf(backing: *const Backing) void {
    var index = shares.items.len;
    while (index > 0) {
        index -= 1;
        if (shares.items[index].backing == backing) _ = close(shares.items[index].id);
    }
}

const Watched = union(enum) { wake, share: u32, holder: i32 };

fn serve(_: ?*anyopaque) callconv(.c) ?*anyopaque {
    var polled: std.ArrayList(linux.pollfd) = .empty;
    var watched: std.ArrayList(Watched) = .empty;
    defer polled.deinit(state.allocator);
    defer watched.deinit(state.allocator);
    while (true) {
        state.enter();
        for (watched.items, polled.items) |what, entry| {
            if (entry.revents != 0) attend(what);
        }
        const idle = shares.items.len == 0 and holders.items.len == 0;
        collect(&polled, &watched) catch {
            // Without memory for the list, look again when there may be some.
            polled.clearRetainingCapacity();
            watched.clearRetainingCapacity();
        };
        if (idle) is_serving = false;
        state.leave();
        if (idle) return null;
        _ = linux.poll(polled.items.ptr, polled.items.len, if (polled.items.len == 0) 10 else -1);
    }
}

fn collect(polled: *std.ArrayList(linux.pollfd), watched: *std.ArrayList(Watched)) error{OutOfMemory}!void {
    polled.clearRetainingCapacity();
    watched.clearRetainingCapacity();
    const count = shares.items.len + holders.items.len + 1;
    try polled.ensureTotalCapacity(state.allocator, count);
    try watched.ensureTotalCapacity(state.allocator, count);
    watch(polled, watched, wake, .wake);
    for (shares.items) |share| watch(polled, watched, share.listener, .{ .share = share.id });
    for (holders.items) |holder| watch(polled, watched, holder.connection, .{ .holder = holder.connection });
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
        .share => |id| if (find(id)) |share| accept(share),
        .holder => |connection| dropHolder(connection),
    }
}

/// An importer never sends anything, so whatever happens on its connection is its end.
fn dropHolder(connection: i32) void {
    for (holders.items, 0..) |holder, index| {
        if (holder.connection != connection) continue;
        _ = holders.swapRemove(index);
        _ = linux.close(connection);
        holder.backing.release();
        return;
    }
}

fn accept(share: *Share) void {
    const result = linux.accept4(share.listener, null, null, linux.SOCK.CLOEXEC | linux.SOCK.NONBLOCK);
    if (linux.errno(result) != .SUCCESS) return;
    const connection: i32 = @intCast(result);
    const permitted = mayImport(share, connection);
    holders.ensureUnusedCapacity(state.allocator, 1) catch {
        _ = linux.close(connection);
        return;
    };
    const reply: Reply = .{
        .code = if (permitted) acl.code.success else acl.code.rt_no_permission,
        .mem_attr = share.mem_attr,
        .offset = share.backing.offset,
        .size = share.backing.size,
    };
    if (send(connection, &reply, if (permitted) share.backing.fd else null) and permitted) {
        share.backing.retain();
        holders.appendAssumeCapacity(.{ .connection = connection, .backing = share.backing });
    } else {
        _ = linux.close(connection);
    }
}

const Credentials = extern struct { pid: i32 = 0, uid: u32 = 0, gid: u32 = 0 };

fn mayImport(share: *const Share, connection: i32) bool {
    var peer: Credentials = .{};
    var length: u32 = @sizeOf(Credentials);
    const bytes: [*]u8 = @ptrCast(&peer);
    const result = linux.getsockopt(connection, linux.SOL.SOCKET, linux.SO.PEERCRED, bytes, &length);
    if (linux.errno(result) != .SUCCESS) return false;
    if (peer.uid != linux.getuid()) return false;
    return share.any_pid or std.mem.indexOfScalar(i32, share.pids.items, peer.pid) != null;
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

/// Asks the exporter for the memory. Called without the lock: the exporter may take its time.
pub fn fetch(id: u32, out: *Imported) acl.Error {
    const result = linux.socket(linux.AF.UNIX, linux.SOCK.SEQPACKET | linux.SOCK.CLOEXEC, 0);
    if (linux.errno(result) != .SUCCESS) return errors.fail(acl.code.rt_resource_alloc_fail, "no socket");
    const connection: i32 = @intCast(result);
    const code = fetchOver(connection, id, out);
    if (code != acl.code.success) _ = linux.close(connection);
    return code;
}

fn fetchOver(connection: i32, id: u32, out: *Imported) acl.Error {
    const gone = "nobody exports such a handle (any more)";
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

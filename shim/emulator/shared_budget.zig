//! One device memory for several processes (CAMEM_EMULATOR_SHARED).
//!
//! The processes map one file in /dev/shm. It holds a slot for each process: what the process takes of each device. A
//! process writes its own slot only, under a lock on the file's first byte.
//!
//! A process also holds a lock on one byte of its own for as long as it lives. The kernel drops both locks when the
//! process ends, however it ends. So a slot whose byte nobody has locked belongs to a dead process, and counts as
//! nothing. Locks of this kind are not inherited by fork(): a child takes a slot of its own.

const std = @import("std");
const linux = std.os.linux;

pub const max_devices = 16;
const max_processes = 256;
const max_name_bytes = 64;
/// The lock on the state lies before the locks on the slots, which need no bytes of the file.
const state_lock = 0;
const first_slot_lock = 1;

/// Zig's list has the numbers of 32-bit systems here.
const command = struct {
    const get_lock = 5;
    const set_lock = 6;
    const wait_for_lock = 7;
};

const Slot = extern struct { bytes: [max_devices]u64 };

const State = extern struct {
    /// The memory of each device; decided by the first of the processes that live at a time.
    budget_bytes: u64,
    slots: [max_processes]Slot,
};

/// The shared state as one process sees it.
pub const Share = struct {
    fd: i32,
    state: *State,
    budget_bytes: u64,
    /// The process that holds `slot`.
    owner: i32 = 0,
    slot: usize = 0,

    /// Free bytes of a device.
    pub fn freeBytes(share: *Share, device: u8) u64 {
        share.lock();
        defer share.unlock();
        return share.freeLocked(device);
    }

    /// Takes `bytes` of a device. Takes nothing when they do not fit.
    pub fn take(share: *Share, device: u8, bytes: u64) error{OutOfMemory}!void {
        share.lock();
        defer share.unlock();
        const own = share.ownSlot() orelse return error.OutOfMemory;
        if (bytes > share.freeLocked(device)) return error.OutOfMemory;
        own.bytes[device] += bytes;
    }

    pub fn give(share: *Share, device: u8, bytes: u64) void {
        share.lock();
        defer share.unlock();
        const own = share.ownSlot() orelse return;
        own.bytes[device] -|= bytes;
    }

    fn freeLocked(share: *Share, device: u8) u64 {
        var taken: u64 = 0;
        for (&share.state.slots, 0..) |*slot, index| {
            if (slot.bytes[device] == 0) continue;
            if (!share.isOwn(index) and !isLocked(share.fd, first_slot_lock + index)) slot.* = .{ .bytes = @splat(0) };
            taken += slot.bytes[device];
        }
        return share.budget_bytes -| taken;
    }

    fn isOwn(share: *const Share, index: usize) bool {
        return index == share.slot and share.owner == linux.getpid();
    }

    /// Takes a slot at the first use, also in the child of a fork. Null when all slots belong to living processes.
    fn ownSlot(share: *Share) ?*Slot {
        if (!share.isOwn(share.slot)) {
            share.slot = for (0..max_processes) |index| {
                if (tryLock(share.fd, first_slot_lock + index)) break index;
            } else return null;
            share.owner = linux.getpid();
            share.state.slots[share.slot] = .{ .bytes = @splat(0) };
        }
        return &share.state.slots[share.slot];
    }

    fn lock(share: *Share) void {
        waitForLock(share.fd, state_lock);
    }

    fn unlock(share: *Share) void {
        _ = setLock(share.fd, command.set_lock, linux.F.UNLCK, state_lock);
    }
};

const Failure = error{ InvalidName, Unavailable, OtherBudget };

/// Joins the processes that share `name`. Processes of other users have a file of their own.
pub fn join(name: []const u8, budget_bytes: u64, out: *Share) Failure!void {
    var path: [max_name_bytes + 64]u8 = undefined;
    const fd = try open(try pathOf(&path, name));
    errdefer _ = linux.close(fd);
    const mapped = linux.mmap(null, @sizeOf(State), .{ .READ = true, .WRITE = true }, .{ .TYPE = .SHARED }, fd, 0);
    if (linux.errno(mapped) != .SUCCESS) return error.Unavailable;
    errdefer _ = linux.munmap(@ptrFromInt(mapped), @sizeOf(State));
    out.* = .{ .fd = fd, .state = @ptrFromInt(mapped), .budget_bytes = budget_bytes };
    out.lock();
    defer out.unlock();
    if (!hasOthers(fd)) out.state.* = .{ .budget_bytes = budget_bytes, .slots = @splat(.{ .bytes = @splat(0) }) };
    if (out.state.budget_bytes != budget_bytes) return error.OtherBudget;
    // A process counts from now on, so that no later one changes the budget.
    if (out.ownSlot() == null) return error.Unavailable;
}

fn pathOf(buffer: []u8, name: []const u8) Failure![:0]const u8 {
    if (name.len == 0 or name.len > max_name_bytes) return error.InvalidName;
    for (name) |character| switch (character) {
        'a'...'z', 'A'...'Z', '0'...'9', '-', '_', '.' => {},
        else => return error.InvalidName,
    };
    return std.fmt.bufPrintZ(buffer, "/dev/shm/camem-emulator-{d}-{s}", .{ linux.getuid(), name }) catch
        error.InvalidName;
}

fn open(path: [:0]const u8) Failure!i32 {
    const flags: linux.O = .{ .ACCMODE = .RDWR, .CREAT = true, .CLOEXEC = true, .NOFOLLOW = true };
    const opened = linux.open(path, flags, 0o600);
    if (linux.errno(opened) != .SUCCESS) return error.Unavailable;
    const fd: i32 = @intCast(opened);
    errdefer _ = linux.close(fd);
    // Growing a file keeps its content, so a process that opens it later changes nothing.
    if (linux.errno(linux.ftruncate(fd, @sizeOf(State))) != .SUCCESS) return error.Unavailable;
    return fd;
}

fn hasOthers(fd: i32) bool {
    for (0..max_processes) |index| {
        if (isLocked(fd, first_slot_lock + index)) return true;
    }
    return false;
}

/// Whether another process holds the lock.
fn isLocked(fd: i32, at: usize) bool {
    var request = lockOf(linux.F.WRLCK, at);
    if (linux.errno(linux.fcntl(fd, command.get_lock, @intFromPtr(&request))) != .SUCCESS) return true;
    return request.type != linux.F.UNLCK;
}

fn tryLock(fd: i32, at: usize) bool {
    return setLock(fd, command.set_lock, linux.F.WRLCK, at) == .SUCCESS;
}

fn waitForLock(fd: i32, at: usize) void {
    while (setLock(fd, command.wait_for_lock, linux.F.WRLCK, at) == .INTR) {}
}

fn setLock(fd: i32, operation: i32, kind: i16, at: usize) linux.E {
    const request = lockOf(kind, at);
    return linux.errno(linux.fcntl(fd, operation, @intFromPtr(&request)));
}

fn lockOf(kind: i16, at: usize) linux.Flock {
    return .{ .type = kind, .whence = linux.SEEK.SET, .start = @intCast(at), .len = 1, .pid = 0, ._unused = {} };
}

test "pathOf refuses names that leave the folder" {
    var buffer: [max_name_bytes + 64]u8 = undefined;
    const too_long: [max_name_bytes + 1]u8 = @splat('a');
    for ([_][]const u8{ "", "a/b", "a b", &too_long }) |name|
        try std.testing.expectError(error.InvalidName, pathOf(&buffer, name));
    try std.testing.expect(std.mem.endsWith(u8, try pathOf(&buffer, "bench-1.a_B"), "-bench-1.a_B"));
}

test "Share counts the child of a fork by itself when it takes memory" {
    var name: [32]u8 = undefined;
    var path: [max_name_bytes + 64]u8 = undefined;
    const own_name = try std.fmt.bufPrint(&name, "zig-{d}", .{linux.getpid()});
    const file = try pathOf(&path, own_name);
    defer _ = linux.unlink(file);
    var share: Share = undefined;
    try join(own_name, 100, &share);
    defer _ = linux.close(share.fd);
    try share.take(3, 10);
    const child: i32 = @intCast(linux.fork());
    if (child == 0) {
        const too_much = share.take(3, 91);
        if (too_much == error.OutOfMemory and share.take(3, 20) != error.OutOfMemory)
            linux.exit_group(@intCast(share.freeBytes(3)));
        linux.exit_group(1);
    }
    var status: u32 = 0;
    try std.testing.expectEqual(@as(usize, @intCast(child)), linux.waitpid(child, &status, 0));
    try std.testing.expectEqual(70, linux.W.EXITSTATUS(status));
    try std.testing.expectEqual(90, share.freeBytes(3));
    share.give(3, 10);
    try std.testing.expectEqual(100, share.freeBytes(3));
}

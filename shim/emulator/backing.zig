//! Device memory: per device one sparse memfd, of which every allocation gets a range of its own.
//!
//! One file per device rather than one per allocation, because a process may hold thousands of allocations but far fewer
//! file descriptors. Offsets only grow (the file is 2^63 bytes long in principle), so fresh memory never shows another
//! allocation's bytes, the budget alone decides what fits, and fragmentation cannot make an allocation fail.

const std = @import("std");
const linux = std.os.linux;
const state = @import("state.zig");

pub const granule: u64 = 2 << 20;

pub const Purpose = enum { physical, allocation };

pub const Pool = struct {
    fd: i32 = -1,
    next_offset: u64 = 0,
    budget_bytes: u64 = 0,
    used_bytes: u64 = 0,

    fn grow(pool: *Pool, size: u64) error{OutOfMemory}!u64 {
        if (pool.fd < 0) {
            const result = linux.memfd_create("ascendcl-emulator-device", linux.MFD.CLOEXEC);
            if (linux.errno(result) != .SUCCESS) return error.OutOfMemory;
            pool.fd = @intCast(result);
        }
        const offset = pool.next_offset;
        const end = std.math.add(u64, offset, std.mem.alignForward(u64, size, granule)) catch return error.OutOfMemory;
        const length = std.math.cast(i64, end) orelse return error.OutOfMemory;
        if (linux.errno(linux.ftruncate(pool.fd, length)) != .SUCCESS) return error.OutOfMemory;
        pool.next_offset = end;
        return offset;
    }
};

/// Bytes taken per purpose, all pools together; imported memory is its exporter's.
pub var committed_bytes: std.EnumArray(Purpose, u64) = .initFill(0);

pub const Backing = struct {
    /// Null for memory of another process, which keeps `connection` open to tell it that we still hold the memory.
    pool: ?*Pool,
    purpose: Purpose,
    fd: i32,
    connection: i32 = -1,
    offset: u64,
    size: u64,
    references: u32 = 1,
    next_discarded: ?*Backing = null,

    pub fn create(pool: *Pool, size: u64, purpose: Purpose) error{OutOfMemory}!*Backing {
        if (size > pool.budget_bytes - pool.used_bytes) return error.OutOfMemory;
        const backing = try state.allocator.create(Backing);
        errdefer state.allocator.destroy(backing);
        const offset = try pool.grow(size);
        backing.* = .{ .pool = pool, .purpose = purpose, .fd = pool.fd, .offset = offset, .size = size };
        pool.used_bytes += size;
        committed_bytes.getPtr(purpose).* += size;
        return backing;
    }

    /// Takes over both descriptors.
    pub fn adopt(fd: i32, connection: i32, offset: u64, size: u64) error{OutOfMemory}!*Backing {
        const backing = try state.allocator.create(Backing);
        backing.* = .{
            .pool = null,
            .purpose = .physical,
            .fd = fd,
            .connection = connection,
            .offset = offset,
            .size = size,
        };
        return backing;
    }

    pub fn retain(backing: *Backing) void {
        backing.references += 1;
    }

    pub fn release(backing: *Backing) void {
        backing.references -= 1;
        if (backing.references > 0) return;
        if (backing.pool) |pool| {
            pool.used_bytes -= backing.size;
            committed_bytes.getPtr(backing.purpose).* -= backing.size;
        }
        state.discard(backing);
    }

    /// Called without the lock: freeing gigabytes of touched pages takes a while.
    pub fn giveBack(backing: *Backing) void {
        if (backing.pool != null) {
            const mode = linux.FALLOC.FL_PUNCH_HOLE | linux.FALLOC.FL_KEEP_SIZE;
            // A failure costs host memory, nothing else: the range is never handed out again.
            _ = linux.fallocate(backing.fd, mode, @intCast(backing.offset), @intCast(backing.size));
        } else {
            _ = linux.close(backing.fd);
            _ = linux.close(backing.connection);
        }
        state.allocator.destroy(backing);
    }
};

test "the budget is exact and comes back with the last reference" {
    var pool: Pool = .{ .budget_bytes = 3 * granule };
    defer _ = linux.close(pool.fd);
    state.enter();
    defer state.leave();
    const first = try Backing.create(&pool, 2 * granule, .physical);
    try std.testing.expectError(error.OutOfMemory, Backing.create(&pool, 2 * granule, .physical));
    const second = try Backing.create(&pool, granule, .allocation);
    try std.testing.expectEqual(0, pool.budget_bytes - pool.used_bytes);
    first.retain();
    first.release();
    try std.testing.expectEqual(3 * granule, pool.used_bytes);
    first.release();
    second.release();
    try std.testing.expectEqual(0, pool.used_bytes);
}

//! Device memory: per device one memfd, of which every allocation gets a range of its own.
//!
//! One file per device rather than one per allocation, because a process may hold thousands of allocations but far fewer
//! file descriptors; one range per allocation rather than several, because that is one mmap and one entry of the process's
//! limited list of mappings.
//!
//! A device has its memory, whereas in a fresh file the first touch of a page costs far more than a copy to it. So up to
//! `keep_bytes` of a device's memory are *resident*: touched as a whole when they are first mapped, and kept (kept.zig) for
//! the next allocation when they are freed. What does not fit is sparse: it takes host memory where it is touched, and
//! gives it back when it is freed, so that a process can hold more device memory than its machine has. Smaller things than
//! a granule are sparse too.
//!
//! Fresh ranges lie at growing offsets (the file is 2^63 bytes long in principle), so the budget alone decides what fits,
//! and fragmentation cannot make an allocation fail: at worst, memory that is kept in pieces is given back for it.

const std = @import("std");
const linux = std.os.linux;
const state = @import("state.zig");
const Kept = @import("kept.zig").Kept;

pub const granule: u64 = 2 << 20;

pub const Purpose = enum { physical, allocation };

pub const Pool = struct {
    fd: i32 = -1,
    next_offset: u64 = 0,
    budget_bytes: u64 = 0,
    used_bytes: u64 = 0,
    /// How much may be resident, used or kept.
    keep_bytes: u64 = 0,
    resident_bytes: u64 = 0,
    kept: Kept = .{},

    /// Changes how much may be resident. What is in use stays so until it is freed.
    pub fn keep(pool: *Pool, bytes: u64) void {
        pool.keep_bytes = bytes;
        pool.shrink(bytes);
    }

    /// Gives kept memory back until no more than `bytes` are resident or nothing more is kept.
    pub fn shrink(pool: *Pool, bytes: u64) void {
        while (pool.resident_bytes > bytes) {
            const range = pool.kept.evict() orelse return;
            pool.resident_bytes -= range.bytes;
            discardRange(pool.fd, range.offset, range.bytes);
        }
    }

    fn place(pool: *Pool, size: u64) error{OutOfMemory}!Place {
        if (size % granule != 0) return .{ .offset = try pool.grow(size), .residence = .sparse };
        if (pool.kept.take(size)) |offset| return .{ .offset = offset, .residence = .touched };
        const used = pool.resident_bytes - pool.kept.bytes;
        if (size > pool.keep_bytes -| used) return .{ .offset = try pool.grow(size), .residence = .sparse };
        const offset = try pool.grow(size);
        pool.shrink(pool.keep_bytes - size);
        pool.resident_bytes += size;
        return .{ .offset = offset, .residence = .fresh };
    }

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

const Place = struct { offset: u64, residence: Residence };

pub const Residence = enum {
    /// Takes host memory where it is touched.
    sparse,
    /// To be touched as a whole by its first mapping.
    fresh,
    touched,
};

pub const Claim = struct {
    populate: bool = false,
    /// No page of it was touched yet.
    is_fresh: bool = false,
    /// The content is undefined, and has to look it.
    scribble: bool = false,
};

/// A range of a file whose pages go back to the host.
const Range = struct {
    discarded: state.Discarded = .{ .giveBack = giveBack },
    fd: i32,
    offset: u64,
    bytes: u64,

    fn giveBack(discarded: *state.Discarded) void {
        const range: *Range = @alignCast(@fieldParentPtr("discarded", discarded));
        punchHole(range.fd, range.offset, range.bytes);
        state.allocator.destroy(range);
    }
};

fn discardRange(fd: i32, offset: u64, bytes: u64) void {
    const range = state.allocator.create(Range) catch return punchHole(fd, offset, bytes);
    range.* = .{ .fd = fd, .offset = offset, .bytes = bytes };
    state.discard(&range.discarded);
}

/// A failure costs host memory, nothing else: the range is never handed out again.
fn punchHole(fd: i32, offset: u64, bytes: u64) void {
    const mode = linux.FALLOC.FL_PUNCH_HOLE | linux.FALLOC.FL_KEEP_SIZE;
    _ = linux.fallocate(fd, mode, @intCast(offset), @intCast(bytes));
}

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
    residence: Residence = .sparse,
    /// Nobody has written to it since it was allocated, or can have.
    is_undefined: bool = false,
    references: u32 = 1,
    discarded: state.Discarded = .{ .giveBack = giveBack },

    pub fn create(pool: *Pool, size: u64, purpose: Purpose) error{OutOfMemory}!*Backing {
        if (size > pool.budget_bytes - pool.used_bytes) return error.OutOfMemory;
        const backing = try state.allocator.create(Backing);
        errdefer state.allocator.destroy(backing);
        const found = try pool.place(size);
        backing.* = .{
            .pool = pool,
            .purpose = purpose,
            .fd = pool.fd,
            .offset = found.offset,
            .size = size,
            .residence = found.residence,
            .is_undefined = found.residence != .sparse,
        };
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

    /// What a mapping of the first `size` bytes has to do. Asked under the lock, so that no two mappings do it.
    pub fn claim(backing: *Backing, size: u64) Claim {
        // Part of fresh memory would leave it half touched.
        if (backing.residence == .sparse or (backing.residence == .fresh and size < backing.size)) return .{};
        defer backing.residence = .touched;
        defer backing.is_undefined = false;
        return .{ .populate = true, .is_fresh = backing.residence == .fresh, .scribble = backing.is_undefined };
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
            if (backing.returnToPool(pool)) return state.allocator.destroy(backing);
        }
        state.discard(&backing.discarded);
    }

    fn returnToPool(backing: *const Backing, pool: *Pool) bool {
        if (backing.residence == .sparse) return false;
        const fits = pool.resident_bytes <= pool.keep_bytes;
        if (backing.residence == .touched and fits) {
            if (pool.kept.put(backing.offset, backing.size)) |_| return true else |_| {}
        }
        pool.resident_bytes -= backing.size;
        return false;
    }

    /// Called without the lock: freeing gigabytes of touched pages takes a while.
    fn giveBack(discarded: *state.Discarded) void {
        const backing: *Backing = @alignCast(@fieldParentPtr("discarded", discarded));
        if (backing.pool != null) {
            punchHole(backing.fd, backing.offset, backing.size);
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

fn createTouched(pool: *Pool, size: u64) !*Backing {
    const backing = try Backing.create(pool, size, .physical);
    _ = backing.claim(size);
    return backing;
}

fn pagesOf(pool: *const Pool) !u64 {
    var status: linux.Statx = undefined;
    const result = linux.statx(pool.fd, "", linux.AT.EMPTY_PATH, .{ .BLOCKS = true }, &status);
    if (linux.errno(result) != .SUCCESS) return error.TestUnexpectedResult;
    return status.blocks / 8;
}

fn touch(backing: *const Backing) !void {
    if (linux.errno(linux.fallocate(backing.fd, 0, @intCast(backing.offset), @intCast(backing.size))) != .SUCCESS)
        return error.TestUnexpectedResult;
}

test "freed memory is kept up to the bound, and taken first" {
    var pool: Pool = .{ .budget_bytes = 100 * granule };
    defer _ = linux.close(pool.fd);
    pool.keep(3 * granule);
    state.enter();
    const first = try createTouched(&pool, 2 * granule);
    const second = try createTouched(&pool, granule);
    const beyond = try createTouched(&pool, granule);
    try std.testing.expectEqual(.sparse, beyond.residence);
    for ([_]*Backing{ first, second, beyond }) |backing| try touch(backing);
    const offset = second.offset;
    for ([_]*Backing{ first, second, beyond }) |backing| backing.release();
    try std.testing.expectEqual(3 * granule, pool.kept.bytes);
    try std.testing.expectEqual(0, pool.used_bytes);
    state.leave();
    try std.testing.expectEqual(3 * granule / 4096, try pagesOf(&pool));
    state.enter();
    const again = try Backing.create(&pool, 3 * granule, .physical);
    try std.testing.expectEqual(Claim{ .populate = true, .scribble = true }, again.claim(granule));
    try std.testing.expectEqual(Claim{ .populate = true }, again.claim(granule));
    try std.testing.expectEqual(offset, again.offset + 2 * granule);
    again.release();
    pool.keep(granule);
    state.leave();
    try std.testing.expectEqual(0, try pagesOf(&pool));
}

test "memory that is kept in pieces makes room, and what never was touched is not kept" {
    var pool: Pool = .{ .budget_bytes = 100 * granule };
    defer _ = linux.close(pool.fd);
    pool.keep(4 * granule);
    state.enter();
    defer state.leave();
    var pieces: [4]*Backing = undefined;
    for (&pieces) |*piece| piece.* = try createTouched(&pool, granule);
    pieces[0].release();
    pieces[2].release();
    try std.testing.expectEqual(2 * granule, pool.kept.bytes);
    const whole = try Backing.create(&pool, 2 * granule, .physical);
    try std.testing.expectEqual(.fresh, whole.residence);
    try std.testing.expectEqual(0, pool.kept.bytes);
    try std.testing.expectEqual(Claim{}, whole.claim(granule));
    whole.release();
    try std.testing.expectEqual(0, pool.kept.bytes);
    try std.testing.expectEqual(2 * granule, pool.resident_bytes);
    pool.keep(0);
    pieces[1].release();
    pieces[3].release();
    try std.testing.expectEqual(0, pool.kept.bytes);
    try std.testing.expectEqual(0, pool.resident_bytes);
}

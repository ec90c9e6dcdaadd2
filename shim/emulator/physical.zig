//! Physical memory of a device, and its budget. This file decides that a device is out of memory.
//!
//! Each device has one memfd, and every allocation gets one range of it. A process may hold thousands of allocations
//! but far fewer file descriptors, so there is no file per allocation. One range per allocation means one mmap and
//! one entry in the process's limited list of mappings.
//!
//! On a device memory simply exists, whereas the first touch of a page in a fresh file costs far more than a copy to
//! it. So up to `keep_bytes` of a device's memory are *populated*: touched as a whole by their first mapping, and
//! kept in a free list for the next allocation when they are freed. Memory beyond that bound is *sparse*: it takes
//! host memory where it is touched, and returns it when it is freed. So a process can hold more device memory than
//! its machine has. Allocations that are no multiple of a huge page are sparse too.
//!
//! Fresh ranges lie at growing offsets of a file that is 2^63 bytes long in principle. So the budget alone decides
//! what fits, and fragmentation cannot make an allocation fail: at worst, memory that is kept in pieces is returned
//! to make room.

const std = @import("std");
const linux = std.os.linux;
const acl = @import("acl");
const errors = @import("errors.zig");
const lock = @import("lock.zig");
const FreeList = @import("free_list.zig").FreeList;
const Share = @import("shared_budget.zig").Share;
const allocator = std.heap.c_allocator;

pub const normal_page_bytes: u64 = 4096;
pub const huge_page_bytes: u64 = 2 << 20;
pub const giant_page_bytes: u64 = 1 << 30;

const max_runtime_growths = 4;

/// Which call took memory: aclrtMallocPhysical or aclrtMalloc.
const Purpose = enum { physical, allocation };

pub fn outOfMemory() acl.Error {
    return errors.fail(acl.code.rt_memory_allocation, "out of memory");
}

pub const Pool = struct {
    fd: i32 = -1,
    /// The process that made the file.
    owner: i32 = 0,
    next_offset: u64 = 0,
    budget_bytes: u64 = 0,
    /// Where the budget counts for several processes.
    shared: ?Shared = null,
    /// What this process uses.
    used_bytes: u64 = 0,
    /// Taken from the budget by the runtime itself while the device is open.
    runtime_bytes: u64 = 0,
    /// The process that opened the device.
    runtime_owner: i32 = 0,
    /// How often the runtime still takes a little more.
    runtime_growths: u32 = 0,
    /// How much may be populated, whether used or kept.
    keep_bytes: u64 = 0,
    populated_bytes: u64 = 0,
    kept: FreeList = .{},

    /// What the runtime takes when a device is opened. A real one also takes a little more while it is first used.
    pub fn openRuntime(pool: *Pool, bytes: u64) void {
        pool.runtime_growths = if (bytes > 0) max_runtime_growths else 0;
        pool.runtime_owner = linux.getpid();
        pool.takeForRuntime(@min(bytes, pool.freeBytes()));
    }

    pub fn closeRuntime(pool: *Pool) void {
        if (pool.runtime_owner == linux.getpid()) pool.give(pool.runtime_bytes);
        pool.runtime_bytes = 0;
        pool.runtime_growths = 0;
    }

    fn growRuntime(pool: *Pool) void {
        if (pool.runtime_growths == 0) return;
        pool.runtime_growths -= 1;
        pool.takeForRuntime(normal_page_bytes);
    }

    /// Without room, the runtime makes do with less.
    fn takeForRuntime(pool: *Pool, bytes: u64) void {
        pool.take(bytes) catch return;
        pool.runtime_bytes += bytes;
    }

    pub fn freeBytes(pool: *const Pool) u64 {
        if (pool.shared) |shared| return shared.share.freeBytes(shared.device);
        return pool.budget_bytes - pool.used_bytes - pool.runtime_bytes;
    }

    /// Takes memory from the budget. The caller adds it to `used_bytes` or `runtime_bytes`.
    fn take(pool: *Pool, bytes: u64) error{OutOfMemory}!void {
        if (pool.shared) |shared| return shared.share.take(shared.device, bytes);
        if (bytes > pool.freeBytes()) return error.OutOfMemory;
    }

    fn give(pool: *Pool, bytes: u64) void {
        if (pool.shared) |shared| shared.share.give(shared.device, bytes);
    }

    /// Changes how much may be populated. Memory in use keeps its pages until it is freed.
    pub fn keep(pool: *Pool, bytes: u64) void {
        pool.leaveParent();
        pool.keep_bytes = bytes;
        pool.shrink(bytes);
    }

    /// Returns kept memory to the host until at most `bytes` are populated or nothing more is kept.
    pub fn shrink(pool: *Pool, bytes: u64) void {
        pool.leaveParent();
        while (pool.populated_bytes > bytes) {
            const range = pool.kept.evict() orelse return;
            pool.populated_bytes -= range.bytes;
            discardRange(pool.fd, range.offset, range.bytes);
        }
    }

    /// After a fork the file belongs to the parent. The child's allocations need a file of their own, and what the
    /// child frees stays as it is.
    fn leaveParent(pool: *Pool) void {
        if (pool.fd < 0 or pool.owner == linux.getpid()) return;
        while (pool.kept.evict()) |_| {}
        pool.fd = -1;
        pool.next_offset = 0;
        pool.populated_bytes = 0;
    }

    fn place(pool: *Pool, size: u64) error{OutOfMemory}!Place {
        pool.leaveParent();
        if (size % huge_page_bytes != 0) return .{ .offset = try pool.grow(size), .residence = .sparse };
        if (pool.kept.take(size)) |offset| return .{ .offset = offset, .residence = .populated };
        const used = pool.populated_bytes - pool.kept.bytes;
        if (size > pool.keep_bytes -| used) return .{ .offset = try pool.grow(size), .residence = .sparse };
        const offset = try pool.grow(size);
        pool.shrink(pool.keep_bytes - size);
        pool.populated_bytes += size;
        return .{ .offset = offset, .residence = .fresh };
    }

    fn grow(pool: *Pool, size: u64) error{OutOfMemory}!u64 {
        if (pool.fd < 0) {
            const result = linux.memfd_create("ascendcl-emulator-device", linux.MFD.CLOEXEC);
            if (linux.errno(result) != .SUCCESS) return error.OutOfMemory;
            pool.fd = @intCast(result);
            pool.owner = linux.getpid();
        }
        const offset = pool.next_offset;
        const aligned = std.mem.alignForward(u64, size, huge_page_bytes);
        const end = std.math.add(u64, offset, aligned) catch return error.OutOfMemory;
        const length = std.math.cast(i64, end) orelse return error.OutOfMemory;
        if (linux.errno(linux.ftruncate(pool.fd, length)) != .SUCCESS) return error.OutOfMemory;
        pool.next_offset = end;
        return offset;
    }
};

/// The device's place in a budget that several processes share.
const Shared = struct { share: *Share, device: u8 };

const Place = struct { offset: u64, residence: Residence };

const Residence = enum {
    /// Takes host memory where it is touched.
    sparse,
    /// Its first mapping populates it as a whole.
    fresh,
    populated,
};

/// What a mapping must do with the pages.
pub const Claim = struct {
    populate: bool = false,
    /// No page was touched yet.
    is_fresh: bool = false,
    /// The content is undefined and must look undefined.
    poison: bool = false,
};

/// A range of a file whose pages return to the host.
const Range = struct {
    after_leave: lock.Deferred = .{ .run = returnToHost },
    fd: i32,
    offset: u64,
    bytes: u64,

    fn returnToHost(deferred: *lock.Deferred) void {
        const range: *Range = @alignCast(@fieldParentPtr("after_leave", deferred));
        punchHole(range.fd, range.offset, range.bytes);
        allocator.destroy(range);
    }
};

fn discardRange(fd: i32, offset: u64, bytes: u64) void {
    const range = allocator.create(Range) catch return punchHole(fd, offset, bytes);
    range.* = .{ .fd = fd, .offset = offset, .bytes = bytes };
    lock.runAfterLeave(&range.after_leave);
}

/// A failure costs only host memory, as the range is never handed out again.
fn punchHole(fd: i32, offset: u64, bytes: u64) void {
    const mode = linux.FALLOC.FL_PUNCH_HOLE | linux.FALLOC.FL_KEEP_SIZE;
    _ = linux.fallocate(fd, mode, @intCast(offset), @intCast(bytes));
}

/// Bytes taken per purpose, all pools together. The exporter counts imported memory.
pub var committed_bytes: std.EnumArray(Purpose, u64) = .initFill(0);

pub const Memory = struct {
    /// Null for memory of another process. To that process, the open `connection` means that this one holds the memory.
    pool: ?*Pool,
    purpose: Purpose,
    fd: i32,
    connection: i32 = -1,
    offset: u64,
    size: u64,
    residence: Residence = .sparse,
    /// Nobody can have written to it since it was allocated.
    is_undefined: bool = false,
    references: u32 = 1,
    after_leave: lock.Deferred = .{ .run = returnToHost },

    /// Fails when the budget does not suffice, or when the host itself has no memory.
    pub fn create(pool: *Pool, size: u64, purpose: Purpose) error{OutOfMemory}!*Memory {
        try pool.take(size);
        errdefer pool.give(size);
        const memory = try allocator.create(Memory);
        errdefer allocator.destroy(memory);
        const found = try pool.place(size);
        memory.* = .{
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
        pool.growRuntime();
        return memory;
    }

    /// Memory of another process. Takes over both descriptors.
    pub fn adopt(fd: i32, connection: i32, offset: u64, size: u64) error{OutOfMemory}!*Memory {
        const memory = try allocator.create(Memory);
        memory.* = .{
            .pool = null,
            .purpose = .physical,
            .fd = fd,
            .connection = connection,
            .offset = offset,
            .size = size,
        };
        return memory;
    }

    /// Decides what a mapping of the first `size` bytes must do. Called with the lock held, so no two mappings do it.
    pub fn claim(memory: *Memory, size: u64) Claim {
        // A mapping of its first part would leave fresh memory half populated.
        if (memory.residence == .sparse or (memory.residence == .fresh and size < memory.size)) return .{};
        defer memory.residence = .populated;
        defer memory.is_undefined = false;
        return .{ .populate = true, .is_fresh = memory.residence == .fresh, .poison = memory.is_undefined };
    }

    pub fn retain(memory: *Memory) void {
        memory.references += 1;
    }

    pub fn release(memory: *Memory) void {
        memory.references -= 1;
        if (memory.references > 0) return;
        if (memory.pool) |pool| {
            pool.used_bytes -= memory.size;
            committed_bytes.getPtr(memory.purpose).* -= memory.size;
            pool.leaveParent();
            if (memory.fd != pool.fd) return allocator.destroy(memory);
            pool.give(memory.size);
            if (memory.returnToPool(pool)) return allocator.destroy(memory);
        }
        lock.runAfterLeave(&memory.after_leave);
    }

    fn returnToPool(memory: *const Memory, pool: *Pool) bool {
        if (memory.residence == .sparse) return false;
        const fits = pool.populated_bytes <= pool.keep_bytes;
        if (memory.residence == .populated and fits) {
            if (pool.kept.put(memory.offset, memory.size)) |_| return true else |_| {}
        }
        pool.populated_bytes -= memory.size;
        return false;
    }

    /// Called without the lock, as freeing gigabytes of populated pages takes long.
    fn returnToHost(deferred: *lock.Deferred) void {
        const memory: *Memory = @alignCast(@fieldParentPtr("after_leave", deferred));
        if (memory.pool != null) {
            punchHole(memory.fd, memory.offset, memory.size);
        } else {
            _ = linux.close(memory.fd);
            _ = linux.close(memory.connection);
        }
        allocator.destroy(memory);
    }
};

test "Memory.create fails when the budget is used up" {
    var pool: Pool = .{ .budget_bytes = 3 * huge_page_bytes };
    defer _ = linux.close(pool.fd);
    lock.enter();
    defer lock.leave();
    const first = try Memory.create(&pool, 2 * huge_page_bytes, .physical);
    try std.testing.expectError(error.OutOfMemory, Memory.create(&pool, 2 * huge_page_bytes, .physical));
    const second = try Memory.create(&pool, huge_page_bytes, .allocation);
    try std.testing.expectEqual(0, pool.budget_bytes - pool.used_bytes);
    first.retain();
    first.release();
    try std.testing.expectEqual(3 * huge_page_bytes, pool.used_bytes);
    first.release();
    second.release();
    try std.testing.expectEqual(0, pool.used_bytes);
}

fn createPopulated(pool: *Pool, size: u64) !*Memory {
    const memory = try Memory.create(pool, size, .physical);
    _ = memory.claim(size);
    return memory;
}

fn pagesOf(pool: *const Pool) !u64 {
    var status: linux.Statx = undefined;
    const result = linux.statx(pool.fd, "", linux.AT.EMPTY_PATH, .{ .BLOCKS = true }, &status);
    if (linux.errno(result) != .SUCCESS) return error.TestUnexpectedResult;
    return status.blocks / 8;
}

fn touch(memory: *const Memory) !void {
    if (linux.errno(linux.fallocate(memory.fd, 0, @intCast(memory.offset), @intCast(memory.size))) != .SUCCESS)
        return error.TestUnexpectedResult;
}

test "Memory.create leaves to the runtime what it takes when the device is opened" {
    var pool: Pool = .{ .budget_bytes = 4 * huge_page_bytes };
    defer _ = linux.close(pool.fd);
    lock.enter();
    defer lock.leave();
    pool.openRuntime(huge_page_bytes);
    try std.testing.expectEqual(3 * huge_page_bytes, pool.freeBytes());
    for (0..6) |_| (try Memory.create(&pool, huge_page_bytes, .physical)).release();
    const grown = max_runtime_growths * normal_page_bytes;
    try std.testing.expectEqual(3 * huge_page_bytes - grown, pool.freeBytes());
    try std.testing.expectError(error.OutOfMemory, Memory.create(&pool, 3 * huge_page_bytes, .physical));
    pool.closeRuntime();
    try std.testing.expectEqual(4 * huge_page_bytes, pool.freeBytes());
}

test "Memory.create takes kept memory first when freed memory is kept" {
    var pool: Pool = .{ .budget_bytes = 100 * huge_page_bytes };
    defer _ = linux.close(pool.fd);
    pool.keep(3 * huge_page_bytes);
    lock.enter();
    const first = try createPopulated(&pool, 2 * huge_page_bytes);
    const second = try createPopulated(&pool, huge_page_bytes);
    const beyond = try createPopulated(&pool, huge_page_bytes);
    try std.testing.expectEqual(.sparse, beyond.residence);
    for ([_]*Memory{ first, second, beyond }) |memory| try touch(memory);
    const offset = second.offset;
    for ([_]*Memory{ first, second, beyond }) |memory| memory.release();
    try std.testing.expectEqual(3 * huge_page_bytes, pool.kept.bytes);
    try std.testing.expectEqual(0, pool.used_bytes);
    lock.leave();
    try std.testing.expectEqual(3 * huge_page_bytes / 4096, try pagesOf(&pool));
    lock.enter();
    const again = try Memory.create(&pool, 3 * huge_page_bytes, .physical);
    try std.testing.expectEqual(Claim{ .populate = true, .poison = true }, again.claim(huge_page_bytes));
    try std.testing.expectEqual(Claim{ .populate = true }, again.claim(huge_page_bytes));
    try std.testing.expectEqual(offset, again.offset + 2 * huge_page_bytes);
    again.release();
    pool.keep(huge_page_bytes);
    lock.leave();
    try std.testing.expectEqual(0, try pagesOf(&pool));
}

test "Memory.release keeps nothing when the memory was never populated" {
    var pool: Pool = .{ .budget_bytes = 100 * huge_page_bytes };
    defer _ = linux.close(pool.fd);
    pool.keep(4 * huge_page_bytes);
    lock.enter();
    defer lock.leave();
    var pieces: [4]*Memory = undefined;
    for (&pieces) |*piece| piece.* = try createPopulated(&pool, huge_page_bytes);
    pieces[0].release();
    pieces[2].release();
    try std.testing.expectEqual(2 * huge_page_bytes, pool.kept.bytes);
    const whole = try Memory.create(&pool, 2 * huge_page_bytes, .physical);
    try std.testing.expectEqual(.fresh, whole.residence);
    try std.testing.expectEqual(0, pool.kept.bytes);
    try std.testing.expectEqual(Claim{}, whole.claim(huge_page_bytes));
    whole.release();
    try std.testing.expectEqual(0, pool.kept.bytes);
    try std.testing.expectEqual(2 * huge_page_bytes, pool.populated_bytes);
    pool.keep(0);
    pieces[1].release();
    pieces[3].release();
    try std.testing.expectEqual(0, pool.kept.bytes);
    try std.testing.expectEqual(0, pool.populated_bytes);
}

//! Addresses: which ranges of the process belong to devices, what is behind each, and who is using it right now.
//!
//! Device addresses come from the vendor driver's window of 16 to 24 TiB where it is free. A range that is reserved but
//! not mapped is PROT_NONE, and unmapping puts PROT_NONE back in one step, so nobody else's mmap can ever slip in.
//! A copy pins what it touches instead of holding the lock; a pinned block is not unmapped.

const std = @import("std");
const linux = std.os.linux;
const acl = @import("acl");
const state = @import("state.zig");
const config = @import("config.zig");
const errors = @import("errors.zig");
const backing_module = @import("backing.zig");
const Backing = backing_module.Backing;
const Claim = backing_module.Claim;
const RangeTable = @import("ranges.zig").RangeTable;
const Physical = @import("physical.zig").Physical;
const Reservation = @import("vmm.zig").Reservation;

pub const window_start: u64 = 16 << 40;
pub const window_end: u64 = 24 << 40;

pub const Block = struct {
    pub const Kind = enum {
        /// Physical memory mapped into a reservation.
        mapping,
        /// aclrtMalloc.
        allocation,
        /// Another process's aclrtMalloc memory.
        ipc_import,
        /// aclrtMallocHost.
        host_allocation,
        /// aclrtHostRegister: the memory is the caller's.
        host_registration,

        fn isHost(kind: Kind) bool {
            return kind == .host_allocation or kind == .host_registration;
        }
    };

    kind: Kind,
    start: u64 = 0,
    size: u64,
    page_bytes: u32 = 4096,
    /// User id; null where the memory lies on the host.
    device: ?u8 = null,
    backing: ?*Backing = null,
    physical: ?*Physical = null,
    reservation: ?*Reservation = null,
    /// Driver ids that were granted access, and whether the owner has it (not after aclrtMemMapNoAccess).
    device_access: u16 = 0,
    host_access: bool = false,
    accessible: bool = true,
    pins: u32 = 0,
    /// Given up by its owner; the last pin destroys it.
    removed: bool = false,
    /// Somebody waits for the last pin.
    awaited: bool = false,

    pub fn imported(block: *const Block) bool {
        return if (block.backing) |backing| backing.pool == null else false;
    }
};

const Table = RangeTable(*Block);
pub var device_blocks: Table = .{};
pub var host_blocks: Table = .{};
pub var reservations: RangeTable(*Reservation) = .{};
/// Every range taken from the address space, whatever for.
var taken: RangeTable(void) = .{};
var next_address: u64 = window_start;

const no_access: linux.PROT = .{};
const read_write: linux.PROT = .{ .READ = true, .WRITE = true };

/// Next fit: an address that was released is reused late, which makes the use of a stale one visible.
pub fn take(size: u64, alignment: u64) ?u64 {
    var address = next_address;
    var wrapped = false;
    var refusals: u32 = 0;
    while (refusals < 256) {
        const start = std.mem.alignForward(u64, address, alignment);
        const end = std.math.add(u64, start, size) catch return null;
        if (end > window_end) {
            if (wrapped) break;
            wrapped = true;
            address = window_start;
        } else if (taken.firstOverlap(start, end)) |other| {
            address = other.end;
        } else if (takeAt(start, size)) {
            next_address = end;
            return start;
        } else {
            // Somebody else's memory lies here; step over it in strides that need not know its size.
            refusals += 1;
            address = start + @max(alignment, 1 << 30);
        }
    }
    return takeAnywhere(size, alignment);
}

pub fn takeAt(start: u64, size: u64) bool {
    const result = linux.mmap(@ptrFromInt(start), size, no_access, .{
        .TYPE = .PRIVATE,
        .ANONYMOUS = true,
        .NORESERVE = true,
        .FIXED_NOREPLACE = true,
    }, -1, 0);
    if (linux.errno(result) != .SUCCESS) return false;
    // A kernel that does not know the flag takes the address as a hint.
    if (result != start) {
        _ = linux.munmap(@ptrFromInt(result), size);
        return false;
    }
    return record(start, size);
}

fn record(start: u64, size: u64) bool {
    taken.insert(start, start + size, {}) catch {
        _ = linux.munmap(@ptrFromInt(start), size);
        return false;
    };
    return true;
}

fn takeAnywhere(size: u64, alignment: u64) ?u64 {
    const length = std.math.add(u64, size, alignment) catch return null;
    const flags: linux.MAP = .{ .TYPE = .PRIVATE, .ANONYMOUS = true, .NORESERVE = true };
    const result = linux.mmap(null, length, no_access, flags, -1, 0);
    if (linux.errno(result) != .SUCCESS) return null;
    const start = std.mem.alignForward(u64, result, alignment);
    if (start > result) _ = linux.munmap(@ptrFromInt(result), start - result);
    const tail = result + length - (start + size);
    if (tail > 0) _ = linux.munmap(@ptrFromInt(start + size), tail);
    return if (record(start, size)) start else null;
}

pub fn giveBack(start: u64, size: u64) void {
    taken.remove(start);
    _ = linux.munmap(@ptrFromInt(start), size);
}

/// Maps the memory of a pinned block, with page tables and all where it is resident, so that a copy never faults. The lock
/// is not held meanwhile: the first touch takes as long as it takes.
pub fn establish(block: *const Block) bool {
    const memory = block.backing orelse return false;
    const claim = if (block.accessible) memory.claim(block.size) else Claim{};
    state.leave();
    defer state.enter();
    if (claim.is_fresh) {
        if (!mapFile(block, memory, false)) return false;
        takeHugePages(block.start, block.size);
    }
    if (!mapFile(block, memory, claim.populate)) return false;
    if (claim.scribble) scribble(block.start, block.size);
    return true;
}

/// A page of 2 MiB is mapped in a thirtieth of the time of its 512 parts, and touched in less than half. This is the one
/// way to them that needs no permission of the machine's owner; a kernel that knows it not, or has none free, leaves us
/// with small pages.
fn takeHugePages(start: u64, size: u64) void {
    var at = start;
    // Where no page is present there is nothing to collapse. Reading brings one, and leaves what another process wrote.
    while (at < start + size) : (at += backing_module.granule) _ = @as(*const volatile u8, @ptrFromInt(at)).*;
    _ = linux.madvise(@ptrFromInt(start), size, madv_collapse);
}

// Newer than Zig's list.
const madv_populate_write = 23;
const madv_collapse = 25;

fn mapFile(block: *const Block, memory: *const Backing, populate: bool) bool {
    const result = linux.mmap(@ptrFromInt(block.start), block.size, if (block.accessible) read_write else no_access, .{
        .TYPE = .SHARED,
        .FIXED = true,
        .NORESERVE = true,
        .POPULATE = populate,
    }, memory.fd, @intCast(memory.offset));
    return linux.errno(result) == .SUCCESS;
}

/// Memory that was never written holds anything on a device. A cache line in every 64 KiB is what makes that seen in any
/// tensor but the smallest, at a three-hundredth of the time of a copy; as a number of any float type it is a NaN.
pub const scribble_stride: u64 = 64 << 10;
pub const scribble_bytes = 64;
pub const scribble_byte = 0xff;

fn scribble(start: u64, size: u64) void {
    var at = start;
    while (at < start + size) : (at += scribble_stride)
        @memset(@as(*[scribble_bytes]u8, @ptrFromInt(at)), scribble_byte);
}

/// Puts the bare reservation back in place of a mapping.
pub fn unmap(start: u64, size: u64) bool {
    const result = linux.mmap(@ptrFromInt(start), size, no_access, .{
        .TYPE = .PRIVATE,
        .ANONYMOUS = true,
        .NORESERVE = true,
        .FIXED = true,
    }, -1, 0);
    return linux.errno(result) == .SUCCESS;
}

/// Page-locked memory: every page is there when this returns, and nothing of it is kept when it is freed, because
/// page-locking is as expensive on a real machine. Called without the lock.
pub fn mapHost(size: u64) ?u64 {
    const flags: linux.MAP = .{ .TYPE = .PRIVATE, .ANONYMOUS = true, .NORESERVE = true };
    const start = linux.mmap(null, size, read_write, flags, -1, 0);
    if (linux.errno(start) != .SUCCESS) return null;
    // All of it is used, so larger pages waste nothing; a refusal only costs time.
    if (size >= 4 << 20) _ = linux.madvise(@ptrFromInt(start), size, linux.MADV.HUGEPAGE);
    if (!config.get().timing.has_content or populateHost(start, size)) return start;
    _ = linux.munmap(@ptrFromInt(start), size);
    return null;
}

fn populateHost(start: u64, size: u64) bool {
    switch (linux.errno(linux.madvise(@ptrFromInt(start), size, madv_populate_write))) {
        .SUCCESS => return true,
        .INVAL => {}, // before Linux 5.14
        else => return false,
    }
    var at = start;
    while (at < start + size) : (at += std.heap.pageSize()) @as(*volatile u8, @ptrFromInt(at)).* = 0;
    return true;
}

pub fn addBlock(block: Block) error{OutOfMemory}!*Block {
    const stored = try state.allocator.create(Block);
    errdefer state.allocator.destroy(stored);
    stored.* = block;
    const table = if (block.kind.isHost()) &host_blocks else &device_blocks;
    try table.insert(block.start, block.start + block.size, stored);
    return stored;
}

/// Finds an address for the memory of `template` and maps it there. Takes over the memory, on failure too.
pub fn place(template: Block, memory: *Backing, alignment: u64) error{OutOfMemory}!u64 {
    const start = take(template.size, alignment) orelse {
        memory.release();
        return error.OutOfMemory;
    };
    var placed = template;
    placed.start = start;
    placed.backing = memory;
    const block = addBlock(placed) catch |failure| {
        giveBack(start, template.size);
        memory.release();
        return failure;
    };
    block.pins += 1;
    defer unpinBlock(block);
    if (establish(block)) return start;
    // Unless the device was closed meanwhile, which has removed it.
    if (!block.removed) removeBlock(block);
    return error.OutOfMemory;
}

/// A block that a copy still uses goes away with the copy.
pub fn removeBlock(block: *Block) void {
    const table = if (block.kind.isHost()) &host_blocks else &device_blocks;
    table.remove(block.start);
    block.removed = true;
    if (block.pins == 0) destroyBlock(block);
}

fn destroyBlock(block: *Block) void {
    switch (block.kind) {
        .mapping, .host_registration => {},
        .allocation, .ipc_import => giveBack(block.start, block.size),
        .host_allocation => _ = linux.munmap(@ptrFromInt(block.start), block.size),
    }
    if (block.backing) |backing| backing.release();
    state.allocator.destroy(block);
}

pub const Side = enum { device, locked_host, pageable_host };

/// What a range of addresses is, with everything behind it pinned.
pub const View = struct {
    side: Side = .pageable_host,
    device: u8 = 0,
    imported: bool = false,
    first: ?*Block = null,
    rest: []*Block = &.{},

    pub fn unpin(view: *View) void {
        if (view.first) |block| unpinBlock(block);
        for (view.rest) |block| unpinBlock(block);
        state.allocator.free(view.rest);
        view.* = .{};
    }

    pub fn isHost(view: *const View) bool {
        return view.side != .device;
    }
};

pub fn unpinBlock(block: *Block) void {
    block.pins -= 1;
    if (block.pins > 0) return;
    if (block.awaited) state.announce();
    block.awaited = false;
    if (block.removed) destroyBlock(block);
}

/// Classifies [address, address + size) and pins it. On failure nothing is pinned.
pub fn pin(address: u64, size: u64, view: *View) acl.Error {
    view.* = .{};
    const end = std.math.add(u64, address, size) catch
        return errors.fail(acl.code.rt_param_invalid, "the range ends beyond the address space");
    if (device_blocks.firstOverlap(address, end) != null) return pinDevice(address, end, view);
    if (strayCode(address, end)) |code| return code;
    const entry = host_blocks.containing(address) orelse return acl.code.success;
    if (entry.end < end) return acl.code.success;
    entry.value.pins += 1;
    view.* = .{ .side = .locked_host, .first = entry.value };
    return acl.code.success;
}

fn pinDevice(address: u64, end: u64, view: *View) acl.Error {
    const count = device_blocks.countCovering(address, end) orelse
        return errors.fail(acl.code.rt_drv_internal_error, "part of the range is not mapped");
    const rest = state.allocator.alloc(*Block, count - 1) catch
        return errors.fail(acl.code.rt_memory_allocation, "out of host memory");
    var reached = address;
    const head = nextBlock(&reached);
    for (rest) |*block| block.* = nextBlock(&reached);
    view.* = .{
        .side = if (head.device == null) .locked_host else .device,
        .device = head.device orelse 0,
        .first = head,
        .rest = rest,
    };
    head.pins += 1;
    for (rest) |block| block.pins += 1;
    const code = checkBlocks(view, head);
    if (code != acl.code.success) view.unpin();
    return code;
}

/// The caller knows that there is one.
fn nextBlock(reached: *u64) *Block {
    const entry = device_blocks.from(reached.*).?;
    reached.* = entry.end;
    return entry.value;
}

fn checkBlocks(view: *View, head: *const Block) acl.Error {
    var accessible = head.accessible;
    view.imported = head.imported();
    for (view.rest) |block| {
        if (block.device != head.device)
            return errors.fail(acl.code.rt_drv_internal_error, "the range lies on more than one device");
        if (!block.accessible) accessible = false;
        if (block.imported()) view.imported = true;
    }
    if (!accessible) return errors.fail(acl.code.rt_drv_internal_error, "the range is mapped without access");
    return acl.code.success;
}

/// The code for a range that touches device addresses with nothing behind them; null where it is plain host memory.
fn strayCode(address: u64, end: u64) ?acl.Error {
    if (reservations.firstOverlap(address, end) != null)
        return errors.fail(acl.code.rt_drv_internal_error, "the address is reserved but not mapped");
    if (isUnallocatedWindow(address, end))
        return errors.fail(acl.code.rt_drv_internal_error, "the address is a device address that was never allocated");
    return null;
}

/// Allocators such as Bun's place host memory in the window too, so being inside it is not enough to be a device address.
pub fn isUnallocatedWindow(address: u64, end: u64) bool {
    if (end <= window_start or address >= window_end) return false;
    const page = std.heap.pageSize();
    const start = std.mem.alignBackward(u64, @max(address, window_start), page);
    const length = std.mem.alignForward(u64, @min(end, window_end), page) - start;
    return linux.errno(linux.msync(@ptrFromInt(start), length, linux.MSF.ASYNC)) != .SUCCESS;
}

test "ranges come from the window and unmapping leaves the reservation" {
    state.enter();
    defer state.leave();
    const size = 4 << 20;
    const start = take(size, 2 << 20) orelse return error.TestUnexpectedResult;
    try std.testing.expect(start >= window_start and start + size <= window_end);
    try std.testing.expect(!takeAt(start, size));
    const other = take(size, 1 << 30) orelse return error.TestUnexpectedResult;
    try std.testing.expectEqual(0, other % (1 << 30));
    giveBack(start, size);
    giveBack(other, size);
    try std.testing.expect(isUnallocatedWindow(start, start + 1));
}

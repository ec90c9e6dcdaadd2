//! Addresses: which ranges of the process belong to devices, what is behind each, and who is using it right now.
//!
//! Device addresses come from the vendor driver's window of 16 to 24 TiB where it is free. A range that is reserved but
//! not mapped is PROT_NONE, and unmapping puts PROT_NONE back in one step, so nobody else's mmap can ever slip in.
//! A copy pins what it touches instead of holding the lock; a pinned block is not unmapped.

const std = @import("std");
const linux = std.os.linux;
const acl = @import("acl");
const state = @import("state.zig");
const errors = @import("errors.zig");
const Backing = @import("backing.zig").Backing;
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
    start: u64,
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

pub fn map(start: u64, size: u64, backing: *const Backing, accessible: bool) bool {
    const result = linux.mmap(@ptrFromInt(start), size, if (accessible) read_write else no_access, .{
        .TYPE = .SHARED,
        .FIXED = true,
        .NORESERVE = true,
    }, backing.fd, @intCast(backing.offset));
    return linux.errno(result) == .SUCCESS;
}

pub fn allowAccess(start: u64, size: u64) bool {
    return linux.errno(linux.mprotect(@ptrFromInt(start), size, read_write)) == .SUCCESS;
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

pub fn mapHost(size: u64) ?u64 {
    const flags: linux.MAP = .{ .TYPE = .PRIVATE, .ANONYMOUS = true, .NORESERVE = true };
    const result = linux.mmap(null, size, read_write, flags, -1, 0);
    if (linux.errno(result) != .SUCCESS) return null;
    // Page-locked memory is all there on a real machine, so larger pages waste nothing; a refusal only costs time.
    if (size >= 4 << 20) _ = linux.madvise(@ptrFromInt(result), size, linux.MADV.HUGEPAGE);
    return result;
}

pub fn addBlock(block: Block) error{OutOfMemory}!*Block {
    const stored = try state.allocator.create(Block);
    errdefer state.allocator.destroy(stored);
    stored.* = block;
    const table = if (block.kind.isHost()) &host_blocks else &device_blocks;
    try table.insert(block.start, block.start + block.size, stored);
    return stored;
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

fn unpinBlock(block: *Block) void {
    block.pins -= 1;
    if (block.pins > 0) return;
    if (block.removed) destroyBlock(block);
    state.announce();
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
    const entries = device_blocks.covering(address, end) orelse
        return errors.fail(acl.code.rt_drv_internal_error, "part of the range is not mapped");
    const head = entries[0].value;
    for (entries) |entry| {
        if (!entry.value.accessible)
            return errors.fail(acl.code.rt_drv_internal_error, "the range is mapped without access");
        if (entry.value.device != head.device)
            return errors.fail(acl.code.rt_drv_internal_error, "the range lies on more than one device");
        if (entry.value.imported()) view.imported = true;
    }
    if (entries.len > 1) {
        view.rest = state.allocator.alloc(*Block, entries.len - 1) catch
            return errors.fail(acl.code.rt_memory_allocation, "out of host memory");
        for (entries[1..], view.rest) |entry, *slot| slot.* = entry.value;
    }
    for (entries) |entry| entry.value.pins += 1;
    view.first = head;
    view.side = if (head.device == null) .locked_host else .device;
    view.device = head.device orelse 0;
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

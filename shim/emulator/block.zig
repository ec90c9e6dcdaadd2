//! What lies behind each address, and who uses it right now. A copy pins the blocks that it touches instead of
//! holding the lock, and a pinned block is not unmapped.

const std = @import("std");
const linux = std.os.linux;
const acl = @import("acl");
const address_window = @import("address_window.zig");
const errors = @import("errors.zig");
const lock = @import("lock.zig");
const memory_export = @import("memory_export.zig");
const page_mapping = @import("page_mapping.zig");
const physical = @import("physical.zig");
const reservation_module = @import("reservation.zig");
const Memory = physical.Memory;
const PhysicalHandle = @import("physical_handle.zig").PhysicalHandle;
const RangeTable = @import("range_table.zig").RangeTable;
const Reservation = reservation_module.Reservation;
const allocator = std.heap.c_allocator;

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
    /// Of another process's memory, the id by which it was imported.
    export_id: u32 = 0,
    /// User id; null if the memory lies on the host.
    device: ?u8 = null,
    memory: ?*Memory = null,
    handle: ?*PhysicalHandle = null,
    reservation: ?*Reservation = null,
    /// Driver ids that were granted access, and whether the owner has it (not after aclrtMemMapNoAccess).
    device_access: u16 = 0,
    host_access: bool = false,
    accessible: bool = true,
    /// Host memory that was registered to be reached from devices.
    is_mapped: bool = false,
    /// Its pages are mapped. Until then only its range is taken.
    is_ready: bool = false,
    pins: u32 = 0,
    /// Its owner gave it up; the last pin destroys it.
    removed: bool = false,
    /// A thread waits for the last pin.
    awaited: bool = false,

    pub fn imported(block: *const Block) bool {
        return if (block.memory) |memory| memory.pool == null else false;
    }

    /// Maps the block's memory at its address. The caller has pinned the block, as the lock is free while pages are
    /// touched.
    pub fn map(block: *Block) bool {
        const memory = block.memory orelse return false;
        block.is_ready = false;
        const access: page_mapping.Access = if (block.accessible) .read_write else .none;
        if (!page_mapping.map(memory, block.start, block.size, access)) return false;
        block.is_ready = true;
        return true;
    }

    /// A block that a copy still uses is destroyed with the copy.
    pub fn remove(block: *Block) void {
        if (block.kind == .allocation) {
            if (block.memory) |memory| memory_export.closeAllOf(memory);
        }
        tableOf(block.kind).remove(block.start);
        block.removed = true;
        if (block.pins == 0) block.destroy();
    }

    pub fn unpin(block: *Block) void {
        block.pins -= 1;
        if (block.pins > 0) return;
        if (block.awaited) lock.announce();
        block.awaited = false;
        if (block.removed) block.destroy();
    }

    fn destroy(block: *Block) void {
        switch (block.kind) {
            .mapping, .host_registration => {},
            .allocation, .ipc_import => address_window.release(block.start, block.size),
            .host_allocation => _ = linux.munmap(@ptrFromInt(block.start), block.size),
        }
        if (block.memory) |memory| memory.release();
        allocator.destroy(block);
    }
};

const Table = RangeTable(*Block);
pub var device_blocks: Table = .{};
pub var host_blocks: Table = .{};

/// The block of device memory behind the address, or null.
pub fn deviceBlock(address: u64) ?*Block {
    const entry = device_blocks.containing(address) orelse return null;
    return if (entry.value.is_ready) entry.value else null;
}

fn tableOf(kind: Block.Kind) *Table {
    return if (kind.isHost()) &host_blocks else &device_blocks;
}

pub fn add(block: Block) error{OutOfMemory}!*Block {
    const stored = try allocator.create(Block);
    errdefer allocator.destroy(stored);
    stored.* = block;
    try tableOf(block.kind).insert(block.start, block.start + block.size, stored);
    return stored;
}

/// Finds an address for the memory and maps it there. Takes over the memory, also on failure.
pub fn place(template: Block, memory: *Memory, alignment: u64) error{OutOfMemory}!u64 {
    const start = address_window.take(template.size, alignment) orelse {
        memory.release();
        return error.OutOfMemory;
    };
    var placed = template;
    placed.start = start;
    placed.memory = memory;
    const block = add(placed) catch |failure| {
        address_window.release(start, template.size);
        memory.release();
        return failure;
    };
    block.pins += 1;
    defer block.unpin();
    if (block.map()) return start;
    // If the device was closed meanwhile, that has removed the block.
    if (!block.removed) block.remove();
    return error.OutOfMemory;
}

/// The block that was imported by `export_id`, or null.
pub fn importOf(export_id: u32) ?*Block {
    var address: u64 = 0;
    while (device_blocks.from(address)) |entry| : (address = entry.end) {
        if (entry.value.kind == .ipc_import and entry.value.export_id == export_id) return entry.value;
    }
    return null;
}

pub fn dropDevice(device: u8) void {
    var address: u64 = 0;
    while (device_blocks.from(address)) |entry| : (address = entry.end) {
        const block = entry.value;
        if (block.device == device and block.kind != .mapping) block.remove();
    }
}

pub const Side = enum { device, locked_host, pageable_host };

/// A classified range of addresses, with every block behind it pinned.
pub const PinnedRange = struct {
    side: Side = .pageable_host,
    device: u8 = 0,
    imported: bool = false,
    first: ?*Block = null,
    rest: []*Block = &.{},

    pub fn unpin(pinned: *PinnedRange) void {
        if (pinned.first) |block| block.unpin();
        for (pinned.rest) |block| block.unpin();
        allocator.free(pinned.rest);
        pinned.* = .{};
    }

    /// Memory that the caller maps and may have unmapped.
    pub fn isCallers(pinned: *const PinnedRange) bool {
        if (pinned.side == .pageable_host) return true;
        const head = pinned.first orelse return false;
        return head.kind == .host_registration;
    }

    pub fn isHost(pinned: *const PinnedRange) bool {
        return pinned.side != .device;
    }
};

/// Classifies [address, address + size) and pins it. On failure nothing is pinned.
pub fn pin(address: u64, size: u64, pinned: *PinnedRange) acl.Error {
    pinned.* = .{};
    const end = std.math.add(u64, address, size) catch
        return errors.fail(acl.code.rt_param_invalid, "the range ends beyond the address space");
    if (device_blocks.firstOverlap(address, end) != null) return pinDevice(address, end, pinned);
    if (strayCode(address, end)) |code| return code;
    const entry = host_blocks.containing(address) orelse return acl.code.success;
    if (entry.end < end) return acl.code.success;
    entry.value.pins += 1;
    pinned.* = .{ .side = .locked_host, .first = entry.value };
    return acl.code.success;
}

fn pinDevice(address: u64, end: u64, pinned: *PinnedRange) acl.Error {
    const count = device_blocks.countCovering(address, end) orelse
        return errors.fail(acl.code.rt_drv_internal_error, "part of the range is not mapped");
    const rest = allocator.alloc(*Block, count - 1) catch
        return errors.outOfHostMemory();
    var reached = address;
    const head = nextBlock(&reached);
    for (rest) |*block| block.* = nextBlock(&reached);
    pinned.* = .{
        .side = if (head.device == null) .locked_host else .device,
        .device = head.device orelse 0,
        .first = head,
        .rest = rest,
    };
    head.pins += 1;
    for (rest) |block| block.pins += 1;
    const code = checkBlocks(pinned, head);
    if (code != acl.code.success) pinned.unpin();
    return code;
}

/// The caller has checked that there is one.
fn nextBlock(reached: *u64) *Block {
    const entry = device_blocks.from(reached.*).?;
    reached.* = entry.end;
    return entry.value;
}

fn checkBlocks(pinned: *PinnedRange, head: *const Block) acl.Error {
    var accessible = head.accessible;
    var is_ready = head.is_ready;
    pinned.imported = head.imported();
    for (pinned.rest) |block| {
        if (block.device != head.device)
            return errors.fail(acl.code.rt_drv_internal_error, "the range lies on more than one device");
        if (!block.accessible) accessible = false;
        if (!block.is_ready) is_ready = false;
        if (block.imported()) pinned.imported = true;
    }
    if (!is_ready) return errors.fail(acl.code.rt_drv_internal_error, "the memory is being mapped");
    if (!accessible) return errors.fail(acl.code.rt_drv_internal_error, "the range is mapped without access");
    return acl.code.success;
}

/// The code for a range of device addresses with nothing behind them; null for plain host memory.
fn strayCode(address: u64, end: u64) ?acl.Error {
    if (reservation_module.table.firstOverlap(address, end) != null)
        return errors.fail(acl.code.rt_drv_internal_error, "the address is reserved but not mapped");
    if (address_window.isUnallocated(address, end))
        return errors.fail(acl.code.rt_drv_internal_error, "the address is a device address that was never allocated");
    return null;
}

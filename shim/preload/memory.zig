//! The device memory that the program holds, by address: what it allocated, and what it mapped itself.

const std = @import("std");
const core = @import("core");
const heap = core.heap.allocator;

pub const Pinned = core.engine.Pin;

/// How the program has written to memory, as far as calls show: what a kernel writes is not seen.
pub const Written = packed struct(u32) {
    host: bool = false,
    device: bool = false,
    fill: bool = false,
    _: u29 = 0,
};

pub const Kind = enum(u32) {
    /// An allocation with a segment of its own.
    segment,
    /// A segment that small allocations share.
    chunk,
    /// The program's own mapping of physical memory.
    mapping,
    /// Allocated by AscendCL itself: it never sleeps.
    unmanaged,
};

pub const Block = struct {
    start: u64,
    size_bytes: u64,
    device: u32,
    kind: Kind,
    /// Of its segment; 0 without one.
    segment_id: u64 = 0,
    pinned: Pinned = .none,
    written: Written = .{},
    /// The number of the rule that it matches, from 1; 0 without one.
    rule: u32 = 0,
    /// Its backup may stay while it is awake, until the program writes to it.
    keeps_backup: bool = false,
    /// Of a chunk.
    chunk: ?*anyopaque = null,
    /// Of a mapping.
    handle: u64 = 0,
    /// The record of a segment that was pinned: it is in no table.
    detached: ?*core.segments.Segment = null,
    borrowed: core.segments.Borrowed = undefined,

    pub fn end(self: *const Block) u64 {
        return self.start + self.size_bytes;
    }
};

pub var mutex: core.sync.Mutex = .{};
/// By address.
var blocks: std.ArrayList(*Block) = .empty;

/// Counts since the library started.
pub const Counts = struct {
    allocations: u64 = 0,
    /// Frees of memory that was allocated past the library.
    foreign_frees: u64 = 0,
};

pub var counts: Counts = .{};

pub fn noteForeignFree() void {
    mutex.lock();
    defer mutex.unlock();
    counts.foreign_frees += 1;
}

fn orderOf(address: u64, block: *Block) std.math.Order {
    return std.math.order(address, block.start);
}

/// Adds a record, which the table owns from then on.
pub fn add(block: Block) error{OutOfHostMemory}!*Block {
    mutex.lock();
    defer mutex.unlock();
    blocks.ensureUnusedCapacity(heap, 1) catch return error.OutOfHostMemory;
    const own = heap.create(Block) catch return error.OutOfHostMemory;
    own.* = block;
    blocks.insertAssumeCapacity(indexAfter(block.start), own);
    counts.allocations += 1;
    return own;
}

/// How many records begin at or before an address.
fn indexAfter(address: u64) usize {
    return std.sort.upperBound(*Block, blocks.items, address, orderOf);
}

/// The record that an address is in. With the mutex held.
pub fn containing(address: u64) ?*Block {
    const index = indexAfter(address);
    if (index == 0) return null;
    const block = blocks.items[index - 1];
    return if (address < block.end()) block else null;
}

/// The record that begins at an address. With the mutex held.
pub fn at(address: u64) ?*Block {
    const block = containing(address) orelse return null;
    return if (block.start == address) block else null;
}

/// What is known of the memory that an address is in.
const Found = struct { start: u64, size_bytes: u64, device: u32, kind: Kind, segment_id: u64 };

pub fn find(address: u64) ?Found {
    mutex.lock();
    defer mutex.unlock();
    const block = containing(address) orelse return null;
    return .{
        .start = block.start,
        .size_bytes = block.size_bytes,
        .device = block.device,
        .kind = block.kind,
        .segment_id = block.segment_id,
    };
}

/// Whether an address is in memory that the program holds.
pub fn isKnown(pointer: ?*const anyopaque) bool {
    mutex.lock();
    defer mutex.unlock();
    return containing(@intFromPtr(pointer)) != null;
}

/// Whether any memory that the library keeps is in a range, awake or asleep.
pub fn isUsed(address: u64, size_bytes: u64) bool {
    mutex.lock();
    defer mutex.unlock();
    const end = address +| size_bytes;
    if (containing(address)) |block| if (block.kind != .unmanaged) return true;
    for (blocks.items[indexAfter(address)..]) |block| {
        if (block.start >= end) return false;
        if (block.kind != .unmanaged) return true;
    }
    return false;
}

/// Whether an address is in memory that the program allocated, and that is a mapping only to the library.
pub fn isAllocation(pointer: ?*const anyopaque) bool {
    mutex.lock();
    defer mutex.unlock();
    const block = containing(@intFromPtr(pointer)) orelse return false;
    return block.kind == .segment or block.kind == .chunk;
}

/// The virtual handle of the mapping that begins at an address.
pub fn handleOf(address: u64) ?u64 {
    mutex.lock();
    defer mutex.unlock();
    const block = at(address) orelse return null;
    return if (block.kind == .mapping) block.handle else null;
}

/// What a mapping that is a segment must be restored with.
pub fn borrowedOf(address: u64) ?*core.segments.Borrowed {
    mutex.lock();
    defer mutex.unlock();
    const block = at(address) orelse return null;
    return if (block.kind == .mapping and block.segment_id != 0) &block.borrowed else null;
}

/// Takes the record that begins at an address out of the table. The caller gives it back by `restore` or `destroy`.
pub fn take(address: u64, kinds: []const Kind) ?*Block {
    mutex.lock();
    defer mutex.unlock();
    const block = at(address) orelse return null;
    if (std.mem.indexOfScalar(Kind, kinds, block.kind) == null) return null;
    _ = blocks.orderedRemove(indexAfter(address) - 1);
    return block;
}

/// There is room: it was in the table.
pub fn restore(block: *Block) void {
    mutex.lock();
    defer mutex.unlock();
    blocks.ensureUnusedCapacity(heap, 1) catch return;
    blocks.insertAssumeCapacity(indexAfter(block.start), block);
}

pub fn destroy(block: *Block) void {
    if (block.kind == .mapping) block.borrowed.access.deinit(heap);
    heap.destroy(block);
}

/// Records in the order of their addresses. With the mutex held.
pub fn all() []const *Block {
    return blocks.items;
}

/// Gives the segments of pinned memory on one device, or on all, to the library's thread, which releases them.
pub fn giveDetached(registry: *core.registry.Registry, device: ?u32) void {
    mutex.lock();
    defer mutex.unlock();
    for (blocks.items) |block| {
        if (device != null and block.device != device.?) continue;
        registry.keep(block.detached orelse continue);
        block.detached = null;
    }
}

/// Drops the records of one device, or of all, whose memory is gone.
pub fn drop(device: ?u32) void {
    mutex.lock();
    defer mutex.unlock();
    var kept: usize = 0;
    for (blocks.items) |block| {
        if (device == null or block.device == device.?) {
            // A plan may still be using what its segment must be mapped with.
            if (block.kind != .mapping or block.segment_id == 0) destroy(block);
        } else {
            blocks.items[kept] = block;
            kept += 1;
        }
    }
    blocks.shrinkRetainingCapacity(kept);
}

/// In a child of fork(): the parent's memory is not the child's.
pub fn forget() void {
    mutex = .{};
    blocks = .empty;
    counts = .{};
}

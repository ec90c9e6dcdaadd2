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
    /// Of a chunk.
    chunk: ?*anyopaque = null,
    /// Of a mapping.
    handle: u64 = 0,
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

/// Whether an address is in memory that the program holds.
pub fn isKnown(pointer: ?*const anyopaque) bool {
    mutex.lock();
    defer mutex.unlock();
    return containing(@intFromPtr(pointer)) != null;
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

/// Drops the records of one device, or of all, whose memory is gone.
pub fn drop(device: ?u32) void {
    mutex.lock();
    defer mutex.unlock();
    var kept: usize = 0;
    for (blocks.items) |block| {
        if (device == null or block.device == device.?) {
            destroy(block);
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

//! Small allocations share segments. Each costs its own size in whole units, instead of the device's granularity.

const std = @import("std");
const core = @import("core");
const memory = @import("memory.zig");
const release = @import("release.zig");
const Failure = core.status.Failure;
const Session = core.session.Session;
const heap = core.heap.allocator;

/// The alignment that AscendCL asks its driver for.
const unit_bytes = 512;
pub const largest_bytes = 1 << 20;
const smallest_chunk_bytes = 2 << 20;
const largest_chunk_bytes = 32 << 20;

/// Free units of a chunk, next to each other.
const Run = struct { first: u32, count: u32 };

pub const Chunk = struct {
    address: u64,
    size_bytes: u64,
    device: u32,
    /// By address, never adjacent. There is always room for the runs that freeing everything could make.
    free: std.ArrayList(Run) = .empty,
    /// The units of the allocation that begins at each unit, or 0.
    lengths: []u32,
    allocations: u32 = 0,

    fn create(device: u32, address: u64, size_bytes: u64) error{OutOfHostMemory}!*Chunk {
        const chunk = heap.create(Chunk) catch return error.OutOfHostMemory;
        errdefer heap.destroy(chunk);
        const units: u32 = @intCast(size_bytes / unit_bytes);
        const lengths = heap.alloc(u32, units) catch return error.OutOfHostMemory;
        errdefer heap.free(lengths);
        @memset(lengths, 0);
        chunk.* = .{
            .address = address,
            .size_bytes = size_bytes,
            .device = device,
            .lengths = lengths,
        };
        chunk.free.append(heap, .{ .first = 0, .count = units }) catch return error.OutOfHostMemory;
        return chunk;
    }

    fn destroy(self: *Chunk) void {
        self.free.deinit(heap);
        heap.free(self.lengths);
        heap.destroy(self);
    }

    fn take(self: *Chunk, count: u32) error{OutOfHostMemory}!?u64 {
        self.free.ensureTotalCapacity(heap, self.allocations + 2) catch return error.OutOfHostMemory;
        for (self.free.items, 0..) |*run, index| {
            if (run.count < count) continue;
            const first = run.first;
            run.first += count;
            run.count -= count;
            if (run.count == 0) _ = self.free.orderedRemove(index);
            self.lengths[first] = count;
            self.allocations += 1;
            return self.address + @as(u64, first) * unit_bytes;
        }
        return null;
    }

    fn give(self: *Chunk, first: u32) void {
        const count = self.lengths[first];
        self.lengths[first] = 0;
        self.allocations -= 1;
        const index = std.sort.lowerBound(Run, self.free.items, first, Chunk.isBefore);
        const runs = self.free.items;
        const joins_left = index > 0 and runs[index - 1].first + runs[index - 1].count == first;
        const joins_right = index < runs.len and first + count == runs[index].first;
        if (joins_left and joins_right) {
            runs[index - 1].count += count + runs[index].count;
            _ = self.free.orderedRemove(index);
        } else if (joins_left) {
            runs[index - 1].count += count;
        } else if (joins_right) {
            runs[index].first = first;
            runs[index].count += count;
        } else {
            self.free.insertAssumeCapacity(index, .{ .first = first, .count = count });
        }
    }

    fn isBefore(first: u32, run: Run) std.math.Order {
        return std.math.order(first, run.first);
    }

    /// The allocation that an address is in.
    fn allocationAt(self: *const Chunk, address: u64) ?Allocation {
        const unit: u32 = @intCast((address - self.address) / unit_bytes);
        var first = unit;
        while (self.lengths[first] == 0) {
            if (first == 0) return null;
            first -= 1;
        }
        if (unit >= first + self.lengths[first]) return null;
        return .{
            .start = self.address + @as(u64, first) * unit_bytes,
            .size_bytes = @as(u64, self.lengths[first]) * unit_bytes,
        };
    }
};

pub const Allocation = struct { start: u64, size_bytes: u64 };

var mutex: core.sync.Mutex = .{};
var chunks: std.ArrayList(*Chunk) = .empty;

/// Address of at least `size_bytes` on a device.
pub fn allocate(session: *Session, device: u32, size_bytes: u64, failure: *Failure) core.status.Error!u64 {
    const count: u32 = @intCast((size_bytes + unit_bytes - 1) / unit_bytes);
    mutex.lock();
    defer mutex.unlock();
    var held_bytes: u64 = 0;
    for (chunks.items) |chunk| {
        if (chunk.device != device) continue;
        if (try chunk.take(count)) |address| return address;
        held_bytes += chunk.size_bytes;
    }
    const chunk = try grow(session, device, held_bytes, failure);
    return (try chunk.take(count)) orelse error.InvalidSize;
}

/// Another chunk: the more there is, the larger.
fn grow(session: *Session, device: u32, held_bytes: u64, failure: *Failure) core.status.Error!*Chunk {
    const share = std.mem.alignForward(u64, held_bytes / 8, smallest_chunk_bytes);
    const size_bytes = std.math.clamp(share, smallest_chunk_bytes, largest_chunk_bytes);
    chunks.ensureUnusedCapacity(heap, 1) catch return error.OutOfHostMemory;
    const made = try session.allocate(device, 0, size_bytes, failure);
    errdefer release.release(session, made.address, made.segment_id);
    const chunk: *Chunk = try .create(device, made.address, size_bytes);
    errdefer chunk.destroy();
    _ = try memory.add(.{
        .start = made.address,
        .size_bytes = size_bytes,
        .device = device,
        .kind = .chunk,
        .segment_id = made.segment_id,
        .chunk = chunk,
    });
    chunks.appendAssumeCapacity(chunk);
    return chunk;
}

/// What `free` found at an address.
pub const Freed = union(enum) {
    /// No small allocation begins there.
    unknown,
    done,
    /// The last allocation of a chunk: the caller releases this record and its segment.
    empty: *memory.Block,
};

pub fn free(address: u64) Freed {
    mutex.lock();
    defer mutex.unlock();
    const chunk = chunkAt(address) orelse return .unknown;
    const found = chunk.allocationAt(address) orelse return .unknown;
    if (found.start != address) return .unknown;
    chunk.give(@intCast((address - chunk.address) / unit_bytes));
    if (chunk.allocations > 0 or isLast(chunk)) return .done;
    const block = memory.take(chunk.address, &.{.chunk});
    _ = chunks.swapRemove(std.mem.indexOfScalar(*Chunk, chunks.items, chunk).?);
    chunk.destroy();
    return if (block) |taken| .{ .empty = taken } else .done;
}

/// The small allocation that an address is in.
pub fn allocationAt(address: u64) ?Allocation {
    mutex.lock();
    defer mutex.unlock();
    const chunk = chunkAt(address) orelse return null;
    return chunk.allocationAt(address);
}

fn chunkAt(address: u64) ?*Chunk {
    memory.mutex.lock();
    defer memory.mutex.unlock();
    const block = memory.containing(address) orelse return null;
    return @ptrCast(@alignCast(block.chunk orelse return null));
}

/// One chunk of a device stays, for the next allocation.
fn isLast(chunk: *const Chunk) bool {
    for (chunks.items) |other| {
        if (other != chunk and other.device == chunk.device) return false;
    }
    return chunk.size_bytes == smallest_chunk_bytes;
}

/// Drops the chunks of one device, or of all, whose memory is gone.
pub fn drop(device: ?u32) void {
    mutex.lock();
    defer mutex.unlock();
    var kept: usize = 0;
    for (chunks.items) |chunk| {
        if (device == null or chunk.device == device.?) {
            chunk.destroy();
        } else {
            chunks.items[kept] = chunk;
            kept += 1;
        }
    }
    chunks.shrinkRetainingCapacity(kept);
}

/// In a child of fork().
pub fn forget() void {
    mutex = .{};
    chunks = .empty;
}

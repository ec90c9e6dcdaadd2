//! Spill files: unlinked files that hold backups beyond what host memory takes. Each device has one in a folder, which
//! serves every sleep until no backup lies in it, so that a device takes one descriptor. Space is handed out in blocks
//! of one size, so that any backup fits into whatever blocks are free and the file does not grow for ever.

const std = @import("std");
const files = @import("files.zig");
const heap = @import("heap.zig");
const host = @import("host.zig");
const status = @import("status.zig");
const sync = @import("sync.zig");
const Failure = status.Failure;

const block_bytes = host.block_bytes;

fn blocksOf(size_bytes: u64) u64 {
    return host.Pool.blockSize(size_bytes) / block_bytes;
}

/// Blocks that lie next to each other.
const Range = struct {
    first: u64,
    count: u64,

    fn extent(self: Range) files.Extent {
        return .{
            .segment_offset_bytes = 0,
            .file_offset_bytes = self.first * block_bytes,
            .size_bytes = self.count * block_bytes,
        };
    }
};

const Spill = struct {
    file: files.File,
    store: *Store,
    device: u32,
    folder: [:0]const u8,
    /// A bit for each block of the file: whether it is free.
    free: std.DynamicBitSetUnmanaged = .{},
    used_blocks: u64 = 0,
    node: std.DoublyLinkedList.Node = .{},

    fn open(store: *Store, device: u32, folder: [*:0]const u8, failure: *Failure) status.Error!*Spill {
        const spill = heap.allocator.create(Spill) catch return error.OutOfHostMemory;
        errdefer heap.allocator.destroy(spill);
        const own = heap.allocator.dupeZ(u8, std.mem.span(folder)) catch return error.OutOfHostMemory;
        errdefer heap.allocator.free(own);
        spill.* = .{ .file = try .openSpill(folder, failure), .store = store, .device = device, .folder = own };
        return spill;
    }

    fn close(self: *Spill) void {
        self.file.close();
        heap.allocator.free(self.folder);
        self.free.deinit(heap.allocator);
        heap.allocator.destroy(self);
    }

    /// Marks `wanted_blocks` as used, free ones first and then new ones at the end. The caller owns the list.
    fn mark(self: *Spill, wanted_blocks: u64) status.Error![]Range {
        var ranges: std.ArrayList(Range) = .empty;
        errdefer ranges.deinit(heap.allocator);
        var missing = wanted_blocks;
        var iterator = self.free.iterator(.{});
        while (missing > 0) : (missing -= 1) {
            const block = iterator.next() orelse break;
            try append(&ranges, .{ .first = block, .count = 1 });
        }
        const end_block = self.free.capacity();
        if (missing > 0) {
            try append(&ranges, .{ .first = end_block, .count = missing });
            self.free.resize(heap.allocator, end_block + missing, false) catch return error.OutOfHostMemory;
        }
        const list = ranges.toOwnedSlice(heap.allocator) catch {
            self.setFree(.{ .first = end_block, .count = missing });
            return error.OutOfHostMemory;
        };
        for (list) |range| self.free.setRangeValue(.{ .start = range.first, .end = range.first + range.count }, false);
        self.used_blocks += wanted_blocks;
        return list;
    }

    fn append(ranges: *std.ArrayList(Range), next: Range) status.Error!void {
        if (ranges.items.len > 0) {
            const last = &ranges.items[ranges.items.len - 1];
            if (last.first + last.count == next.first) {
                last.count += next.count;
                return;
            }
        }
        ranges.append(heap.allocator, next) catch return error.OutOfHostMemory;
    }

    fn setFree(self: *Spill, range: Range) void {
        self.free.setRangeValue(.{ .start = range.first, .end = range.first + range.count }, true);
    }

    /// Gives space back to the disk and to later backups, and closes the file with the last of it.
    fn give(self: *Spill, extents: []const files.Extent) void {
        self.file.punch(extents);
        const store = self.store;
        store.mutex.lock();
        for (extents) |extent| {
            const count = blocksOf(extent.size_bytes);
            self.setFree(.{ .first = extent.file_offset_bytes / block_bytes, .count = count });
            self.used_blocks -= count;
        }
        const is_last = self.used_blocks == 0;
        if (is_last) store.spills.remove(&self.node);
        store.mutex.unlock();
        if (is_last) self.close();
    }
};

/// Gives back what a `Claim` of this spill file handed out.
pub fn give(file: *files.File, extents: []const files.Extent) void {
    const spill: *Spill = @alignCast(@fieldParentPtr("file", file));
    spill.give(extents);
}

pub const Store = struct {
    mutex: sync.Mutex = .{},
    spills: std.DoublyLinkedList = .{},

    pub fn isEmpty(self: *Store) bool {
        self.mutex.lock();
        defer self.mutex.unlock();
        return self.spills.first == null;
    }

    /// Allocates disk space for backups of a device that take `size_bytes` in whole blocks. Only the thread that runs
    /// plans claims.
    pub fn claim(
        self: *Store,
        device: u32,
        folder: [*:0]const u8,
        size_bytes: u64,
        failure: *Failure,
    ) status.Error!Claim {
        const claimed = try self.markBlocks(device, folder, blocksOf(size_bytes), failure);
        errdefer claimed.deinit();
        for (claimed.ranges) |range| {
            const extent = range.extent();
            try claimed.spill.file.allocate(extent.file_offset_bytes, extent.size_bytes, failure);
        }
        return claimed;
    }

    fn markBlocks(self: *Store, device: u32, folder: [*:0]const u8, count: u64, failure: *Failure) status.Error!Claim {
        {
            self.mutex.lock();
            defer self.mutex.unlock();
            if (self.find(device, folder)) |spill| return .{ .spill = spill, .ranges = try spill.mark(count) };
        }
        const spill: *Spill = try .open(self, device, folder, failure);
        errdefer spill.close();
        const ranges = try spill.mark(count);
        self.mutex.lock();
        defer self.mutex.unlock();
        self.spills.append(&spill.node);
        return .{ .spill = spill, .ranges = ranges };
    }

    fn find(self: *Store, device: u32, folder: [*:0]const u8) ?*Spill {
        var node = self.spills.first;
        while (node) |each| : (node = each.next) {
            const spill: *Spill = @fieldParentPtr("node", each);
            if (spill.device == device and std.mem.eql(u8, spill.folder, std.mem.span(folder))) return spill;
        }
        return null;
    }
};

/// Space of a spill file that is handed out from its beginning.
pub const Claim = struct {
    spill: *Spill,
    ranges: []Range,
    /// The first range that is not handed out as a whole, and how many of its blocks are.
    next: usize = 0,
    taken: u64 = 0,

    /// Gives back what was not handed out.
    pub fn deinit(self: Claim) void {
        defer heap.allocator.free(self.ranges);
        var taken = self.taken;
        for (self.ranges[self.next..]) |range| {
            const left: Range = .{ .first = range.first + taken, .count = range.count - taken };
            taken = 0;
            self.spill.give(&.{left.extent()});
        }
    }

    /// Space for one backup. The caller owns the list, and `give`s it back before it frees it.
    pub fn cut(self: *Claim, size_bytes: u64) status.Error![]files.Extent {
        var rest = self.*;
        var extents: std.ArrayList(files.Extent) = .empty;
        errdefer extents.deinit(heap.allocator);
        var done: u64 = 0;
        while (done < size_bytes) {
            const range = rest.ranges[rest.next];
            const count = @min(range.count - rest.taken, blocksOf(size_bytes - done));
            const first = range.first + rest.taken;
            extents.append(heap.allocator, .{
                .segment_offset_bytes = done,
                .file_offset_bytes = first * block_bytes,
                .size_bytes = @min(count * block_bytes, size_bytes - done),
            }) catch return error.OutOfHostMemory;
            done += count * block_bytes;
            rest.taken += count;
            if (rest.taken == range.count) {
                rest.next += 1;
                rest.taken = 0;
            }
        }
        const list = extents.toOwnedSlice(heap.allocator) catch return error.OutOfHostMemory;
        self.* = rest;
        return list;
    }

    pub fn file(self: Claim) *files.File {
        return &self.spill.file;
    }
};

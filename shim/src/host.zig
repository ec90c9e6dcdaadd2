//! Host memory for backups and staging. It comes in slabs, page-locked from AscendCL or else as ordinary memory, and is
//! handed out in blocks of one size, so that any backup fits into whatever blocks are free: nothing fragments, and no
//! cycle of sleeps takes more than the one before it. How much is kept while nothing needs it is policy, which
//! TypeScript sets.

const std = @import("std");
const heap = @import("heap.zig");
const linux = std.os.linux;
const runtime = @import("runtime.zig");
const status = @import("status.zig");
const sync = @import("sync.zig");
const Failure = status.Failure;

/// Of madvise (linux/mman.h, from Linux 5.14).
const populate_write = 23;

/// The granularity of device memory, so that a backup wastes nothing.
pub const block_bytes: u64 = 2 << 20;

/// The blocks of a slab are the bits of one word. A slab is also what a thread of a cancelled preparation may take at
/// most beyond the cancellation, and what one block that is in use can keep from being given back.
const blocks_at_most = 32;
pub const slab_bytes_at_most = blocks_at_most * block_bytes;

/// The memory of the machine: no preparation can take more.
pub fn machineBytes() u64 {
    var info: std.os.linux.Sysinfo = undefined;
    const unknown = std.math.maxInt(u64) - block_bytes;
    if (std.os.linux.errno(std.os.linux.sysinfo(&info)) != .SUCCESS) return unknown;
    return std.math.mul(u64, info.totalram, info.mem_unit) catch unknown;
}

pub const Slab = struct {
    memory: [*]u8,
    block_count: u6,
    /// A bit for each block that is free.
    free: u32,
    node: std.DoublyLinkedList.Node = .{},

    fn sizeBytes(self: *const Slab) u64 {
        return self.block_count * block_bytes;
    }

    fn all(self: *const Slab) u32 {
        return @truncate((@as(u64, 1) << self.block_count) - 1);
    }
};

/// Blocks of one slab that lie next to each other.
pub const Extent = struct {
    slab: *Slab,
    first: u5,
    count: u6,

    pub fn memory(self: Extent) [*]u8 {
        return self.slab.memory + self.first * block_bytes;
    }

    pub fn sizeBytes(self: Extent) u64 {
        return self.count * block_bytes;
    }

    fn bits(self: Extent) u32 {
        return @truncate(((@as(u64, 1) << self.count) - 1) << self.first);
    }
};

pub fn sizeBytesOf(extents: []const Extent) u64 {
    var sum: u64 = 0;
    for (extents) |extent| sum += extent.sizeBytes();
    return sum;
}

/// Where the memory of a pool comes from.
pub const Source = union(enum) {
    /// aclrtMallocHost: the device copies from and to it directly.
    page_locked: *runtime.Runtime,
    /// The kernel: content is copied through staging.
    pageable,

    const Memory = union(enum) {
        taken: [*]u8,
        /// The system has no more, or this process may not have it.
        refused: status.Error,
    };

    fn take(self: Source, size_bytes: u64, failure: *Failure) status.Error!Memory {
        switch (self) {
            .page_locked => |rt| {
                var pointer: ?*anyopaque = null;
                const code = rt.library.api.aclrtMallocHost(&pointer, size_bytes);
                rt.check("aclrtMallocHost", code, 0, size_bytes, failure) catch |err| switch (err) {
                    error.OutOfDeviceMemory => return .{ .refused = error.OutOfHostMemory },
                    error.DeviceLost => return err,
                    else => return .{ .refused = err },
                };
                const memory = try runtime.expectResult("aclrtMallocHost", pointer, 0, size_bytes, failure);
                return .{ .taken = @ptrCast(memory) };
            },
            .pageable => {
                const flags: linux.MAP = .{ .TYPE = .PRIVATE, .ANONYMOUS = true };
                const mapped = linux.mmap(null, size_bytes, .{ .READ = true, .WRITE = true }, flags, -1, 0);
                if (linux.errno(mapped) != .SUCCESS) return refuse("mmap", size_bytes, failure);
                const memory: [*]u8 = @ptrFromInt(mapped);
                // Now rather than in the middle of a copy. Older kernels do not know it.
                const populated = linux.errno(linux.madvise(memory, size_bytes, populate_write));
                if (populated == .SUCCESS or populated == .INVAL) return .{ .taken = memory };
                _ = linux.munmap(memory, size_bytes);
                return refuse("madvise", size_bytes, failure);
            },
        }
    }

    fn refuse(call: []const u8, size_bytes: u64, failure: *Failure) Memory {
        failure.describe(call, 0, 0, size_bytes, "the kernel has no memory left for this process");
        return .{ .refused = error.OutOfHostMemory };
    }

    fn giveBack(self: Source, memory: [*]u8, size_bytes: u64, failure: *Failure) status.Error!void {
        switch (self) {
            .page_locked => |rt| {
                const code = rt.library.api.aclrtFreeHost(memory);
                try rt.check("aclrtFreeHost", code, 0, size_bytes, failure);
            },
            .pageable => _ = linux.munmap(memory, size_bytes), // fails only for what was not mapped
        }
    }
};

pub const Pool = struct {
    source: Source,
    mutex: sync.Mutex = .{},
    /// Slabs with free blocks and others in use; slabs that are free altogether; slabs in use altogether.
    shared: std.DoublyLinkedList = .{},
    empty: std.DoublyLinkedList = .{},
    full: std.DoublyLinkedList = .{},
    held_bytes: u64 = 0,
    free_bytes: u64 = 0,
    /// Unlike the difference, this is exact while `trim` gives memory back.
    used_bytes: u64 = 0,
    /// Free memory that `trim` leaves because a sleep is expected to need it.
    reserved_bytes: u64 = 0,
    /// Free memory that `trim` leaves in any case.
    retained_bytes: u64 = 0,

    pub fn blockSize(size_bytes: u64) u64 {
        return std.mem.alignForward(u64, size_bytes, block_bytes);
    }

    /// Keeps `wanted_bytes` from being trimmed until they are taken. Returns how many of them are missing.
    pub fn want(self: *Pool, wanted_bytes: u64) u64 {
        self.mutex.lock();
        defer self.mutex.unlock();
        self.reserved_bytes = @max(self.reserved_bytes, wanted_bytes);
        return wanted_bytes -| self.free_bytes;
    }

    /// The caller holds the mutex.
    pub fn append(self: *Pool, slab: *Slab) void {
        self.empty.append(&slab.node);
        self.held_bytes += slab.sizeBytes();
        self.free_bytes += slab.sizeBytes();
    }

    const Created = union(enum) { created: *Slab, refused: status.Error };

    /// A slab that the pool does not have yet.
    pub fn createSlab(self: *Pool, size_bytes: u64, failure: *Failure) status.Error!Created {
        const slab = heap.allocator.create(Slab) catch return error.OutOfHostMemory;
        errdefer heap.allocator.destroy(slab);
        switch (try self.source.take(size_bytes, failure)) {
            .taken => |memory| {
                slab.* = .{ .memory = memory, .block_count = @intCast(size_bytes / block_bytes), .free = 0 };
                slab.free = slab.all();
                return .{ .created = slab };
            },
            .refused => |refusal| {
                heap.allocator.destroy(slab);
                return .{ .refused = refusal };
            },
        }
    }

    /// Gives a slab that `createSlab` has made, and that was not appended, back to the system. One that AscendCL
    /// refuses becomes the pool's, and is tried again with its other memory.
    pub fn giveBack(self: *Pool, slab: *Slab) void {
        var ignored: Failure = .{};
        if (self.source.giveBack(slab.memory, slab.sizeBytes(), &ignored)) {
            heap.allocator.destroy(slab);
        } else |_| {
            self.mutex.lock();
            defer self.mutex.unlock();
            self.append(slab);
        }
    }

    /// Takes `size_bytes`, a multiple of the block size, of what was reserved; out of slabs in use first, so that
    /// others can be given back. The caller owns the list and `give`s it back.
    pub fn take(self: *Pool, size_bytes: u64) status.Error![]Extent {
        var list: std.ArrayList(Extent) = .empty;
        errdefer list.deinit(heap.allocator);
        self.mutex.lock();
        defer self.mutex.unlock();
        errdefer for (list.items) |extent| self.mark(extent, .free);
        var missing: u64 = size_bytes / block_bytes;
        while (missing > 0) {
            const node = self.shared.first orelse self.empty.first orelse return error.OutOfHostMemory;
            const slab: *Slab = @fieldParentPtr("node", node);
            const first: u5 = @intCast(@ctz(slab.free));
            const run: u6 = @intCast(@ctz(~(@as(u64, slab.free) >> first)));
            const extent: Extent = .{ .slab = slab, .first = first, .count = @intCast(@min(missing, run)) };
            list.append(heap.allocator, extent) catch return error.OutOfHostMemory;
            self.mark(extent, .used);
            missing -= extent.count;
        }
        const extents = list.toOwnedSlice(heap.allocator) catch return error.OutOfHostMemory;
        self.reserved_bytes -|= size_bytes;
        return extents;
    }

    pub fn give(self: *Pool, extents: []Extent) void {
        self.mutex.lock();
        for (extents) |extent| self.mark(extent, .free);
        self.mutex.unlock();
        heap.allocator.free(extents);
    }

    fn mark(self: *Pool, extent: Extent, becomes: enum { free, used }) void {
        const slab = extent.slab;
        self.listOf(slab).remove(&slab.node);
        switch (becomes) {
            .free => {
                slab.free |= extent.bits();
                self.free_bytes += extent.sizeBytes();
                self.used_bytes -= extent.sizeBytes();
            },
            .used => {
                slab.free &= ~extent.bits();
                self.free_bytes -= extent.sizeBytes();
                self.used_bytes += extent.sizeBytes();
            },
        }
        self.listOf(slab).prepend(&slab.node);
    }

    fn listOf(self: *Pool, slab: *const Slab) *std.DoublyLinkedList {
        if (slab.free == 0) return &self.full;
        return if (slab.free == slab.all()) &self.empty else &self.shared;
    }

    pub const Counts = struct { held_bytes: u64, free_bytes: u64, used_bytes: u64, reserved_bytes: u64 };

    pub fn counts(self: *Pool) Counts {
        self.mutex.lock();
        defer self.mutex.unlock();
        return .{
            .held_bytes = self.held_bytes,
            .free_bytes = self.free_bytes,
            .used_bytes = self.used_bytes,
            .reserved_bytes = self.reserved_bytes,
        };
    }

    /// Sets how much free memory `trim` leaves for a sleep that is expected.
    pub fn expect(self: *Pool, reserved_bytes: u64) void {
        self.mutex.lock();
        defer self.mutex.unlock();
        self.reserved_bytes = reserved_bytes;
    }

    /// Sets how much free memory `trim` leaves in any case.
    pub fn retain(self: *Pool, retained_bytes: u64) void {
        self.mutex.lock();
        defer self.mutex.unlock();
        self.retained_bytes = retained_bytes;
    }

    /// Gives free slabs back to the system until no more than what is to be kept is free (aclrtFreeHost, which needs no
    /// context). A slab that AscendCL refuses stays, and is tried again the next time; the first refusal is reported.
    pub fn trim(self: *Pool, failure: *Failure) status.Error!void {
        self.mutex.lock();
        defer self.mutex.unlock();
        var refused: std.DoublyLinkedList = .{};
        var refused_bytes: u64 = 0;
        defer {
            self.empty.concatByMoving(&refused);
            self.free_bytes += refused_bytes; // not before: `take` counts on them
        }
        var spare: Failure = .{};
        var first: ?status.Error = null;
        while (self.nextToFree()) |slab| {
            self.empty.remove(&slab.node);
            self.mutex.unlock();
            const target = if (first == null) failure else &spare;
            const outcome = self.source.giveBack(slab.memory, slab.sizeBytes(), target);
            self.mutex.lock();
            if (outcome) {
                self.held_bytes -= slab.sizeBytes();
                heap.allocator.destroy(slab);
            } else |err| {
                refused_bytes += slab.sizeBytes();
                refused.append(&slab.node);
                if (first == null) first = err;
            }
        }
        if (first) |err| return err;
    }

    /// Takes a slab that nothing keeps off the free bytes; null when there is none.
    fn nextToFree(self: *Pool) ?*Slab {
        if (self.free_bytes <= self.retained_bytes) return null;
        const slab: *Slab = @fieldParentPtr("node", self.empty.first orelse return null);
        if (self.free_bytes - slab.sizeBytes() < self.reserved_bytes) return null;
        self.free_bytes -= slab.sizeBytes();
        return slab;
    }
};

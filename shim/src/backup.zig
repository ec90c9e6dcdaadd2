//! Where the content of a segment is kept besides device memory: in blocks of host memory, page-locked or not, or in a
//! file.

const std = @import("std");
const files = @import("files.zig");
const heap = @import("heap.zig");
const host = @import("host.zig");
const spills = @import("spills.zig");
const status = @import("status.zig");
const Failure = status.Failure;

/// What backups are kept in.
pub const Stores = struct {
    /// Holds staging as well.
    page_locked: host.Pool,
    pageable: host.Pool = .{ .source = .pageable },
    spills: spills.Store = .{},

    /// Whether no backup needs staging to be copied back, other than one in a checkpoint.
    pub fn hasOnlyPageLocked(self: *Stores) bool {
        return self.pageable.counts().used_bytes == 0 and self.spills.isEmpty();
    }

    /// Gives back the host memory that nothing keeps; see `Pool.trim`.
    pub fn trim(self: *Stores, failure: *Failure) status.Error!void {
        try self.pageable.trim(failure);
        try self.page_locked.trim(failure);
    }
};

pub const InFile = struct {
    file: *files.File,
    extents: []files.Extent,

    /// Bytes of the file that hold content.
    pub fn sizeBytes(self: InFile) u64 {
        var sum: u64 = 0;
        for (self.extents) |extent| sum += extent.size_bytes;
        return sum;
    }
};

pub const Backup = union(enum) {
    /// Page-locked.
    host: []host.Extent,
    pageable: []host.Extent,
    file: InFile,

    /// Page-locked bytes.
    pub fn hostBytes(self: Backup) u64 {
        return if (self == .host) host.sizeBytesOf(self.host) else 0;
    }

    /// Bytes of ordinary memory.
    pub fn pageableBytes(self: Backup) u64 {
        return if (self == .pageable) host.sizeBytesOf(self.pageable) else 0;
    }

    /// Where content in host memory begins; 0 without any.
    pub fn hostAddress(self: Backup) u64 {
        return switch (self) {
            .host, .pageable => |extents| if (extents.len == 0) 0 else @intFromPtr(extents[0].memory()),
            .file => 0,
        };
    }

    pub fn spilledBytes(self: Backup) u64 {
        return if (self == .file and self.file.file.isSpill()) self.file.sizeBytes() else 0;
    }

    pub fn checkpointBytes(self: Backup) u64 {
        return if (self.isCheckpoint()) self.file.sizeBytes() else 0;
    }

    pub fn isCheckpoint(self: Backup) bool {
        return self == .file and !self.file.file.isSpill();
    }

    /// Lets go of it. Host memory goes back to its pool, which `trim` gives back to the system.
    pub fn drop(self: Backup, stores: *Stores) void {
        switch (self) {
            .host => |extents| stores.page_locked.give(extents),
            .pageable => |extents| stores.pageable.give(extents),
            .file => |in_file| {
                if (in_file.file.isSpill()) spills.give(in_file.file, in_file.extents) else in_file.file.release();
                heap.allocator.free(in_file.extents);
            },
        }
    }

    /// The pieces that the first `size_bytes` of a segment are kept in, in the order of the segment.
    pub fn pieces(self: Backup, size_bytes: u64) Pieces {
        return .{ .backup = self, .size_bytes = size_bytes };
    }

    /// Copies a part of the content, which has `size_bytes`, into `target`. Bytes beyond it, and bytes that no piece
    /// covers, the gaps between tensors, are zero.
    pub fn read(self: Backup, size_bytes: u64, offset_bytes: u64, target: []u8, failure: *Failure) status.Error!void {
        if (self == .file) @memset(target, 0);
        const end = offset_bytes + target.len;
        if (end > size_bytes) @memset(target[@max(size_bytes, offset_bytes) - offset_bytes ..], 0);
        var iterator = self.pieces(size_bytes);
        while (iterator.next()) |piece| {
            const from = @max(piece.segment_offset_bytes, offset_bytes);
            const to = @min(piece.segment_offset_bytes + piece.size_bytes, end);
            if (from >= to) continue;
            const part = target[from - offset_bytes .. to - offset_bytes];
            switch (piece.place.skip(from - piece.segment_offset_bytes)) {
                // `target` may be that memory itself: its address is no secret.
                .memory, .pageable => |memory| @memmove(part, memory[0..part.len]),
                .file => |in_file| try in_file.file.read(part.ptr, part.len, in_file.offset_bytes, failure),
            }
        }
    }
};

/// Where a piece of content begins.
pub const Place = union(enum) {
    /// Page-locked: the device copies from and to it directly.
    memory: [*]u8,
    pageable: [*]u8,
    file: struct { file: *const files.File, offset_bytes: u64 },

    pub fn skip(self: Place, size_bytes: u64) Place {
        return switch (self) {
            .memory => |memory| .{ .memory = memory + size_bytes },
            .pageable => |memory| .{ .pageable = memory + size_bytes },
            .file => |in_file| .{ .file = .{
                .file = in_file.file,
                .offset_bytes = in_file.offset_bytes + size_bytes,
            } },
        };
    }

    pub fn read(self: Place, target: []u8, failure: *Failure) status.Error!void {
        switch (self) {
            .memory, .pageable => |memory| @memcpy(target, memory[0..target.len]),
            .file => |in_file| try in_file.file.read(target.ptr, target.len, in_file.offset_bytes, failure),
        }
    }

    pub fn write(self: Place, source: []const u8, failure: *Failure) status.Error!void {
        switch (self) {
            .memory, .pageable => |memory| @memcpy(memory[0..source.len], source),
            .file => |in_file| try in_file.file.write(source.ptr, source.len, in_file.offset_bytes, failure),
        }
    }
};

pub const Piece = struct { segment_offset_bytes: u64, size_bytes: u64, place: Place };

pub const Pieces = struct {
    backup: Backup,
    size_bytes: u64,
    index: usize = 0,
    offset_bytes: u64 = 0,

    pub fn next(self: *Pieces) ?Piece {
        switch (self.backup) {
            .host, .pageable => |extents| {
                if (self.index == extents.len or self.offset_bytes == self.size_bytes) return null;
                const extent = extents[self.index];
                const piece: Piece = .{
                    .segment_offset_bytes = self.offset_bytes,
                    .size_bytes = @min(extent.sizeBytes(), self.size_bytes - self.offset_bytes),
                    .place = if (self.backup == .host)
                        .{ .memory = extent.memory() }
                    else
                        .{ .pageable = extent.memory() },
                };
                self.index += 1;
                self.offset_bytes += piece.size_bytes;
                return piece;
            },
            .file => |in_file| {
                if (self.index == in_file.extents.len) return null;
                const extent = in_file.extents[self.index];
                if (extent.segment_offset_bytes >= self.size_bytes) return null;
                self.index += 1;
                return .{
                    .segment_offset_bytes = extent.segment_offset_bytes,
                    .size_bytes = @min(extent.size_bytes, self.size_bytes - extent.segment_offset_bytes),
                    .place = .{ .file = .{ .file = in_file.file, .offset_bytes = extent.file_offset_bytes } },
                };
            },
        }
    }
};

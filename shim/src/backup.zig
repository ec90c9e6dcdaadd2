//! Where the content of a segment is kept besides device memory: in blocks of page-locked host memory, or in a file.

const std = @import("std");
const files = @import("files.zig");
const heap = @import("heap.zig");
const host = @import("host.zig");
const status = @import("status.zig");
const Failure = status.Failure;

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
    host: []host.Extent,
    file: InFile,

    /// Page-locked bytes.
    pub fn hostBytes(self: Backup) u64 {
        var sum: u64 = 0;
        switch (self) {
            .host => |extents| for (extents) |extent| {
                sum += extent.sizeBytes();
            },
            .file => {},
        }
        return sum;
    }

    /// Where page-locked content begins; 0 without any.
    pub fn hostAddress(self: Backup) u64 {
        return switch (self) {
            .host => |extents| if (extents.len == 0) 0 else @intFromPtr(extents[0].memory()),
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

    /// Lets go of it. Host memory goes back to the pool, which `trim` gives back to the system.
    pub fn drop(self: Backup, pool: *host.Pool) void {
        switch (self) {
            .host => |extents| pool.give(extents),
            .file => |in_file| {
                if (in_file.file.isSpill()) in_file.file.punch(in_file.extents);
                in_file.file.release();
                heap.allocator.free(in_file.extents);
            },
        }
    }

    /// The pieces that the first `size_bytes` of a segment are kept in, in the order of the segment.
    pub fn pieces(self: Backup, size_bytes: u64) Pieces {
        return .{ .backup = self, .size_bytes = size_bytes };
    }

    /// Copies a part of the content into `target`. Bytes that no piece covers, the gaps between tensors, are zero.
    pub fn read(self: Backup, size_bytes: u64, offset_bytes: u64, target: []u8, failure: *Failure) status.Error!void {
        if (self == .file) @memset(target, 0);
        const end = offset_bytes + target.len;
        var iterator = self.pieces(size_bytes);
        while (iterator.next()) |piece| {
            const from = @max(piece.segment_offset_bytes, offset_bytes);
            const to = @min(piece.segment_offset_bytes + piece.size_bytes, end);
            if (from >= to) continue;
            const part = target[from - offset_bytes .. to - offset_bytes];
            switch (piece.place.skip(from - piece.segment_offset_bytes)) {
                // `target` may be that memory itself: its address is no secret.
                .memory => |memory| @memmove(part, memory[0..part.len]),
                .file => |in_file| try in_file.file.read(part.ptr, part.len, in_file.offset_bytes, failure),
            }
        }
    }
};

/// Where a piece of content begins.
pub const Place = union(enum) {
    memory: [*]u8,
    file: struct { file: *const files.File, offset_bytes: u64 },

    pub fn skip(self: Place, size_bytes: u64) Place {
        return switch (self) {
            .memory => |memory| .{ .memory = memory + size_bytes },
            .file => |in_file| .{ .file = .{
                .file = in_file.file,
                .offset_bytes = in_file.offset_bytes + size_bytes,
            } },
        };
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
            .host => |extents| {
                if (self.index == extents.len or self.offset_bytes == self.size_bytes) return null;
                const extent = extents[self.index];
                const piece: Piece = .{
                    .segment_offset_bytes = self.offset_bytes,
                    .size_bytes = @min(extent.sizeBytes(), self.size_bytes - self.offset_bytes),
                    .place = .{ .memory = extent.memory() },
                };
                self.index += 1;
                self.offset_bytes += piece.size_bytes;
                return piece;
            },
            .file => |in_file| {
                if (self.index == in_file.extents.len) return null;
                const extent = in_file.extents[self.index];
                self.index += 1;
                return .{
                    .segment_offset_bytes = extent.segment_offset_bytes,
                    .size_bytes = extent.size_bytes,
                    .place = .{ .file = .{ .file = in_file.file, .offset_bytes = extent.file_offset_bytes } },
                };
            },
        }
    }
};

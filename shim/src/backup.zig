//! Where the content of a segment is kept besides device memory: in blocks of page-locked host memory, or in a file.

const std = @import("std");
const files = @import("files.zig");
const heap = @import("heap.zig");
const host = @import("host.zig");
const registry = @import("registry.zig");
const status = @import("status.zig");
const Failure = status.Failure;

pub const InFile = struct { file: *files.File, extents: []files.Extent };

pub const Backup = union(enum) {
    none,
    host: []host.Extent,
    file: InFile,

    /// Page-locked bytes.
    pub fn hostBytes(self: Backup) u64 {
        var sum: u64 = 0;
        if (self == .host) for (self.host) |extent| {
            sum += extent.sizeBytes();
        };
        return sum;
    }

    pub fn isSpill(self: Backup) bool {
        return self == .file and self.file.file.isSpill();
    }

    pub fn isCheckpoint(self: Backup) bool {
        return self == .file and !self.file.file.isSpill();
    }

    /// Bytes of a file that hold content.
    pub fn fileBytes(self: Backup) u64 {
        var sum: u64 = 0;
        if (self == .file) for (self.file.extents) |extent| {
            sum += extent.size_bytes;
        };
        return sum;
    }

    /// Lets go of it. Host memory goes back to the pool, which `trim` gives back to the system.
    pub fn drop(self: Backup, pool: *host.Pool) void {
        switch (self) {
            .none => {},
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

    /// Copies a part of the content into `target`; bytes that no piece covers, the gaps between tensors, are zero.
    pub fn read(self: Backup, size_bytes: u64, offset_bytes: u64, target: []u8, failure: *Failure) status.Error!void {
        if (self == .file) @memset(target, 0);
        const end = offset_bytes + target.len;
        var iterator = self.pieces(size_bytes);
        while (iterator.next()) |piece| {
            const from = @max(piece.segment_offset_bytes, offset_bytes);
            const to = @min(piece.segment_offset_bytes + piece.size_bytes, end);
            if (from >= to) continue;
            const part = target[from - offset_bytes .. to - offset_bytes];
            const skipped = from - piece.segment_offset_bytes;
            switch (piece.place) {
                // `target` may be that memory itself: its address is no secret.
                .memory => |memory| @memmove(part, (memory + skipped)[0..part.len]),
                .file_offset_bytes => |file_offset| try self.file.file.read(part.ptr, part.len, file_offset + skipped, failure),
            }
        }
    }
};

pub const Piece = struct {
    segment_offset_bytes: u64,
    size_bytes: u64,
    place: union(enum) { memory: [*]u8, file_offset_bytes: u64 },
};

pub const Pieces = struct {
    backup: Backup,
    size_bytes: u64,
    index: usize = 0,
    offset_bytes: u64 = 0,

    pub fn next(self: *Pieces) ?Piece {
        switch (self.backup) {
            .none => return null,
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
                    .place = .{ .file_offset_bytes = extent.file_offset_bytes },
                };
            },
        }
    }
};

//! Files that hold content of segments: a checkpoint, which is only read, or a spill file, which takes what host memory
//! does not. A segment's content is in extents of one file.

const std = @import("std");
const heap = @import("heap.zig");
const linux = std.os.linux;
const status = @import("status.zig");
const sync = @import("sync.zig");
const Failure = status.Failure;

/// Where a piece of a segment's content lies. Crosses the C ABI.
pub const Extent = extern struct { segment_offset_bytes: u64, file_offset_bytes: u64, size_bytes: u64 };

/// Changes when somebody writes to a checkpoint.
const Identity = struct { size_bytes: u64, modified_seconds: i64, modified_nanoseconds: u32 };

pub const File = struct {
    descriptor: i32,
    /// Of a checkpoint; null for a spill file, which nobody else can open.
    identity: ?Identity,
    /// Of a checkpoint: segments that have content in it, and the caller that opened it.
    references: std.atomic.Value(u32) = .init(1),
    /// The number by which the caller that opened it names it.
    handle: u64 = 0,
    /// The thread of that caller.
    owner: linux.pid_t = 0,
    node: std.DoublyLinkedList.Node = .{},

    /// A checkpoint that somebody has opened for reading; its descriptor stays theirs.
    fn adopt(descriptor: i32, failure: *Failure) status.Error!*File {
        const own: i32 = @intCast(try system("fcntl", linux.fcntl(descriptor, linux.F.DUPFD_CLOEXEC, 0), 0, failure));
        errdefer _ = linux.close(own);
        const file = heap.allocator.create(File) catch return error.OutOfHostMemory;
        errdefer heap.allocator.destroy(file);
        file.* = .{ .descriptor = own, .identity = try identify(own, failure) };
        return file;
    }

    /// An empty spill file in `folder`: nobody else can open it, and it is gone with its descriptor, however the
    /// process ends.
    pub fn openSpill(folder: [*:0]const u8, failure: *Failure) status.Error!File {
        if (folder[0] == 0) return fail("open", .NOENT, 0, failure);
        const flags: linux.O = .{ .ACCMODE = .RDWR, .CLOEXEC = true, .TMPFILE = true, .DIRECTORY = true };
        const opened = linux.open(folder, flags, 0o600);
        const descriptor: i32 = switch (linux.errno(opened)) {
            .SUCCESS => @intCast(opened),
            // A file system without nameless files.
            .OPNOTSUPP, .ISDIR, .NOENT, .INVAL => try createAndUnlink(folder, failure),
            else => |code| return fail("open", code, 0, failure),
        };
        return .{ .descriptor = descriptor, .identity = null };
    }

    /// Allocates a part of a spill file on the disk.
    pub fn allocate(self: *const File, offset_bytes: u64, size_bytes: u64, failure: *Failure) status.Error!void {
        // Beyond this limit the kernel would end the process with a signal.
        var limit: linux.rlimit = undefined;
        _ = try system("getrlimit", linux.prlimit(0, .FSIZE, null, &limit), 0, failure);
        if (offset_bytes + size_bytes > limit.cur) return fail("fallocate", .FBIG, size_bytes, failure);
        while (true) {
            const code = linux.fallocate(self.descriptor, 0, @intCast(offset_bytes), @intCast(size_bytes));
            if (linux.errno(code) == .INTR) continue;
            _ = try system("fallocate", code, size_bytes, failure);
            return;
        }
    }

    fn createAndUnlink(folder: [*:0]const u8, failure: *Failure) status.Error!i32 {
        var buffer: [4096]u8 = undefined;
        const words = .{ folder, linux.getpid(), @intFromPtr(&buffer) };
        const path = std.fmt.bufPrintZ(&buffer, "{s}/camem-{d}-{x}.spill", words) catch return error.InvalidArgument;
        const flags: linux.O = .{ .ACCMODE = .RDWR, .CLOEXEC = true, .CREAT = true, .EXCL = true };
        const descriptor: i32 = @intCast(try system("open", linux.open(path, flags, 0o600), 0, failure));
        errdefer _ = linux.close(descriptor);
        _ = try system("unlink", linux.unlink(path), 0, failure);
        return descriptor;
    }

    pub fn reference(self: *File) void {
        _ = self.references.fetchAdd(1, .monotonic);
    }

    /// Lets go of a checkpoint.
    pub fn release(self: *File) void {
        if (self.references.fetchSub(1, .acq_rel) > 1) return;
        self.close();
        heap.allocator.destroy(self);
    }

    pub fn close(self: *File) void {
        _ = linux.close(self.descriptor);
    }

    pub fn isSpill(self: *const File) bool {
        return self.identity == null;
    }

    /// Whether an extent lies within a checkpoint, as large as it was when it was adopted.
    pub fn holds(self: *const File, extent: Extent) bool {
        const identity = self.identity orelse return false;
        return extent.file_offset_bytes <= identity.size_bytes and
            extent.size_bytes <= identity.size_bytes - extent.file_offset_bytes;
    }

    /// Fails when somebody has written to a checkpoint since it was adopted.
    pub fn checkUnchanged(self: *const File, failure: *Failure) status.Error!void {
        const expected = self.identity orelse return;
        const found = try identify(self.descriptor, failure);
        if (std.meta.eql(expected, found)) return;
        failure.describe("", 0, 0, 0, if (expected.size_bytes != found.size_bytes)
            "the size of the checkpoint is not what it was when it was loaded"
        else
            "the checkpoint was modified after it was loaded");
        return error.FileChanged;
    }

    fn identify(descriptor: i32, failure: *Failure) status.Error!Identity {
        var found: linux.Statx = undefined;
        const code = linux.statx(descriptor, "", linux.AT.EMPTY_PATH, .{ .SIZE = true, .MTIME = true }, &found);
        _ = try system("statx", code, 0, failure);
        return .{
            .size_bytes = found.size,
            .modified_seconds = found.mtime.sec,
            .modified_nanoseconds = found.mtime.nsec,
        };
    }

    pub fn read(
        self: *const File,
        target: [*]u8,
        size_bytes: u64,
        offset_bytes: u64,
        failure: *Failure,
    ) status.Error!void {
        var done: u64 = 0;
        while (done < size_bytes) {
            const code = linux.pread(self.descriptor, target + done, size_bytes - done, @intCast(offset_bytes + done));
            if (linux.errno(code) == .INTR) continue;
            const count = try system("pread", code, size_bytes, failure);
            if (count == 0) {
                failure.describe("pread", 0, 0, size_bytes, "the file ends before the content does");
                return error.FileChanged;
            }
            done += count;
        }
    }

    pub fn write(
        self: *const File,
        source: [*]const u8,
        size_bytes: u64,
        offset_bytes: u64,
        failure: *Failure,
    ) status.Error!void {
        var done: u64 = 0;
        while (done < size_bytes) {
            const code = linux.pwrite(self.descriptor, source + done, size_bytes - done, @intCast(offset_bytes + done));
            if (linux.errno(code) == .INTR) continue;
            const count = try system("pwrite", code, size_bytes, failure);
            if (count == 0) return fail("pwrite", .IO, size_bytes, failure);
            done += count;
        }
    }

    /// Waits until everything written is on the disk: a write that failed later would go unnoticed.
    pub fn flush(self: *const File, failure: *Failure) status.Error!void {
        _ = try system("fdatasync", linux.fdatasync(self.descriptor), 0, failure);
    }

    /// Gives the disk space of `extents` back.
    pub fn punch(self: *const File, extents: []const Extent) void {
        const mode = linux.FALLOC.FL_PUNCH_HOLE | linux.FALLOC.FL_KEEP_SIZE;
        for (extents) |extent| {
            const offset: i64 = @intCast(extent.file_offset_bytes); // of a spill file, which was allocated up to there
            _ = linux.fallocate(self.descriptor, mode, offset, @intCast(extent.size_bytes));
        }
    }
};

/// Checkpoints that callers have open. A number names one, so that a wrong one is refused instead of followed.
const Opened = struct {
    mutex: sync.Mutex = .{},
    files: std.DoublyLinkedList = .{},
    next_handle: u64 = 1,

    /// With the mutex held.
    fn find(self: *Opened, handle: u64) status.Error!*File {
        var node = self.files.first;
        while (node) |each| : (node = each.next) {
            const file: *File = @fieldParentPtr("node", each);
            if (file.handle == handle) return file;
        }
        return error.InvalidArgument;
    }

    /// With the mutex held.
    fn dropAbandoned(self: *Opened) void {
        var node = self.files.first;
        while (node) |each| {
            node = each.next;
            const file: *File = @fieldParentPtr("node", each);
            if (sync.isThreadAlive(file.owner)) continue;
            self.files.remove(&file.node);
            file.release();
        }
    }
};

var open_checkpoints: Opened = .{};

/// Lets go of what terminated Workers have left open.
pub fn dropAbandoned() void {
    open_checkpoints.mutex.lock();
    defer open_checkpoints.mutex.unlock();
    open_checkpoints.dropAbandoned();
}

/// Takes hold of a checkpoint until `closeCheckpoint`, and returns its handle.
pub fn openCheckpoint(descriptor: i32, failure: *Failure) status.Error!u64 {
    const file: *File = try .adopt(descriptor, failure);
    open_checkpoints.mutex.lock();
    defer open_checkpoints.mutex.unlock();
    open_checkpoints.dropAbandoned();
    file.owner = linux.gettid();
    file.handle = open_checkpoints.next_handle;
    open_checkpoints.next_handle += 1;
    open_checkpoints.files.append(&file.node);
    return file.handle;
}

/// Lets go of a checkpoint, which lives on while segments have content in it.
pub fn closeCheckpoint(handle: u64) status.Error!void {
    open_checkpoints.mutex.lock();
    defer open_checkpoints.mutex.unlock();
    const file = try open_checkpoints.find(handle);
    open_checkpoints.files.remove(&file.node);
    file.release();
}

/// The checkpoint with a handle, which the caller releases.
pub fn checkpoint(handle: u64) status.Error!*File {
    open_checkpoints.mutex.lock();
    defer open_checkpoints.mutex.unlock();
    const file = try open_checkpoints.find(handle);
    file.reference();
    return file;
}

fn system(call: []const u8, code: usize, size_bytes: u64, failure: *Failure) status.Error!usize {
    return switch (linux.errno(code)) {
        .SUCCESS => code,
        else => |errno| fail(call, errno, size_bytes, failure),
    };
}

fn fail(call: []const u8, errno: linux.E, size_bytes: u64, failure: *Failure) status.Error {
    failure.describe(call, 0, 0, size_bytes, switch (errno) {
        .NOSPC, .DQUOT => "the disk is full",
        .FBIG => "the file would be larger than this process may write (ulimit -f)",
        .OPNOTSUPP => "the file system there cannot do that",
        .IO => "the disk reports an error",
        .ACCES, .PERM, .ROFS => "this process may not do that there",
        .NOENT, .NOTDIR => "there is no such folder",
        else => std.enums.tagName(linux.E, errno) orelse "an unknown error",
    });
    return error.FileFailed;
}

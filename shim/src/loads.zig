//! Loads of checkpoints: read files into segments that are awake, on threads of their own. The files of a load are
//! read side by side. Each copy pins its segment, as the write of a user does, so a sleep waits for one copy at most;
//! the load fails where it finds memory asleep or its content discarded since it began.

const std = @import("std");
const attach = @import("attach.zig");
const files = @import("files.zig");
const heap = @import("heap.zig");
const host = @import("host.zig");
const runtime = @import("runtime.zig");
const Session = @import("session.zig").Session;
const status = @import("status.zig");
const sync = @import("sync.zig");
const Failure = status.Failure;

/// A part of a checkpoint, and where in device memory it belongs. Crosses the C ABI.
pub const Piece = extern struct {
    address: u64,
    segment_id: u64,
    segment_offset_bytes: u64,
    file_offset_bytes: u64,
    size_bytes: u64,
    /// Which of the load's checkpoints.
    checkpoint: u32,
    /// How often the segment's content has been discarded when the load begins.
    discards: u32,
};

pub const Progress = extern struct {
    /// 1 once the load has ended.
    done: u32,
    /// Its `Status`, once it has ended.
    status: i32,
    /// The number of the checkpoint that could not be read, or the largest number of 32 bits.
    checkpoint: u32 = no_checkpoint,
};

const no_checkpoint = std.math.maxInt(u32);

const most_threads = 4;
/// Bytes read and then copied at a time: still in the cache when they are copied.
const chunk_bytes = 1 << 20;
/// A further thread costs more than it saves below this.
const thread_bytes_at_least = 8 << 20;
/// Memory that is not page-locked does below this.
const page_locked_bytes_at_least = 256 << 10;

/// One checkpoint of a load, and how much of it is taken.
const Source = struct {
    index: usize,
    file: *files.File,
    pieces: []const Piece,
    next: usize = 0,
    /// Bytes of the next piece that are taken.
    taken_bytes: u64 = 0,

    /// The next bytes to read, without a gap.
    fn take(self: *Source) ?Chunk {
        if (self.next == self.pieces.len) return null;
        const first = self.pieces[self.next];
        var chunk: Chunk = .{
            .source = self,
            .first = self.next,
            .skip_bytes = self.taken_bytes,
            .offset_bytes = first.file_offset_bytes + self.taken_bytes,
        };
        while (self.next < self.pieces.len) {
            const piece = self.pieces[self.next];
            if (piece.file_offset_bytes + self.taken_bytes != chunk.offset_bytes + chunk.size_bytes) break;
            const part = @min(piece.size_bytes - self.taken_bytes, chunk_bytes - chunk.size_bytes);
            chunk.size_bytes += part;
            self.taken_bytes += part;
            if (self.taken_bytes < piece.size_bytes) break;
            self.next += 1;
            self.taken_bytes = 0;
        }
        return chunk;
    }
};

/// Bytes of a checkpoint that are next to each other, and the piece that they begin in.
const Chunk = struct {
    source: *const Source,
    first: usize,
    /// Bytes of the first piece that are before the chunk.
    skip_bytes: u64,
    offset_bytes: u64,
    size_bytes: u64 = 0,
};

/// Memory that content is read to before it is copied: a chunk for each thread.
const Staging = union(enum) {
    page_locked: *host.Slab,
    ordinary: []u8,

    /// Inside a `Scope` of the device.
    fn take(pool: *host.Pool, size_bytes: u64, failure: *Failure) status.Error!Staging {
        if (size_bytes >= page_locked_bytes_at_least) {
            switch (try pool.createSlab(host.Pool.blockSize(size_bytes), failure)) {
                .created => |slab| return .{ .page_locked = slab },
                .refused => failure.* = .{}, // slower, but as good
            }
        }
        return .{ .ordinary = heap.allocator.alloc(u8, size_bytes) catch return error.OutOfHostMemory };
    }

    fn of(self: Staging, lane: usize, chunk_size_bytes: u64) []u8 {
        const memory = switch (self) {
            .page_locked => |slab| slab.memory,
            .ordinary => |memory| memory.ptr,
        };
        return memory[lane * chunk_size_bytes ..][0..chunk_size_bytes];
    }

    fn give(self: Staging, pool: *host.Pool) void {
        switch (self) {
            .page_locked => |slab| pool.giveBack(slab),
            .ordinary => |memory| heap.allocator.free(memory),
        }
    }
};

const Load = struct {
    /// Held open until the load has ended.
    session: *Session,
    device: u32,
    pieces: []Piece,
    sources: []Source,
    /// Of how much of each source is taken.
    mutex: sync.Mutex = .{},
    total_bytes: u64,
    cancelled: std.atomic.Value(bool) = .init(false),
    ended: std.atomic.Value(bool) = .init(false),
    failed: std.atomic.Value(bool) = .init(false),
    failed_checkpoint: std.atomic.Value(u32) = .init(no_checkpoint),
    outcomes: [most_threads]status.Outcome = @splat(.{}),
    /// Set before the table knows the load.
    thread: sync.Thread = undefined,
    handle: u64 = 0,
    /// The thread that began it.
    owner: std.os.linux.pid_t,
    node: std.DoublyLinkedList.Node = .{},

    fn create(session: *Session, device: u32, checkpoints: []const u64, pieces: []const Piece) status.Error!*Load {
        const self = heap.allocator.create(Load) catch return error.OutOfHostMemory;
        errdefer heap.allocator.destroy(self);
        const own = heap.allocator.dupe(Piece, pieces) catch return error.OutOfHostMemory;
        errdefer heap.allocator.free(own);
        const sources = heap.allocator.alloc(Source, checkpoints.len) catch return error.OutOfHostMemory;
        errdefer heap.allocator.free(sources);
        var opened: usize = 0;
        errdefer for (sources[0..opened]) |source| source.file.release();
        var begin: usize = 0;
        var total_bytes: u64 = 0;
        for (sources, checkpoints, 0..) |*source, handle, index| {
            const file = try files.checkpoint(handle);
            source.* = .{ .index = index, .file = file, .pieces = &.{} };
            opened += 1;
            var end = begin;
            while (end < own.len and own[end].checkpoint == index) : (end += 1) {
                const piece = own[end];
                const extent: files.Extent = .{
                    .segment_offset_bytes = piece.segment_offset_bytes,
                    .file_offset_bytes = piece.file_offset_bytes,
                    .size_bytes = piece.size_bytes,
                };
                if (piece.size_bytes == 0) return error.InvalidArgument;
                if (!file.holds(extent)) return error.FileChanged; // its header said so
                total_bytes +|= piece.size_bytes;
            }
            source.pieces = own[begin..end];
            begin = end;
        }
        if (begin != own.len or own.len == 0) return error.InvalidArgument;
        self.* = .{
            .session = session,
            .device = device,
            .pieces = own,
            .sources = sources,
            .total_bytes = total_bytes,
            .owner = std.os.linux.gettid(),
        };
        return self;
    }

    fn destroy(self: *Load) void {
        for (self.sources) |source| source.file.release();
        heap.allocator.free(self.sources);
        heap.allocator.free(self.pieces);
        heap.allocator.destroy(self);
    }

    /// The body of the load's own thread.
    fn run(self: *Load) void {
        self.copyAll(&self.outcomes[0].failure) catch |err| self.fail(0, err);
        if (!self.failed.load(.acquire)) self.checkFiles();
        attach.leave();
        self.ended.store(true, .release);
    }

    /// Content that was read while somebody wrote to the file is a mixture.
    fn checkFiles(self: *Load) void {
        for (self.sources, 0..) |source, index| {
            source.file.checkUnchanged(&self.outcomes[0].failure) catch |err| {
                self.noteCheckpoint(index);
                return self.fail(0, err);
            };
        }
    }

    /// The first failure of a file says which one it is.
    fn noteCheckpoint(self: *Load, index: usize) void {
        _ = self.failed_checkpoint.cmpxchgStrong(no_checkpoint, @intCast(index), .acq_rel, .acquire);
    }

    fn fail(self: *Load, lane: usize, err: status.Error) void {
        self.outcomes[lane].err = err;
        self.failed.store(true, .release);
    }

    fn copyAll(self: *Load, failure: *Failure) status.Error!void {
        const scope = try runtime.Scope.enter(&self.session.runtime, self.device, failure);
        defer scope.abandon();
        const pool = &self.session.stores.page_locked;
        const chunk_size_bytes = @min(chunk_bytes, self.total_bytes);
        const lanes = self.threadCount();
        const staging: Staging = try .take(pool, lanes * chunk_size_bytes, failure);
        defer staging.give(pool);
        var threads: [most_threads]?sync.Thread = @splat(null);
        defer for (threads) |thread| if (thread) |running| running.join();
        for (threads[1..lanes], 1..) |*thread, lane| {
            const memory = staging.of(lane, chunk_size_bytes);
            // Where one cannot be started the others have more to do.
            thread.* = sync.Thread.spawn(runLane, .{ self, lane, memory }) catch null;
        }
        // Before the others are waited for, so that they end as well.
        self.copyThrough(staging.of(0, chunk_size_bytes), 0, failure) catch |err| self.fail(0, err);
    }

    fn threadCount(self: *const Load) usize {
        const processors = std.Thread.getCpuCount() catch 1;
        return @min(1 + self.total_bytes / thread_bytes_at_least, processors, most_threads);
    }

    fn runLane(self: *Load, lane: usize, memory: []u8) void {
        const failure = &self.outcomes[lane].failure;
        const scope = runtime.Scope.enter(&self.session.runtime, self.device, failure) catch |err|
            return self.fail(lane, err);
        defer scope.abandon();
        self.copyThrough(memory, lane, failure) catch |err| self.fail(lane, err);
    }

    /// Reads and copies until nothing is left to take, or another thread has failed.
    fn copyThrough(self: *Load, memory: []u8, lane: usize, failure: *Failure) status.Error!void {
        const interrupt: sync.Interrupt = .{ .cancelled = &self.cancelled, .failed = &self.failed };
        while (self.takeChunk(lane)) |chunk| {
            try interrupt.check();
            if (self.session.executor.isStopping()) return error.NotOpen;
            if (!sync.isThreadAlive(self.owner)) return error.Aborted; // nobody waits for the rest
            chunk.source.file.read(memory.ptr, chunk.size_bytes, chunk.offset_bytes, failure) catch |err| {
                self.noteCheckpoint(chunk.source.index);
                return err;
            };
            try self.copyChunk(chunk, memory[0..chunk.size_bytes], failure);
        }
    }

    /// Each thread begins with a file of its own where there are several.
    fn takeChunk(self: *Load, lane: usize) ?Chunk {
        self.mutex.lock();
        defer self.mutex.unlock();
        for (0..self.sources.len) |index| {
            if (self.sources[(lane + index) % self.sources.len].take()) |chunk| return chunk;
        }
        return null;
    }

    fn copyChunk(self: *Load, chunk: Chunk, content: []const u8, failure: *Failure) status.Error!void {
        var rest = content;
        var skip_bytes = chunk.skip_bytes;
        for (chunk.source.pieces[chunk.first..]) |piece| {
            if (rest.len == 0) return;
            const size_bytes = @min(piece.size_bytes - skip_bytes, rest.len);
            try self.copyPiece(piece, skip_bytes, rest[0..size_bytes], failure);
            rest = rest[size_bytes..];
            skip_bytes = 0;
        }
    }

    fn copyPiece(
        self: *Load,
        piece: Piece,
        skip_bytes: u64,
        content: []const u8,
        failure: *Failure,
    ) status.Error!void {
        const session = self.session;
        const offset_bytes = piece.segment_offset_bytes +| skip_bytes;
        const segment = try session.registry.pin(piece.address, piece.segment_id, offset_bytes, content.len, .loading);
        defer if (session.registry.unpin(segment)) session.executor.requestSweep();
        if (segment.discards != piece.discards) return error.Asleep;
        if (segment.device != self.device) return error.InvalidArgument;
        try session.copyPinned(piece.address + offset_bytes, content.len, .{ .write = content.ptr }, failure);
    }
};

/// The loads that were begun and whose end nobody has seen yet.
const Table = struct {
    mutex: sync.Mutex = .{},
    loads: std.DoublyLinkedList = .{},
    last_handle: u64 = 0,

    /// With the mutex held.
    fn find(self: *Table, handle: u64) status.Error!*Load {
        var node = self.loads.first;
        while (node) |each| : (node = each.next) {
            const load: *Load = @fieldParentPtr("node", each);
            if (load.handle == handle) return load;
        }
        return error.Stale;
    }

    /// With the mutex held.
    fn remove(self: *Table, load: *Load) void {
        self.loads.remove(&load.node);
        load.thread.join(); // it has ended, or is about to
        load.destroy();
    }

    /// Forgets loads that have ended and whose Worker was terminated. With the mutex held.
    fn dropAbandoned(self: *Table) void {
        var node = self.loads.first;
        while (node) |each| {
            node = each.next;
            const load: *Load = @fieldParentPtr("node", each);
            if (load.ended.load(.acquire) and !sync.isThreadAlive(load.owner)) self.remove(load);
        }
    }
};

var table: Table = .{};

/// Forgets what terminated Workers have left.
pub fn dropAbandoned() void {
    table.mutex.lock();
    defer table.mutex.unlock();
    table.dropAbandoned();
}

/// Begins to read checkpoints into segments of one device. `pieces` are in the order of the checkpoints.
pub fn start(device: u32, checkpoints: []const u64, pieces: []const Piece) status.Error!u64 {
    const session = attach.enter() orelse return error.NotOpen;
    errdefer attach.leave();
    if (device >= session.runtime.device_count) return error.UnknownDevice;
    const load = try Load.create(session, device, checkpoints, pieces);
    errdefer load.destroy();
    table.mutex.lock();
    defer table.mutex.unlock();
    table.dropAbandoned();
    load.thread = try sync.Thread.spawn(Load.run, .{load});
    table.last_handle += 1;
    load.handle = table.last_handle;
    table.loads.append(&load.node);
    return load.handle;
}

/// How far a load is. Once it has ended this returns so a single time, with the failure if it has failed.
pub fn poll(handle: u64, failure: *Failure) status.Error!Progress {
    table.mutex.lock();
    defer table.mutex.unlock();
    const load = try table.find(handle);
    const ended = load.ended.load(.acquire);
    var progress: Progress = .{
        .done = @intFromBool(ended),
        .status = @intFromEnum(status.Status.ok),
    };
    if (!ended) return progress;
    status.Outcome.first(&load.outcomes, failure) catch |err| {
        progress.status = @intFromEnum(status.fromError(err));
        progress.checkpoint = load.failed_checkpoint.load(.acquire);
    };
    table.remove(load);
    return progress;
}

/// Asks a load to stop. What it has written stays.
pub fn cancel(handle: u64) status.Error!void {
    table.mutex.lock();
    defer table.mutex.unlock();
    const load = try table.find(handle);
    load.cancelled.store(true, .release);
}

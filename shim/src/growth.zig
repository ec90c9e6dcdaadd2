//! Takes host memory from the system for a pool, on several threads side by side. Nearly all of the time goes to the
//! first touch of each page, which every processor can do.

const std = @import("std");
const host = @import("host.zig");
const runtime = @import("runtime.zig");
const status = @import("status.zig");
const sync = @import("sync.zig");
const Failure = status.Failure;
const Pool = host.Pool;

/// More threads than this gain nothing; a smaller machine has fewer.
const threads_at_most = 4;
/// A slab. Below this, a further thread costs more than it saves.
const shared_bytes_at_least = host.slab_bytes_at_most;

/// Takes memory from the system until `wanted_bytes`, a multiple of the block size, are free in the pool. Keeps them
/// from being trimmed until they are taken. Called inside a `Scope` of `device`. After a failure what was taken by then
/// stays free.
pub fn reserve(
    pool: *Pool,
    device: u32,
    wanted_bytes: u64,
    interrupt: sync.Interrupt,
    failure: *Failure,
) status.Error!void {
    const before = pool.counts().reserved_bytes;
    switch (try tryReserve(pool, device, wanted_bytes, interrupt, failure)) {
        .granted => {},
        .refused => |refusal| {
            pool.expect(before);
            return refusal;
        },
    }
}

const Reservation = union(enum) {
    granted,
    /// With this error, which `failure` describes.
    refused: status.Error,
};

/// As `reserve`, but a refusal of the system's is no failure: what is free by then is kept from being trimmed.
pub fn tryReserve(
    pool: *Pool,
    device: u32,
    wanted_bytes: u64,
    interrupt: sync.Interrupt,
    failure: *Failure,
) status.Error!Reservation {
    const before = pool.counts().reserved_bytes;
    const missing_bytes = pool.want(wanted_bytes);
    if (missing_bytes == 0) return .granted;
    var growth: Growth = .init(pool, device, missing_bytes, interrupt);
    if (pool.source == .page_locked) growth.start(.beside_caller);
    growth.runHere();
    const end = growth.finish(failure) orelse return .granted;
    switch (end) {
        .failed => |err| {
            pool.expect(before);
            return err;
        },
        .refused => |refusal| {
            pool.expect(@max(before, @min(wanted_bytes, pool.counts().free_bytes)));
            return .{ .refused = refusal };
        },
    }
}

/// How many bytes a pool is to grow by, and how far that is. Threads of its own need the device of their context.
pub const Growth = struct {
    pool: *Pool,
    device: u32,
    interrupt: sync.Interrupt,
    /// What follows is under the pool's mutex. Bytes that no thread has begun to take.
    missing_bytes: u64,
    /// What a thread takes at a time.
    piece_bytes: u64,
    /// Threads that take memory now.
    running: usize = 0,
    /// Signalled when the pool has grown, and when a thread ends.
    changed: sync.Condition = .{},
    end: ?End = null,
    failure: Failure = .{},
    threads: [threads_at_most]?sync.Thread = @splat(null),

    /// Why it has stopped before nothing was missing.
    const End = union(enum) {
        /// The system has no more.
        refused: status.Error,
        failed: status.Error,
    };

    /// `missing_bytes` is a multiple of the block size.
    pub fn init(pool: *Pool, device: u32, missing_bytes: u64, interrupt: sync.Interrupt) Growth {
        const share = Pool.blockSize(missing_bytes / threadCount(missing_bytes));
        return .{
            .pool = pool,
            .device = device,
            .interrupt = interrupt,
            .missing_bytes = missing_bytes,
            .piece_bytes = @min(share, host.slab_bytes_at_most),
        };
    }

    /// Whether memory of this size is taken on several threads.
    pub fn isShared(missing_bytes: u64) bool {
        return missing_bytes > shared_bytes_at_least;
    }

    fn threadCount(missing_bytes: u64) u64 {
        if (!isShared(missing_bytes)) return 1;
        return @min(std.Thread.getCpuCount() catch 1, threads_at_most);
    }

    /// Starts threads that take memory while the caller does something else, or fewer where the system refuses.
    pub fn start(self: *Growth, already: enum { alone, beside_caller }) void {
        const wanted = threadCount(self.missing_bytes) - @intFromBool(already == .beside_caller);
        for (self.threads[0..wanted]) |*thread| {
            self.countThread(.begins);
            thread.* = sync.Thread.spawn(runBeside, .{self}) catch null;
            if (thread.* == null) self.countThread(.ends);
        }
    }

    /// Takes memory on this thread, inside a `Scope` of the device, until none is missing or it has stopped.
    fn runHere(self: *Growth) void {
        self.countThread(.begins);
        self.takePieces();
    }

    /// Joins its threads. Returns why it has stopped early, which `failure` then describes.
    pub fn finish(self: *Growth, failure: *Failure) ?End {
        for (&self.threads) |*thread| {
            if (thread.*) |running| running.join();
            thread.* = null;
        }
        self.pool.mutex.lock();
        defer self.pool.mutex.unlock();
        if (self.end != null) failure.* = self.failure;
        return self.end;
    }

    /// Stops it. Its threads end soon.
    pub fn stop(self: *Growth) void {
        self.pool.mutex.lock();
        defer self.pool.mutex.unlock();
        self.missing_bytes = 0;
    }

    /// Waits until the pool has `wanted_bytes` free. Nobody else takes any. False when it has stopped before.
    pub fn waitFor(self: *Growth, wanted_bytes: u64) bool {
        self.pool.mutex.lock();
        defer self.pool.mutex.unlock();
        while (self.pool.free_bytes < wanted_bytes) {
            if (self.end != null) return false;
            if (self.running > 0) {
                self.changed.wait(&self.pool.mutex);
                continue;
            }
            if (self.missing_bytes == 0) return false;
            // No thread could be started.
            self.pool.mutex.unlock();
            self.runHere();
            self.pool.mutex.lock();
        }
        return true;
    }

    fn runBeside(self: *Growth) void {
        var failure: Failure = .{};
        // Without a context it takes nothing: the others do.
        const scope = runtime.Scope.enter(self.pool.source.page_locked, self.device, &failure) catch
            return self.countThread(.ends);
        defer scope.abandon();
        self.takePieces();
    }

    fn countThread(self: *Growth, what: enum { begins, ends }) void {
        self.pool.mutex.lock();
        defer self.pool.mutex.unlock();
        switch (what) {
            .begins => self.running += 1,
            .ends => self.running -= 1,
        }
        self.changed.broadcast();
    }

    fn takePieces(self: *Growth) void {
        var failure: Failure = .{};
        const pool = self.pool;
        pool.mutex.lock();
        defer pool.mutex.unlock();
        defer {
            self.running -= 1;
            self.changed.broadcast();
        }
        while (self.end == null and self.missing_bytes > 0) {
            self.interrupt.check() catch |err| return self.noteEnd(.{ .failed = err }, &failure);
            const size_bytes = @min(self.missing_bytes, self.piece_bytes);
            self.missing_bytes -= size_bytes;
            pool.mutex.unlock();
            const created = pool.createSlab(size_bytes, &failure);
            pool.mutex.lock();
            switch (created catch |err| return self.noteEnd(.{ .failed = err }, &failure)) {
                .created => |slab| pool.append(slab),
                .refused => |refusal| return self.noteEnd(.{ .refused = refusal }, &failure),
            }
            self.changed.broadcast();
        }
    }

    fn noteEnd(self: *Growth, end: End, failure: *const Failure) void {
        if (self.end != null) return;
        self.end = end;
        self.failure = failure.*;
    }
};

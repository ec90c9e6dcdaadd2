//! The one attachment of this process to AscendCL: opened by the first `attach`, shared by every Worker and native thread,
//! torn down by the last `detach`. Calls in progress hold it open.

const std = @import("std");
const backup = @import("backup.zig");
const executor = @import("executor.zig");
const files = @import("files.zig");
const heap = @import("heap.zig");
const host = @import("host.zig");
const loader = @import("loader.zig");
const registry = @import("registry.zig");
const runtime = @import("runtime.zig");
const status = @import("status.zig");
const sync = @import("sync.zig");
const vmm = @import("vmm.zig");
const Failure = status.Failure;

pub const Allocation = struct { address: u64, segment_id: u64 };

pub const Session = struct {
    runtime: runtime.Runtime,
    registry: registry.Registry,
    pool: host.Pool,
    executor: executor.Executor,
    memory: vmm.Memory,

    /// A new segment of at least `size_bytes`, mapped.
    pub fn allocate(self: *Session, device: u32, tag: u32, size_bytes: u64, failure: *Failure) status.Error!Allocation {
        if (size_bytes == 0) return error.InvalidSize;
        // What an earlier release could not give back may be what is missing now.
        if (self.registry.hasDoomed()) self.executor.requestSweep();
        const granularity = try self.runtime.granularityOf(device, failure);
        const padded = std.math.add(u64, size_bytes, granularity - 1) catch return error.InvalidSize;
        const segment = try self.registry.create(device, tag, padded & ~(@as(u64, granularity) - 1), size_bytes);
        self.acquire(segment, failure) catch |err| {
            self.discard(segment);
            return err;
        };
        const address = segment.address;
        const segment_id = self.registry.insert(segment) orelse {
            failure.describe("aclrtReserveMemAddress", 0, address, segment.size_bytes, "AscendCL gave out an address that is in use");
            self.discard(segment);
            return error.DeviceLost;
        };
        return .{ .address = address, .segment_id = segment_id };
    }

    fn acquire(self: *Session, segment: *registry.Segment, failure: *Failure) status.Error!void {
        const scope = try runtime.Scope.enter(&self.runtime, segment.device, failure);
        errdefer scope.abandon();
        try self.memory.reserve(segment, failure);
        try self.memory.back(segment, failure);
        try scope.leave(failure);
    }

    /// Undoes a failed allocation. What cannot be given back is kept, to be tried again.
    fn discard(self: *Session, segment: *registry.Segment) void {
        var ignored: Failure = .{};
        self.memory.release(segment, null, &ignored) catch return self.registry.keep(segment);
        self.registry.destroy(segment);
    }

    /// Makes a checkpoint the backup of a segment that is awake.
    pub fn useCheckpoint(self: *Session, address: u64, id: u64, handle: u64, extents: []const files.Extent, failure: *Failure) status.Error!void {
        const file = try files.checkpoint(handle);
        errdefer file.release();
        try file.checkUnchanged(failure);
        const own = heap.allocator.dupe(files.Extent, extents) catch return error.OutOfHostMemory;
        errdefer heap.allocator.free(own);
        const segment = try self.registry.pin(address, id, 0, 0, .reading);
        defer self.registry.unpin(segment);
        var end: u64 = 0;
        for (own) |extent| {
            const fits = extent.segment_offset_bytes >= end and extent.segment_offset_bytes <= segment.size_bytes and
                extent.size_bytes > 0 and extent.size_bytes <= segment.size_bytes - extent.segment_offset_bytes;
            if (!fits or !file.holds(extent)) return error.OutOfBounds;
            end = extent.segment_offset_bytes + extent.size_bytes;
        }
        // What a failed sleep left: its copies may be running still.
        if (self.registry.hasLeftBackup(segment)) try self.runtime.synchronizeDevice(segment.device, null, failure);
        const replaced = self.registry.replaceBackup(segment, .{ .file = .{ .file = file, .extents = own } });
        replaced.drop(&self.pool);
    }

    pub fn seal(self: *Session, tag: u32, sealed: bool) status.Error!void {
        var dropped: std.ArrayList(backup.Backup) = .empty;
        defer dropped.deinit(heap.allocator);
        try self.registry.seal(tag, sealed, &dropped);
        if (dropped.items.len == 0) return;
        for (dropped.items) |each| each.drop(&self.pool);
        self.executor.requestSweep(); // which gives back what nothing retains
    }

    /// Releases a segment: now, or when the plan that moves it has ended.
    pub fn free(self: *Session, address: u64, id: ?u64, failure: *Failure) status.Error!void {
        const segment = try self.registry.doom(address, id) orelse return;
        self.memory.release(segment, null, failure) catch |err| {
            self.registry.stopMoving(segment);
            return err;
        };
        self.registry.destroy(segment);
        var ignored: Failure = .{};
        self.pool.trim(&ignored) catch return; // what is not given back serves the next sleep
    }
};

/// Who is attached, by thread: a Worker that was terminated cannot detach, so threads that are no more do not count.
const Attachments = struct {
    const most = 1024;

    threads: [most]std.os.linux.pid_t = undefined,
    count: usize = 0,

    fn add(self: *Attachments, thread: std.os.linux.pid_t) status.Error!void {
        if (self.count == most) self.dropDead();
        if (self.count == most) return error.OutOfHostMemory;
        self.threads[self.count] = thread;
        self.count += 1;
    }

    /// Removes one attachment of a thread, and those of threads that are no more.
    fn remove(self: *Attachments, thread: std.os.linux.pid_t) status.Error!void {
        self.drop(std.mem.indexOfScalar(std.os.linux.pid_t, self.threads[0..self.count], thread) orelse return error.NotOpen);
        self.dropDead();
    }

    fn dropDead(self: *Attachments) void {
        var index: usize = 0;
        while (index < self.count) {
            if (isAlive(self.threads[index])) index += 1 else self.drop(index);
        }
    }

    fn drop(self: *Attachments, index: usize) void {
        self.count -= 1;
        self.threads[index] = self.threads[self.count];
    }

    fn isAlive(thread: std.os.linux.pid_t) bool {
        var buffer: [64]u8 = undefined;
        const path = std.fmt.bufPrintZ(&buffer, "/proc/self/task/{d}", .{thread}) catch return true;
        return std.c.access(path, std.c.F_OK) == 0;
    }
};

const State = enum { closed, open, closing };

const Gate = struct {
    mutex: sync.Mutex = .{},
    changed: sync.Condition = .{},
    state: State = .closed,
    attachments: Attachments = .{},
    /// Calls in progress.
    users: u32 = 0,
    thread: ?sync.Thread = null,
    /// The path that the session was opened with; empty for a search.
    requested: [1024]u8 = @splat(0),
    /// Numbers the closings, so that each can be followed by the one who began it.
    closing: u64 = 0,
    closer: std.os.linux.pid_t = 0,
    close_error: ?status.Error = null,
    close_failure: Failure = .{},
};

var gate: Gate = .{};
var session: Session = undefined;
/// What the last attempt to open a library tried.
var report: loader.Report = .{};

/// Copies as much of the report as fits, and returns how much that is.
pub fn copyReport(target: []u8) usize {
    gate.mutex.lock();
    defer gate.mutex.unlock();
    const length = @min(target.len, report.length);
    @memcpy(target[0..length], report.text[0..length]);
    return length;
}

/// The open session, held until `leave`; null when there is none.
pub fn enter() ?*Session {
    gate.mutex.lock();
    defer gate.mutex.unlock();
    if (gate.state != .open) return null;
    gate.users += 1;
    return &session;
}

pub fn leave() void {
    gate.mutex.lock();
    defer gate.mutex.unlock();
    gate.users -= 1;
    if (gate.users == 0) gate.changed.broadcast();
}

/// Opens AscendCL, or joins the session that is open, which must have been opened with the same `path`. Refused as busy
/// while a session is closing.
pub fn attach(path: ?[*:0]const u8, failure: *Failure) status.Error!void {
    gate.mutex.lock();
    defer gate.mutex.unlock();
    const requested: []const u8 = if (path) |text| std.mem.span(text) else "";
    switch (gate.state) {
        .closing => return error.Busy,
        .open => {
            if (!std.mem.eql(u8, requested, std.mem.sliceTo(&gate.requested, 0))) {
                failure.describe("", 0, 0, 0, session.runtime.library.pathText());
                return error.ConfigConflict;
            }
        },
        .closed => {
            try open(path, failure);
            status.copyText(&gate.requested, requested);
            gate.attachments = .{};
            gate.state = .open;
        },
    }
    try gate.attachments.add(std.os.linux.gettid());
}

fn open(path: ?[*:0]const u8, failure: *Failure) status.Error!void {
    joinThread();
    report = .{};
    const library = loader.open(path, &report) catch |err| {
        const text = report.text[0..report.length];
        const reason = if (path == null) "" else if (std.mem.indexOfScalar(u8, text, '\t')) |tab| text[tab + 1 ..] else text;
        failure.describe("", 0, 0, 0, reason);
        return err;
    };
    session.runtime = try runtime.Runtime.init(library, failure);
    errdefer session.runtime.abandon();
    session.pool = .{ .runtime = &session.runtime };
    session.registry = .{};
    errdefer session.registry.deinit();
    session.memory = .{ .runtime = &session.runtime, .registry = &session.registry, .pool = &session.pool };
    session.executor = .{ .memory = session.memory };
    _ = try session.registry.tags.intern("default");
    gate.thread = try sync.Thread.spawn(executorThread, .{});
}

/// Gives up this thread's attachment. With the last one everything is released on the executor's thread: then this returns
/// the number that `pollClose` follows the closing by, and else 0.
pub fn detach() status.Error!u64 {
    gate.mutex.lock();
    defer gate.mutex.unlock();
    if (gate.state != .open) return error.NotOpen;
    const thread = std.os.linux.gettid();
    try gate.attachments.remove(thread);
    if (gate.attachments.count > 0) return 0;
    gate.state = .closing;
    gate.closing += 1;
    gate.closer = thread;
    session.executor.stop();
    return gate.closing;
}

/// True once the closing has ended. When it failed the session is open again, as far as it goes, and whoever began it is
/// attached again and can close it again.
pub fn pollClose(closing: u64, failure: *Failure) status.Error!bool {
    gate.mutex.lock();
    defer gate.mutex.unlock();
    if (gate.closing != closing) return true;
    if (gate.state == .closing) return false;
    const err = gate.close_error orelse {
        joinThread(); // it has said its last word
        return true;
    };
    failure.* = gate.close_failure;
    return err;
}

fn joinThread() void {
    if (gate.thread) |thread| thread.join();
    gate.thread = null;
}

fn executorThread() void {
    while (true) {
        session.executor.runUntilStopped();
        waitForUsers();
        var failure: Failure = .{};
        tearDown(&failure) catch |err| {
            session.executor.restart();
            finishClose(.open, err, &failure);
            continue;
        };
        finishClose(.closed, null, &failure);
        return;
    }
}

fn waitForUsers() void {
    gate.mutex.lock();
    defer gate.mutex.unlock();
    while (gate.users > 0) gate.changed.wait(&gate.mutex);
}

fn finishClose(state: State, err: ?status.Error, failure: *const Failure) void {
    gate.mutex.lock();
    defer gate.mutex.unlock();
    gate.close_error = err;
    gate.close_failure = failure.*;
    gate.state = state;
    // There is room: its attachment was removed to get here.
    if (state == .open) gate.attachments.add(gate.closer) catch return;
}

/// Returns everything that can be returned. Nobody else is inside any more.
fn tearDown(failure: *Failure) status.Error!void {
    session.registry.doomAll();
    session.pool.expect(0);
    session.pool.retain(0);
    try session.executor.settleAll(null, failure);
    try session.executor.releaseAllDoomed(null, failure);
    try session.runtime.closeDevices(failure);
    try session.runtime.finalize(failure);
    session.registry.deinit();
}

test "a thread attaches when every attachment left is of a thread that has ended" {
    const beyond_any_thread = 1 << 30;
    var attachments: Attachments = .{};
    for (0..Attachments.most) |_| try attachments.add(beyond_any_thread);
    try attachments.add(std.os.linux.gettid());
    try std.testing.expectEqual(1, attachments.count);
    for (1..Attachments.most) |_| try attachments.add(std.os.linux.gettid());
    try std.testing.expectError(error.OutOfHostMemory, attachments.add(std.os.linux.gettid()));
}

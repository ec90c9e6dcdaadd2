//! The one attachment of this process to AscendCL: opened by the first `attach`, shared by every Worker and native thread,
//! torn down by the last `detach`. Calls in progress hold it open.

const std = @import("std");
const build_options = @import("build_options");
const executor = @import("executor.zig");
const loader = @import("loader.zig");
const registry = @import("registry.zig");
const runtime = @import("runtime.zig");
const status = @import("status.zig");
const sync = @import("sync.zig");
const vmm = @import("vmm.zig");
const Failure = status.Failure;

pub const Session = struct {
    runtime: runtime.Runtime,
    registry: registry.Registry,
    executor: executor.Executor,
    memory: vmm.Memory,
    /// Set while the table may hold segments whose release failed.
    leftovers: std.atomic.Value(bool),

    /// A new segment of at least `size_bytes`, mapped; returns its address.
    pub fn allocate(self: *Session, device: u32, tag: u32, size_bytes: u64, failure: *Failure) status.Error!u64 {
        if (size_bytes == 0) return error.InvalidSize;
        if (self.leftovers.load(.acquire)) self.retryLeftovers();
        const granularity = try self.runtime.granularityOf(device, failure);
        const padded = std.math.add(u64, size_bytes, granularity - 1) catch return error.InvalidSize;
        const segment = try self.registry.create(device, tag, padded & ~(@as(u64, granularity) - 1), size_bytes);
        self.acquire(segment, failure) catch |err| {
            self.discard(segment);
            return err;
        };
        const address = segment.address;
        self.registry.insert(segment);
        return address;
    }

    fn acquire(self: *Session, segment: *registry.Segment, failure: *Failure) status.Error!void {
        try self.memory.reserve(segment, failure);
        try self.memory.back(segment, failure);
    }

    /// Undoes a failed allocation. What cannot be given back is kept in the table, to be tried again.
    fn discard(self: *Session, segment: *registry.Segment) void {
        var ignored: Failure = .{};
        if (self.memory.release(segment, &ignored)) {
            self.registry.destroy(segment);
        } else |_| {
            segment.doomed = true;
            self.registry.insert(segment);
            self.leftovers.store(true, .release);
        }
    }

    /// What an earlier release could not give back would be missing from what is allocated next.
    fn retryLeftovers(self: *Session) void {
        self.leftovers.store(false, .release);
        var ignored: Failure = .{};
        self.executor.releaseAllDoomed(&ignored) catch self.leftovers.store(true, .release);
    }

    /// Releases a segment: now, or when the plan that moves it has ended.
    pub fn free(self: *Session, address: u64, failure: *Failure) status.Error!void {
        const segment = try self.registry.doom(address) orelse return;
        self.memory.release(segment, failure) catch |err| {
            self.registry.stopMoving(segment);
            self.leftovers.store(true, .release);
            return err;
        };
        self.registry.remove(segment);
    }
};

/// Who is attached, by thread: a Worker that was terminated cannot detach, so threads that are no more do not count.
const Attachments = struct {
    const most = 1024;

    threads: [most]std.os.linux.pid_t = undefined,
    count: usize = 0,

    fn add(self: *Attachments) status.Error!void {
        if (self.count == most) return error.OutOfHostMemory;
        self.threads[self.count] = std.os.linux.gettid();
        self.count += 1;
    }

    /// Removes this thread's attachment, or another's where it has none, and those of threads that are no more.
    fn remove(self: *Attachments) void {
        const own = std.mem.indexOfScalar(std.os.linux.pid_t, self.threads[0..self.count], std.os.linux.gettid());
        self.drop(own orelse 0);
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
    thread: ?std.Thread = null,
    close_status: status.Status = .ok,
    close_failure: Failure = .{},
};

var gate: Gate = .{};
var session: Session = undefined;
/// What the last attempt to open a library tried.
pub var report: loader.Report = .{};

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

/// Opens AscendCL, or joins the session that is open, which must have been opened with the same `path`.
pub fn attach(path: ?[*:0]const u8, failure: *Failure) status.Error!void {
    gate.mutex.lock();
    defer gate.mutex.unlock();
    while (gate.state == .closing) gate.changed.wait(&gate.mutex);
    if (gate.state == .open) {
        const wanted: []const u8 = if (path) |text| std.mem.span(text) else "";
        const opened = session.runtime.library.pathText();
        if (wanted.len > 0 and !build_options.link_ascendcl and !std.mem.eql(u8, wanted, opened)) {
            failure.describe("", 0, 0, 0, opened);
            return error.ConfigConflict;
        }
        return gate.attachments.add();
    }
    try open(path, failure);
    gate.attachments = .{};
    try gate.attachments.add();
    gate.state = .open;
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
    session.registry = .{};
    errdefer session.registry.deinit();
    session.memory = .{ .runtime = &session.runtime, .registry = &session.registry };
    session.executor = .{ .memory = session.memory };
    session.leftovers = .init(false);
    _ = try session.registry.tags.intern("default");
    gate.thread = std.Thread.spawn(.{}, executorThread, .{}) catch return error.OutOfHostMemory;
}

/// Gives up one attachment. With the last one everything is released on the executor's thread; `pollClose` follows it.
pub fn detach() status.Error!void {
    gate.mutex.lock();
    defer gate.mutex.unlock();
    if (gate.state != .open) return error.NotOpen;
    if (gate.attachments.count > 0) gate.attachments.remove();
    if (gate.attachments.count > 0) return;
    gate.state = .closing;
    gate.close_status = .ok;
    session.executor.stop();
}

/// True once closing has ended. When it failed the session is open again, as far as it goes, and can be closed again.
pub fn pollClose(failure: *Failure) status.Error!bool {
    gate.mutex.lock();
    defer gate.mutex.unlock();
    if (gate.state == .closing) return false;
    if (gate.close_status == .ok) return true;
    failure.* = gate.close_failure;
    const Outcome = status.Error;
    inline for (@typeInfo(Outcome).error_set.?) |entry| {
        const err = @field(Outcome, entry.name);
        if (status.fromError(err) == gate.close_status) return err;
    }
    return true;
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
        if (tearDown(&failure)) {
            finishClose(.closed, .ok, &failure);
            return;
        } else |err| {
            session.executor.stopping = false;
            finishClose(.open, status.fromError(err), &failure);
        }
    }
}

fn waitForUsers() void {
    gate.mutex.lock();
    defer gate.mutex.unlock();
    while (gate.users > 0) gate.changed.wait(&gate.mutex);
}

fn finishClose(state: State, outcome: status.Status, failure: *const Failure) void {
    gate.mutex.lock();
    defer gate.mutex.unlock();
    gate.close_status = outcome;
    gate.close_failure = failure.*;
    gate.state = state;
    gate.changed.broadcast();
}

/// Returns everything that can be returned. Nobody else is inside any more.
fn tearDown(failure: *Failure) status.Error!void {
    session.registry.doomAll();
    try session.executor.releaseAllDoomed(failure);
    try session.runtime.closeDevices(failure);
    try session.runtime.finalize(failure);
    session.executor.deinit();
    session.registry.deinit();
}

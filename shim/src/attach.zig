//! Who is attached to AscendCL in this process. The first attachment opens it, every Worker and native thread shares
//! it, and the last one to go closes it. Calls in progress hold it open.

const std = @import("std");
const loader = @import("loader.zig");
const Session = @import("session.zig").Session;
const status = @import("status.zig");
const sync = @import("sync.zig");
const Failure = status.Failure;

/// Attachments by thread. A terminated Worker cannot detach, so threads that have ended do not count.
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

    /// Removes one attachment of a thread, and those of threads that have ended.
    fn remove(self: *Attachments, thread: std.os.linux.pid_t) status.Error!void {
        const attached = self.threads[0..self.count];
        self.drop(std.mem.indexOfScalar(std.os.linux.pid_t, attached, thread) orelse return error.NotOpen);
        self.dropDead();
    }

    fn dropDead(self: *Attachments) void {
        var index: usize = 0;
        while (index < self.count) {
            if (sync.isThreadAlive(self.threads[index])) index += 1 else self.drop(index);
        }
    }

    fn drop(self: *Attachments, index: usize) void {
        self.count -= 1;
        self.threads[index] = self.threads[self.count];
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
    /// Numbers each closing, for `pollClose`.
    closing: u64 = 0,
    closer: std.os.linux.pid_t = 0,
    close_error: ?status.Error = null,
    close_failure: Failure = .{},
};

var gate: Gate = .{};
/// Set while the gate is open or closing.
var session: Session = undefined;
/// The paths that the last attempt to open a library tried.
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
    loader.keepOwnLibrary();
    const library = loader.open(path, &report) catch |err| {
        const text = report.text[0..report.length];
        const tab = std.mem.indexOfScalar(u8, text, '\t');
        const reason = if (path == null) "" else if (tab) |index| text[index + 1 ..] else text;
        failure.describe("", 0, 0, 0, reason);
        return err;
    };
    try session.open(library, null, failure);
    errdefer session.abandon();
    gate.thread = try sync.Thread.spawn(executorThread, .{});
}

/// Opens `library` for a program that it is loaded in already, beside that program. Nobody attaches to such a session:
/// it is open until `closeBeside`.
pub fn openBeside(library: loader.Library, beside: Session.Beside, failure: *Failure) status.Error!*Session {
    gate.mutex.lock();
    defer gate.mutex.unlock();
    if (gate.state != .closed) return error.Busy;
    joinThread();
    try session.open(library, beside, failure);
    errdefer session.abandon();
    gate.thread = try sync.Thread.spawn(executorThread, .{});
    gate.state = .open;
    return &session;
}

/// Cancels what runs, gives everything back and returns. After a failure the session is open still.
pub fn closeBeside(failure: *Failure) status.Error!void {
    {
        gate.mutex.lock();
        defer gate.mutex.unlock();
        if (gate.state != .open) return error.NotOpen;
        gate.state = .closing;
        gate.closing += 1;
        session.executor.stop();
        while (gate.state == .closing) gate.changed.wait(&gate.mutex);
        if (gate.close_error) |err| {
            failure.* = gate.close_failure;
            return err;
        }
    }
    joinThread();
}

/// In a child of fork(), which has none of the threads: forgets the parent's session.
pub fn forget() void {
    gate = .{ .closing = gate.closing };
}

/// Gives up this thread's attachment. With the last one everything is released on the executor's thread: then this
/// returns the number that `pollClose` follows the closing by, and else 0.
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

/// True once the closing has ended. After a failure the session is open again, and the thread that began the closing
/// is attached again and can close it again.
pub fn pollClose(closing: u64, failure: *Failure) status.Error!bool {
    gate.mutex.lock();
    defer gate.mutex.unlock();
    if (gate.closing != closing) return true;
    if (gate.state == .closing) return false;
    const err = gate.close_error orelse {
        if (gate.state == .closed) joinThread(); // it runs no more; when open, it is the next session's
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
        session.close(&failure) catch |err| {
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
    gate.changed.broadcast();
    // There is room: its attachment was removed to get here.
    if (state == .open and gate.closer != 0) gate.attachments.add(gate.closer) catch return;
}

test "Attachments.add makes room when only threads that have ended are attached" {
    const beyond_any_thread = 1 << 30;
    var attachments: Attachments = .{};
    for (0..Attachments.most) |_| try attachments.add(beyond_any_thread);
    try attachments.add(std.os.linux.gettid());
    try std.testing.expectEqual(1, attachments.count);
    for (1..Attachments.most) |_| try attachments.add(std.os.linux.gettid());
    try std.testing.expectError(error.OutOfHostMemory, attachments.add(std.os.linux.gettid()));
}

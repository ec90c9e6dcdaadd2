//! Serves this process's session to controllers on a Unix socket, on one thread that never waits for a device.
//! Whatever a client sends is answered, or its connection is closed.

const std = @import("std");
const Connection = @import("control_connection.zig").Connection;
const engines = @import("engine.zig");
const linux = std.os.linux;
const Socket = @import("socket_folder.zig").Socket;
const sockets = @import("sockets.zig");
const status = @import("status.zig");
const sync = @import("sync.zig");
const wire = @import("wire.zig");
const Engine = engines.Engine;
const Failure = status.Failure;

const most_connections = 32;

const State = struct {
    engine: *const Engine,
    socket: Socket,
    start_time: u64,
    /// Until then no client is accepted.
    full_until: u64 = 0,
    thread: sync.Thread = undefined,
    stopping: std.atomic.Value(bool) = .init(false),
    /// 1 once the thread has ended.
    ended: std.atomic.Value(u32) = .init(0),
    /// Held while a slot changes, so that a child of fork() finds each whole.
    slots: sync.Mutex = .{},
    connections: [most_connections]?Connection = @splat(null),
};

/// Guards the beginning and the end of `state`. Its content is the thread's.
var mutex: sync.Mutex = .{};
var state: ?State = null;

const no_descriptor = -1;
/// Wakes the thread. It outlives `state`, since any thread may use it at any time.
var wakeup: std.atomic.Value(i32) = .init(no_descriptor);

/// Makes the socket and serves `engine` on it, until `stop`.
pub fn start(engine: *const Engine, failure: *Failure) status.Error!void {
    mutex.lock();
    defer mutex.unlock();
    if (state != null) return error.Busy;
    if (wakeup.load(.acquire) == no_descriptor) {
        const created = linux.eventfd(0, linux.EFD.CLOEXEC | linux.EFD.NONBLOCK);
        if (linux.errno(created) != .SUCCESS) return error.OutOfHostMemory;
        wakeup.store(@intCast(created), .release);
    }
    const socket: Socket = try .open(failure);
    errdefer {
        socket.unlink();
        socket.close();
    }
    state = .{ .engine = engine, .socket = socket, .start_time = sockets.startTime(linux.getpid()) orelse 0 };
    errdefer state = null;
    engines.serve(engine);
    state.?.thread = try .spawn(run, .{&state.?});
}

/// A thread that answers does not wait, but may be held up by whoever opens or closes a session meanwhile.
const longest_stop_ns = std.time.ns_per_s;

/// Ends the thread and every connection, and removes the socket. Plans go on. Never holds up a process that ends.
pub fn stop() void {
    mutex.lock();
    defer mutex.unlock();
    const open = if (state) |*open| open else return;
    open.stopping.store(true, .release);
    announceChange();
    open.socket.unlink();
    const deadline = sync.now() +| longest_stop_ns;
    while (open.ended.load(.acquire) == 0) {
        if (sync.now() >= deadline) return; // its memory stays, and it ends by itself
        sync.waitWhile(&open.ended, 0, longest_stop_ns);
    }
    open.thread.join();
    open.socket.close();
    for (&open.connections) |*slot| if (slot.*) |*connection| connection.deinit();
    engines.serve(null);
    state = null;
}

/// The session ends: so do the connections of its clients, who know its numbers. The next session's may connect.
pub fn endSession() void {
    _ = engines.session.fetchAdd(1, .acq_rel);
    announceChange();
}

/// Before fork(): pair it with `afterFork`, in the parent and in the child.
pub fn beforeFork() void {
    mutex.lock();
    if (state) |*open| open.slots.lock();
}

/// The child has no control thread: it closes what it has inherited, so that clients see the parent's end.
pub fn afterFork(is_child: bool) void {
    if (state) |*open| {
        open.slots.unlock();
        if (is_child) forget(open);
    }
    mutex.unlock();
}

fn forget(open: *const State) void {
    for (&open.connections) |*slot| if (slot.*) |*connection| connection.abandon();
    open.socket.close();
    _ = linux.close(wakeup.swap(no_descriptor, .acq_rel)); // the parent's as well
    engines.serve(null);
    state = null;
}

/// Tells the server that `EngineInfo.changes` has changed. Any thread may call it; it neither waits nor fails.
pub fn announceChange() void {
    const one: u64 = 1;
    // A full counter wakes the thread as well.
    _ = linux.write(wakeup.load(.acquire), std.mem.asBytes(&one), @sizeOf(u64));
}

fn run(open: *State) void {
    serve(open);
    open.ended.store(1, .release);
    sync.wakeAll(&open.ended);
}

fn serve(open: *State) void {
    const name: [*:0]const u8 = "camem-control";
    _ = linux.prctl(@intFromEnum(linux.PR.SET_NAME), @intFromPtr(name), 0, 0, 0);
    while (!open.stopping.load(.acquire)) {
        if (!waitForEvents(open)) return;
        const changes = open.engine.changes();
        for (&open.connections) |*slot| {
            const connection = if (slot.*) |*connection| connection else continue;
            if (connection.session != engines.session.load(.acquire)) {
                fill(open, slot, null);
                continue;
            }
            connection.advance(changes) catch fill(open, slot, null);
        }
    }
}

/// Replaces what is in a slot.
fn fill(open: *State, slot: *?Connection, connection: ?Connection) void {
    open.slots.lock();
    defer open.slots.unlock();
    if (slot.*) |*old| old.deinit();
    slot.* = connection;
}

const full_pause_ns = std.time.ns_per_s;

/// False where the program has closed what it does not own.
fn waitForEvents(open: *State) bool {
    var polled: [most_connections + 2]linux.pollfd = undefined;
    const wakeup_descriptor = wakeup.load(.acquire);
    polled[0] = .{ .fd = wakeup_descriptor, .events = linux.POLL.IN, .revents = 0 };
    const is_full = sync.now() < open.full_until;
    const nobody = -1; // poll() leaves it out
    polled[1] = .{ .fd = if (is_full) nobody else open.socket.listener, .events = linux.POLL.IN, .revents = 0 };
    var count: usize = 2;
    var deadline: u64 = if (is_full) open.full_until else std.math.maxInt(u64);
    for (&open.connections) |*slot| {
        const connection = if (slot.*) |*connection| connection else continue;
        if (connection.watch_until) |until| deadline = @min(deadline, until);
        polled[count] = .{ .fd = connection.descriptor, .events = connection.events(), .revents = 0 };
        count += 1;
    }
    const polled_result = linux.poll(&polled, count, timeoutMs(deadline));
    const code = linux.errno(polled_result);
    if (code == .INTR or code == .NOMEM) return true;
    const is_lost = (polled[0].revents | polled[1].revents) & (linux.POLL.NVAL | linux.POLL.ERR) != 0;
    if (code != .SUCCESS or is_lost) return false;
    var drained: u64 = 0;
    if (polled[0].revents != 0) _ = linux.read(wakeup_descriptor, std.mem.asBytes(&drained), @sizeOf(u64));
    if (polled[1].revents != 0) accept(open);
    return true;
}

fn timeoutMs(deadline: u64) i32 {
    const forever = -1;
    if (deadline == std.math.maxInt(u64)) return forever;
    return @intCast((deadline -| sync.now()) / std.time.ns_per_ms + 1); // a second at most
}

/// When this process was started, as its controllers know it.
pub fn startTime() u64 {
    return if (state) |open| open.start_time else 0;
}

fn accept(open: *State) void {
    while (true) {
        const accepted = linux.accept4(open.socket.listener, null, null, linux.SOCK.CLOEXEC | linux.SOCK.NONBLOCK);
        switch (linux.errno(accepted)) {
            .SUCCESS => {},
            // The program has no descriptor left, and the client waits on.
            .MFILE, .NFILE, .NOBUFS, .NOMEM => {
                open.full_until = sync.now() +| full_pause_ns;
                return;
            },
            else => return,
        }
        admit(open, @intCast(accepted));
    }
}

fn greetingStatus(peer: *const sockets.Peer, has_room: bool) status.Status {
    if (!peer.mayControl()) return .engine_refused;
    return if (has_room) .ok else .busy;
}

fn admit(open: *State, descriptor: i32) void {
    var connection: Connection = .{ .descriptor = descriptor, .session = engines.session.load(.acquire) };
    var failure: Failure = .{};
    const peer = sockets.peerOf(descriptor, &failure) catch return connection.deinit();
    const slot = if (!peer.mayControl()) null else for (&open.connections) |*slot| {
        if (slot.* == null) break slot;
    } else null;
    const greeting: wire.Greeting = .{
        .status = @intFromEnum(greetingStatus(&peer, slot != null)),
        .start_time = open.start_time,
        .pid = @intCast(linux.getpid()),
    };
    connection.greet(&greeting) catch return connection.deinit();
    if (slot) |free| return fill(open, free, connection);
    connection.advance(0) catch return connection.deinit();
    connection.deinit();
}

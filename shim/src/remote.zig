//! Calls to the shim of an engine in another process, over its socket: an export for each served call, with the
//! connection as its first parameter. Each call waits for its reply, which the engine's control thread gives at once.

const std = @import("std");
const c_function = @import("c_function");
const heap = @import("heap.zig");
const linux = std.os.linux;
const served_calls = @import("served_calls.zig");
const sockets = @import("sockets.zig");
const status = @import("status.zig");
const sync = @import("sync.zig");
const wire = @import("wire.zig");
const Failure = status.Failure;

/// The numbers of the served calls.
pub const calls = blk: {
    var numbers: [served_calls.names.len]usize = undefined;
    for (&numbers, 0..) |*number, index| number.* = index;
    break :blk numbers;
};

/// The name of a served call's export for clients.
pub fn exportName(comptime call: usize) [:0]const u8 {
    return "camem_remote_" ++ served_calls.names[call]["camem_".len..];
}

/// The signature of a served call with the connection before its parameters.
pub fn WithConnection(comptime call: usize) type {
    const params = @typeInfo(served_calls.Function(call)).@"fn".params;
    var types: [params.len + 1]type = undefined;
    types[0] = u64;
    for (params, types[1..]) |parameter, *T| T.* = parameter.type.?;
    return @Fn(&types, &@splat(.{}), i32, .{});
}

/// The function behind a served call's export for clients.
pub fn functionOf(comptime call: usize) *const c_function.Of(WithConnection(call)) {
    return c_function.from(WithConnection(call), struct {
        fn entry(arguments: anytype) i32 {
            return callRemote(call, arguments);
        }
    }.entry);
}

const Connection = struct {
    handle: u64,
    descriptor: i32,
    timeout_ns: u64,
    /// The table's and those of calls in progress.
    references: u32 = 1,
    node: std.DoublyLinkedList.Node = .{},
    /// One call at a time.
    mutex: sync.Mutex = .{},
    /// Whether a call has failed: what is on the stream is not known any more.
    broken: bool = false,
    buffer: wire.Bytes = .init(heap.allocator),

    fn destroy(self: *Connection) void {
        _ = linux.close(self.descriptor);
        self.buffer.deinit();
        heap.allocator.destroy(self);
    }

    /// Sends what is in the buffer, and replaces it with what follows the head of the reply.
    fn exchange(self: *Connection) sockets.Error!i32 {
        if (self.broken) return error.EngineGone;
        errdefer self.broken = true;
        const deadline = sync.now() +| self.timeout_ns;
        try sockets.sendAll(self.descriptor, self.buffer.items, deadline);
        var reply: wire.Reply = undefined;
        try sockets.receiveAll(self.descriptor, std.mem.asBytes(&reply), deadline);
        if (reply.length > wire.most_reply_bytes) return error.EngineGone;
        self.buffer.resize(reply.length) catch return error.OutOfHostMemory;
        try sockets.receiveAll(self.descriptor, self.buffer.items, deadline);
        return reply.status;
    }
};

const Table = struct {
    mutex: sync.Mutex = .{},
    connections: std.DoublyLinkedList = .{},
    last_handle: u64 = 0,

    fn add(self: *Table, connection: *Connection) void {
        self.mutex.lock();
        defer self.mutex.unlock();
        self.last_handle += 1;
        connection.handle = self.last_handle;
        self.connections.append(&connection.node);
    }

    fn find(self: *Table, handle: u64) ?*Connection {
        self.mutex.lock();
        defer self.mutex.unlock();
        const connection = self.at(handle) orelse return null;
        connection.references += 1;
        return connection;
    }

    fn release(self: *Table, connection: *Connection) void {
        self.mutex.lock();
        connection.references -= 1;
        const is_last = connection.references == 0;
        self.mutex.unlock();
        if (is_last) connection.destroy();
    }

    fn remove(self: *Table, handle: u64) ?*Connection {
        self.mutex.lock();
        defer self.mutex.unlock();
        const connection = self.at(handle) orelse return null;
        self.connections.remove(&connection.node);
        return connection;
    }

    fn at(self: *Table, handle: u64) ?*Connection {
        var next = self.connections.first;
        while (next) |node| : (next = node.next) {
            const connection: *Connection = @fieldParentPtr("node", node);
            if (connection.handle == handle) return connection;
        }
        return null;
    }
};

var table: Table = .{};

fn result(outcome: status.Error!void) i32 {
    return @intFromEnum(if (outcome) |_| status.Status.ok else |err| status.fromError(err));
}

/// Connects to the control socket at `path`, `length` bytes, of an engine of this user's. Each later call fails as
/// gone after `timeout_ns` without a reply; then, and once the engine has ended, so does every call after it. Pair it
/// with `camem_remote_close`. `start_time` is when the engine's process began, in clock ticks.
pub fn camem_remote_connect(
    path: [*]const u8,
    length: u64,
    timeout_ns: u64,
    connection: *u64,
    pid: *u32,
    start_time: *u64,
    failure: *Failure,
) callconv(.c) i32 {
    const opened = connect(path[0..length], timeout_ns, failure) catch |err| return result(err);
    connection.* = opened.handle;
    pid.* = opened.greeting.pid;
    start_time.* = opened.greeting.start_time;
    return result({});
}

/// Ends a connection. The engine goes on as it is; so does a plan that was submitted on it.
pub fn camem_remote_close(connection: u64) callconv(.c) i32 {
    table.release(table.remove(connection) orelse return result(error.InvalidArgument));
    return result({});
}

const Opened = struct { handle: u64, greeting: wire.Greeting };

fn connect(path: []const u8, timeout_ns: u64, failure: *Failure) status.Error!Opened {
    const deadline = sync.now() +| timeout_ns;
    const descriptor = try sockets.connect(path, failure);
    errdefer _ = linux.close(descriptor);
    const greeting = try receiveGreeting(descriptor, deadline, failure);
    const connection = heap.allocator.create(Connection) catch return error.OutOfHostMemory;
    connection.* = .{ .handle = 0, .descriptor = descriptor, .timeout_ns = timeout_ns };
    table.add(connection);
    return .{ .handle = connection.handle, .greeting = greeting };
}

fn receiveGreeting(descriptor: i32, deadline: u64, failure: *Failure) status.Error!wire.Greeting {
    const peer = try sockets.peerOf(descriptor, failure);
    if (!peer.mayBeControlled()) {
        failure.describe("", 0, 0, 0, "it belongs to another user");
        return error.EngineRefused;
    }
    var greeting: wire.Greeting = undefined;
    sockets.receiveAll(descriptor, std.mem.asBytes(&greeting), deadline) catch |err| {
        failure.describe("", 0, 0, 0, if (err == error.TimedOut) "it does not answer" else "it closed the connection");
        return gone(err);
    };
    if (!greeting.isGreeting()) {
        failure.describe("", 0, 0, 0, "it is no control socket of camem's");
        return error.EngineRefused;
    }
    if (!greeting.isCompatible()) {
        failure.describe("", 0, 0, 0, "the engine's libcamem_preload.so is of another version of camem than this one");
        return error.EngineRefused;
    }
    if (greeting.status != @intFromEnum(status.Status.ok)) {
        const is_full = greeting.status == @intFromEnum(status.Status.busy);
        const message = if (is_full) "it has as many clients as it takes" else "it belongs to another user";
        failure.describe("", 0, 0, 0, message);
        return error.EngineRefused;
    }
    // A child that the engine forked may answer for it.
    const started = sockets.startTime(peer.pid) orelse greeting.start_time;
    if (started != greeting.start_time) {
        failure.describe("", 0, 0, 0, "the process that made the socket has ended");
        return error.EngineNotFound;
    }
    return greeting;
}

fn gone(err: sockets.Error) status.Error {
    return if (err == error.OutOfHostMemory) error.OutOfHostMemory else error.EngineGone;
}

fn callRemote(comptime call: usize, arguments: anytype) i32 {
    const connection = table.find(arguments[0]) orelse return result(error.EngineGone);
    defer table.release(connection);
    connection.mutex.lock();
    defer connection.mutex.unlock();
    const own = std.meta.ArgsTuple(served_calls.Function(call));
    var passed: own = undefined;
    inline for (0..passed.len) |index| passed[index] = arguments[index + 1];
    return exchange(connection, call, passed) catch |err| fail(call, passed, err);
}

fn exchange(connection: *Connection, comptime call: usize, arguments: anytype) sockets.Error!i32 {
    connection.buffer.clearRetainingCapacity();
    wire.writeRequest(call, arguments, &connection.buffer) catch return error.OutOfHostMemory;
    const code = try connection.exchange();
    const bytes = connection.buffer.items;
    // The server had no memory for more.
    if (bytes.len == 0 and code != @intFromEnum(status.Status.ok)) return code;
    wire.readReply(call, code, bytes, arguments) catch {
        connection.broken = true;
        return error.EngineGone;
    };
    return code;
}

fn fail(comptime call: usize, arguments: anytype, err: sockets.Error) i32 {
    const last = arguments[arguments.len - 1];
    if (@TypeOf(last) == *Failure) last.describe("", 0, 0, 0, sockets.describe(err));
    _ = call;
    return result(gone(err));
}

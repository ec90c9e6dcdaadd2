//! One client of the control server: receives a request, answers it, and sends the reply before it receives the next.

const std = @import("std");
const heap = @import("heap.zig");
const linux = std.os.linux;
const served_calls = @import("served_calls.zig");
const sockets = @import("sockets.zig");
const status = @import("status.zig");
const sync = @import("sync.zig");
const wire = @import("wire.zig");

const head_bytes = @sizeOf(wire.Request);
/// A request's buffer grows as its bytes arrive.
const most_read_bytes = 64 << 10;
/// Larger buffers are given back once they are empty.
const most_kept_bytes = 64 << 10;
const steps_in_turn = 32;
/// A watching client gets a reply at least this often, so that it knows that the engine lives.
const watch_ns = std.time.ns_per_s;

pub const Connection = struct {
    descriptor: i32,
    /// The number of the session that the client connected to: numbers of tags and segments are of that one.
    session: u32,
    request: wire.Bytes = .init(heap.allocator),
    reply: wire.Bytes = .init(heap.allocator),
    sent: usize = 0,
    /// When a watch that waits for a change is answered at the latest.
    watch_until: ?u64 = null,

    pub fn deinit(self: *Connection) void {
        _ = linux.close(self.descriptor);
        self.request.deinit();
        self.reply.deinit();
    }

    /// In a child of fork(): its memory may be half written.
    pub fn abandon(self: *const Connection) void {
        _ = linux.close(self.descriptor);
    }

    /// The events that the connection waits for.
    pub fn events(self: *const Connection) i16 {
        return if (self.isSending()) linux.POLL.OUT else linux.POLL.IN;
    }

    fn isSending(self: *const Connection) bool {
        return self.sent < self.reply.items.len;
    }

    /// Queues what is sent first.
    pub fn greet(self: *Connection, greeting: *const wire.Greeting) wire.Error!void {
        self.reply.appendSlice(std.mem.asBytes(greeting)) catch return error.OutOfHostMemory;
    }

    /// Goes on as far as it can without waiting, while others get their turn. An error ends the connection.
    pub fn advance(self: *Connection, changes: u64) (wire.Error || sockets.Error)!void {
        for (0..steps_in_turn) |_| {
            if (self.isSending()) {
                if (!try self.send()) return;
            } else if (self.watch_until != null) {
                try self.expectSilence();
                if (!self.isWatchOver(changes)) return;
                try self.answer();
            } else {
                if (!try self.receive()) return;
                if (self.isWatch()) self.watch_until = sync.now() +| watch_ns else try self.answer();
            }
        }
    }

    /// A client that waits for a change neither leaves nor sends more.
    fn expectSilence(self: *const Connection) (wire.Error || sockets.Error)!void {
        var byte: [1]u8 = undefined;
        if (try sockets.receive(self.descriptor, &byte) != null) return error.Malformed;
    }

    /// False where the client does not take more now.
    fn send(self: *Connection) sockets.Error!bool {
        self.sent += try sockets.send(self.descriptor, self.reply.items[self.sent..]) orelse return false;
        if (!self.isSending()) {
            empty(&self.reply);
            self.sent = 0;
        }
        return true;
    }

    /// True once the request is complete.
    fn receive(self: *Connection) (wire.Error || sockets.Error)!bool {
        while (true) {
            const missing = try self.missingBytes();
            if (missing == 0) return true;
            const room = @min(missing, most_read_bytes);
            self.request.ensureUnusedCapacity(room) catch return error.OutOfHostMemory;
            const target = self.request.unusedCapacitySlice()[0..room];
            self.request.items.len += try sockets.receive(self.descriptor, target) orelse return false;
        }
    }

    fn missingBytes(self: *const Connection) wire.Error!usize {
        const received = self.request.items.len;
        if (received < head_bytes) return head_bytes - received;
        const length = self.head().length;
        if (length > wire.most_request_bytes) return error.Malformed;
        return head_bytes + length - received;
    }

    fn head(self: *const Connection) wire.Request {
        return std.mem.bytesToValue(wire.Request, self.request.items[0..head_bytes]);
    }

    fn isWatch(self: *const Connection) bool {
        const is_whole = self.request.items.len == head_bytes + @sizeOf(u64);
        return self.head().call == served_calls.watch and is_whole;
    }

    fn isWatchOver(self: *const Connection, changes: u64) bool {
        const known = std.mem.bytesToValue(u64, self.request.items[head_bytes..][0..@sizeOf(u64)]);
        return known != changes or sync.now() >= self.watch_until.?;
    }

    fn answer(self: *Connection) wire.Error!void {
        const arguments: []align(8) const u8 = @alignCast(self.request.items[head_bytes..]);
        wire.answer(self.head().call, arguments, &self.reply) catch |err| try self.refuse(err);
        self.watch_until = null;
        empty(&self.request);
    }

    fn refuse(self: *Connection, err: wire.Error) wire.Error!void {
        const refusal: status.Status = switch (err) {
            error.Malformed => .invalid_argument,
            error.OutOfHostMemory => .out_of_host_memory,
        };
        const reply: wire.Reply = .{ .length = 0, .status = @intFromEnum(refusal) };
        self.reply.appendSlice(std.mem.asBytes(&reply)) catch return error.OutOfHostMemory;
    }
};

fn empty(bytes: *wire.Bytes) void {
    if (bytes.capacity > most_kept_bytes) bytes.clearAndFree() else bytes.clearRetainingCapacity();
}

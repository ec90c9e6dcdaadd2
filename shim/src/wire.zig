//! The protocol between an engine's control server and its clients: the calls of `served_calls.zig` as messages on a
//! stream socket. Both sides derive their half from the signatures of the calls.
//!
//! The server greets; then each request has one reply, in order. A request is a `Request`, then the arguments; a reply
//! is a `Reply`, then the out-parameters if the call succeeded, then the `Failure` if the call has one. A number takes
//! 8 bytes. A slice is its length in entries, then the entries. Each part is padded to 8 bytes. All numbers are
//! little-endian, as the only platforms are.

const std = @import("std");
const heap = @import("heap.zig");
const served_calls = @import("served_calls.zig");
const status = @import("status.zig");
const Failure = status.Failure;

pub const Greeting = extern struct {
    magic: [8]u8 = magic_bytes,
    protocol: u32 = version,
    /// A `Status`. The server closes the connection unless it is `ok`: `busy` where it has too many clients,
    /// `engine_refused` for another user.
    status: i32,
    fingerprint: u64 = served_calls.fingerprint,
    /// Of the engine's process, in clock ticks after the machine's start.
    start_time: u64,
    pid: u32,
    reserved: u32 = 0,

    const magic_bytes: [8]u8 = "camem\r\n\x00".*;
    const version = 1;

    pub fn isGreeting(self: *const Greeting) bool {
        return std.mem.eql(u8, &self.magic, &magic_bytes);
    }

    pub fn isCompatible(self: *const Greeting) bool {
        return self.protocol == version and self.fingerprint == served_calls.fingerprint;
    }
};

pub const Request = extern struct {
    /// Of the arguments.
    length: u32,
    call: u32,
};

pub const Reply = extern struct {
    /// Of what follows.
    length: u32,
    status: i32,
};

pub const most_request_bytes = 4 << 20;
pub const most_reply_bytes = 64 << 20;

/// Bytes on their way in or out.
pub const Bytes = std.array_list.AlignedManaged(u8, .of(u64));

pub const Error = error{ Malformed, OutOfHostMemory };

/// How a parameter travels. A slice is a pointer to many and the number after it.
const Kind = enum { number, in_slice, in_length, out, out_slice, out_capacity, failure };

fn kindOf(comptime Function: type, comptime index: usize) Kind {
    const params = @typeInfo(Function).@"fn".params;
    if (index > 0) switch (pointerKind(params[index - 1].type.?) orelse .out) {
        .in_slice => return .in_length,
        .out_slice => return .out_capacity,
        else => {},
    };
    return pointerKind(params[index].type.?) orelse .number;
}

fn pointerKind(comptime T: type) ?Kind {
    const pointer = switch (@typeInfo(T)) {
        .pointer => |pointer| pointer,
        else => return null,
    };
    if (pointer.size == .many) return if (pointer.is_const) .in_slice else .out_slice;
    if (pointer.size != .one or pointer.is_const) @compileError("no such parameter can travel: " ++ @typeName(T));
    return if (pointer.child == Failure) .failure else .out;
}

fn Child(comptime Function: type, comptime index: usize) type {
    return @typeInfo(@typeInfo(Function).@"fn".params[index].type.?).pointer.child;
}

/// An out-slice is followed by its capacity and the count of its entries.
fn countIndex(comptime index: usize) usize {
    return index + 2;
}

fn appendPadded(target: *Bytes, bytes: []const u8) Error!void {
    const padded = std.mem.alignForward(usize, bytes.len, 8);
    target.ensureUnusedCapacity(padded) catch return error.OutOfHostMemory;
    target.appendSliceAssumeCapacity(bytes);
    target.appendNTimesAssumeCapacity(0, padded - bytes.len);
}

fn appendNumber(target: *Bytes, number: u64) Error!void {
    return appendPadded(target, std.mem.asBytes(&number));
}

/// Takes parts off the front of a message whose address is a multiple of 8.
const Reader = struct {
    rest: []align(8) const u8,

    fn take(self: *Reader, size_bytes: usize) Error![]align(8) const u8 {
        const padded = std.mem.alignForward(usize, size_bytes, 8);
        if (padded > self.rest.len) return error.Malformed;
        defer self.rest = @alignCast(self.rest[padded..]);
        return self.rest[0..size_bytes];
    }

    fn number(self: *Reader, comptime T: type) Error!T {
        const bytes = (try self.take(8))[0..8].*;
        if (T == i32) return std.math.cast(i32, @as(i64, @bitCast(bytes))) orelse error.Malformed;
        return std.math.cast(T, @as(u64, @bitCast(bytes))) orelse error.Malformed;
    }

    fn slice(self: *Reader, comptime T: type, count: u64) Error![]const T {
        const size_bytes = std.math.mul(u64, count, @sizeOf(T)) catch return error.Malformed;
        if (size_bytes > self.rest.len) return error.Malformed;
        return @alignCast(std.mem.bytesAsSlice(T, try self.take(size_bytes)));
    }

    fn end(self: Reader) Error!void {
        if (self.rest.len != 0) return error.Malformed;
    }
};

/// Appends the request of the call with this number.
pub fn writeRequest(comptime call: usize, arguments: anytype, target: *Bytes) Error!void {
    const Function = served_calls.Function(call);
    const start = target.items.len;
    try appendPadded(target, std.mem.asBytes(&Request{ .length = 0, .call = call }));
    inline for (@typeInfo(Function).@"fn".params, 0..) |_, index| {
        switch (comptime kindOf(Function, index)) {
            .number, .out_capacity => try appendNumber(target, word(arguments[index])),
            .in_length => {
                try appendNumber(target, arguments[index]);
                try appendPadded(target, std.mem.sliceAsBytes(arguments[index - 1][0..arguments[index]]));
            },
            .in_slice, .out, .out_slice, .failure => {},
        }
    }
    const length = target.items.len - start - @sizeOf(Request);
    if (length > most_request_bytes) return error.OutOfHostMemory;
    std.mem.bytesAsValue(Request, target.items[start..][0..@sizeOf(Request)]).length = @intCast(length);
}

fn word(number: anytype) u64 {
    return if (@TypeOf(number) == i32) @bitCast(@as(i64, number)) else number;
}

/// Calls the function of a request and appends its reply. `arguments` is what follows the request's head.
pub fn answer(call: u32, arguments: []align(8) const u8, target: *Bytes) Error!void {
    inline for (served_calls.names, 0..) |_, number|
        if (call == number) return answerCall(number, arguments, target);
    return error.Malformed;
}

/// A place for each out-parameter.
fn Results(comptime Function: type) type {
    var types: [@typeInfo(Function).@"fn".params.len]type = undefined;
    for (&types, 0..) |*T, index| T.* = switch (kindOf(Function, index)) {
        .out, .failure => Child(Function, index),
        .out_slice => []Child(Function, index),
        .number, .in_slice, .in_length, .out_capacity => void,
    };
    return std.meta.Tuple(&types);
}

fn answerCall(comptime call: usize, bytes: []align(8) const u8, target: *Bytes) Error!void {
    const Function = served_calls.Function(call);
    var results: Results(Function) = undefined;
    inline for (@typeInfo(Function).@"fn".params, 0..) |_, index| {
        switch (comptime kindOf(Function, index)) {
            .out, .failure => results[index] = std.mem.zeroes(Child(Function, index)),
            .out_slice => results[index] = &.{},
            else => {},
        }
    }
    defer inline for (@typeInfo(Function).@"fn".params, 0..) |_, index| {
        if (comptime kindOf(Function, index) == .out_slice) heap.allocator.free(results[index]);
    };
    const arguments = try readArguments(Function, bytes, &results);
    const code = @call(.auto, served_calls.function(call), arguments);
    const start = target.items.len;
    errdefer target.shrinkRetainingCapacity(start);
    try appendPadded(target, std.mem.asBytes(&Reply{ .length = 0, .status = code }));
    if (code == @intFromEnum(status.Status.ok)) try appendResults(Function, &results, target);
    inline for (@typeInfo(Function).@"fn".params, 0..) |_, index| {
        if (comptime kindOf(Function, index) == .failure) try appendPadded(target, std.mem.asBytes(&results[index]));
    }
    const length = target.items.len - start - @sizeOf(Reply);
    std.mem.bytesAsValue(Reply, target.items[start..][0..@sizeOf(Reply)]).length = @intCast(length);
}

fn readArguments(
    comptime Function: type,
    bytes: []align(8) const u8,
    results: *Results(Function),
) Error!std.meta.ArgsTuple(Function) {
    var arguments: std.meta.ArgsTuple(Function) = undefined;
    var reader: Reader = .{ .rest = bytes };
    inline for (@typeInfo(Function).@"fn".params, 0..) |_, index| {
        switch (comptime kindOf(Function, index)) {
            .number => arguments[index] = try reader.number(@TypeOf(arguments[index])),
            .in_length => {
                const count = try reader.number(u64);
                arguments[index] = count;
                arguments[index - 1] = (try reader.slice(Child(Function, index - 1), count)).ptr;
            },
            .out_capacity => {
                const T = Child(Function, index - 1);
                const capacity = try reader.number(u64);
                if (capacity > most_reply_bytes / 2 / @sizeOf(T)) return error.Malformed;
                results[index - 1] = heap.allocator.alloc(T, capacity) catch return error.OutOfHostMemory;
                arguments[index] = capacity;
                arguments[index - 1] = results[index - 1].ptr;
            },
            .out, .failure => arguments[index] = &results[index],
            .in_slice, .out_slice => {},
        }
    }
    try reader.end();
    return arguments;
}

fn appendResults(comptime Function: type, results: *const Results(Function), target: *Bytes) Error!void {
    inline for (@typeInfo(Function).@"fn".params, 0..) |_, index| {
        switch (comptime kindOf(Function, index)) {
            .out => try appendPadded(target, std.mem.asBytes(&results[index])),
            .out_slice => {
                const count = results[comptime countIndex(index)];
                // Where there are more entries than room, none was written.
                const written = if (count <= results[index].len) results[index][0..count] else results[index][0..0];
                try appendNumber(target, written.len);
                try appendPadded(target, std.mem.sliceAsBytes(written));
            },
            else => {},
        }
    }
}

/// Reads what follows a reply's head into the out-parameters among `arguments`.
pub fn readReply(comptime call: usize, code: i32, bytes: []align(8) const u8, arguments: anytype) Error!void {
    const Function = served_calls.Function(call);
    var reader: Reader = .{ .rest = bytes };
    if (code == @intFromEnum(status.Status.ok)) {
        inline for (@typeInfo(Function).@"fn".params, 0..) |_, index| {
            switch (comptime kindOf(Function, index)) {
                .out => @memcpy(std.mem.asBytes(arguments[index]), try reader.take(@sizeOf(Child(Function, index)))),
                .out_slice => {
                    const count = try reader.number(u64);
                    if (count > arguments[index + 1]) return error.Malformed;
                    const entries = try reader.slice(Child(Function, index), count);
                    @memcpy(arguments[index][0..entries.len], entries);
                },
                else => {},
            }
        }
    }
    inline for (@typeInfo(Function).@"fn".params, 0..) |_, index| {
        if (comptime kindOf(Function, index) == .failure)
            @memcpy(std.mem.asBytes(arguments[index]), try reader.take(@sizeOf(Failure)));
    }
    return reader.end();
}

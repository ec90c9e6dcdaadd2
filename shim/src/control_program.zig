//! An engine for tests of the control socket: the shim, the emulator and the control server in one program with safety
//! checks. It allocates one segment for each argument, `<tag>=<MiB>`, serves them, and obeys lines of standard input:
//!
//! - `verify` prints `equal` where every awake segment has the content that it was given, or else `different`;
//! - `touch` reports a call that found memory asleep;
//! - `fork` leaves a child behind that holds what it has inherited;
//! - `renew` says that the session has ended and another one has begun;
//! - `stop` ends the server; the end of the input ends the program.

const std = @import("std");
const abi = @import("abi.zig");
const control_server = @import("control_server.zig");
const engines = @import("engine.zig");
const linux = std.os.linux;
const status = @import("status.zig");

comptime {
    _ = @import("emulator"); // its exports are what the loader links
}

const most_segments = 64;
const probe_bytes = 4096;

const Segment = struct { address: u64, id: u64, size_bytes: u64 };

var segments: [most_segments]Segment = undefined;
var segment_count: usize = 0;
var touches: std.atomic.Value(u64) = .init(0);
var failure: abi.Failure = .{};

const engine: engines.Engine = .{
    .changes = changes,
    .info = info,
    .segments = describeSegments,
    .rules = describeRules,
};

fn changes() u64 {
    return touches.load(.acquire);
}

fn info(target: *engines.EngineInfo) void {
    target.* = .{
        .changes = changes(),
        .pid = @intCast(linux.getpid()),
        .touches = touches.load(.acquire),
        .allocations = segment_count,
    };
    status.copyText(&target.name, "control-program");
}

fn describeSegments(target: []engines.EngineSegment) status.Error!u64 {
    if (segment_count > target.len) return segment_count;
    for (segments[0..segment_count], target[0..segment_count]) |segment, *entry| {
        entry.* = std.mem.zeroes(engines.EngineSegment);
        entry.address = segment.address;
        entry.segment_id = segment.id;
        entry.size_bytes = segment.size_bytes;
        entry.written = @intFromEnum(engines.Written.host_copy);
        entry.rule = 1;
        entry.allocations = 1;
    }
    return segment_count;
}

fn describeRules(target: []u8) u64 {
    const text = "size>=1MiB: offload\n";
    const length = @min(text.len, target.len);
    @memcpy(target[0..length], text[0..length]);
    return length;
}

fn expect(call: []const u8, code: i32) !void {
    if (code == @intFromEnum(abi.Status.ok)) return;
    std.debug.print("{s} returned {d}: {s}\n", .{ call, code, std.mem.sliceTo(&failure.message, 0) });
    return error.UnexpectedStatus;
}

fn allocate(argument: []const u8) !void {
    const name, const size = std.mem.cutScalar(u8, argument, '=') orelse return error.InvalidArgument;
    var tag: u32 = 0;
    try expect("camem_tag_intern", abi.camem_tag_intern(name.ptr, name.len, &tag));
    const segment = &segments[segment_count];
    segment.size_bytes = try std.fmt.parseInt(u64, size, 10) << 20;
    const newSegment = abi.camem_segment_allocate;
    const code = newSegment(0, tag, segment.size_bytes, &segment.address, &segment.id, &failure);
    try expect("camem_segment_allocate", code);
    segment_count += 1;
    const probe = probeOf(segment_count);
    try expect("camem_segment_write", abi.camem_segment_write(
        segment.address,
        segment.id,
        segment.size_bytes - probe_bytes,
        &probe,
        probe_bytes,
        &failure,
    ));
}

fn probeOf(number: usize) [probe_bytes]u8 {
    return @splat(@truncate(number * 31));
}

fn isEqual(number: usize, segment: Segment) !bool {
    var found: [probe_bytes]u8 = undefined;
    const offset = segment.size_bytes - probe_bytes;
    const code = abi.camem_segment_read(segment.address, segment.id, offset, &found, probe_bytes, &failure);
    if (code == @intFromEnum(abi.Status.asleep) or code == @intFromEnum(abi.Status.moving)) return true;
    try expect("camem_segment_read", code);
    return std.mem.eql(u8, &found, &probeOf(number));
}

fn verify(out: *std.Io.Writer) !void {
    for (segments[0..segment_count], 1..) |segment, number|
        if (!try isEqual(number, segment)) return out.writeAll("different\n");
    return out.writeAll("equal\n");
}

/// The child ends by itself.
fn leaveChild() void {
    control_server.beforeFork();
    const is_child = linux.fork() == 0;
    control_server.afterFork(is_child);
    if (!is_child) return;
    const rest: linux.timespec = .{ .sec = 5, .nsec = 0 };
    _ = linux.nanosleep(&rest, null);
    linux.exit_group(0);
}

fn obey(line: []const u8, out: *std.Io.Writer) !void {
    const Command = enum { verify, touch, fork, renew, stop };
    const command = std.meta.stringToEnum(Command, line) orelse return error.UnknownCommand;
    switch (command) {
        .verify => try verify(out),
        .touch => {
            _ = touches.fetchAdd(1, .acq_rel);
            control_server.announceChange();
        },
        .fork => leaveChild(),
        .renew => control_server.endSession(),
        .stop => control_server.stop(),
    }
    try out.writeAll("done\n");
}

pub fn main(init: std.process.Init) !void {
    const arguments = try init.minimal.args.toSlice(init.arena.allocator());
    try expect("camem_attach", abi.camem_attach(null, &failure));
    for (arguments[1..]) |argument| try allocate(argument);
    var out_buffer: [256]u8 = undefined;
    var out = std.Io.File.stdout().writer(init.io, &out_buffer);
    var in_buffer: [256]u8 = undefined;
    var in = std.Io.File.stdin().reader(init.io, &in_buffer);
    control_server.start(&engine, &failure) catch |err| {
        std.debug.print("{s}: {s}\n", .{ @errorName(err), std.mem.sliceTo(&failure.message, 0) });
        return err;
    };
    defer control_server.stop();
    try out.interface.writeAll("serving\n");
    try out.interface.flush();
    while (try in.interface.takeDelimiter('\n')) |line| {
        try obey(line, &out.interface);
        try out.interface.flush();
    }
}

//! Serves the session to controllers, with what the library itself knows of the program.

const std = @import("std");
const core = @import("core");
const engines = core.engine;
const gate = @import("gate.zig");
const memory = @import("memory.zig");
const own_wake_ups = @import("own_wake_ups.zig");
const settings = @import("settings.zig");
const small = @import("small.zig");

const engine: engines.Engine = .{ .changes = changes, .info = describe, .segments = segments, .rules = rules };

/// Makes the control socket, unless there is one. Without it the program runs on, and cannot be controlled.
pub fn start() void {
    var failure: core.status.Failure = .{};
    core.control_server.start(&engine, &failure) catch return;
}

fn changes() u64 {
    const counts = gate.counts();
    const waits_ended = counts.touches -| counts.waiting;
    return gate.changes() + counts.touches + waits_ended + own_wake_ups.last().wakes;
}

fn describe(info: *engines.EngineInfo) void {
    const counts = gate.counts();
    const outcome = own_wake_ups.last();
    const process = std.os.linux.getpid();
    info.* = .{
        .changes = changes(),
        .start_time = core.control_server.startTime(),
        .pid = @intCast(process),
        .on_touch = @intFromEnum(settings.on_touch),
        .gate = @intFromEnum(gateState()),
        .waiting_calls = counts.waiting,
        .touches = counts.touches,
        .own_wake_ups = outcome.wakes,
        .own_wake_up_status = @intFromEnum(outcome.status),
    };
    core.status.copyText(&info.name, settings.engineName());
    if (outcome.status != .ok) core.status.copyText(&info.own_wake_up_message, failureText(&outcome));
    addMemory(info);
}

fn failureText(outcome: *const own_wake_ups.Outcome) []const u8 {
    const message = std.mem.sliceTo(&outcome.failure.message, 0);
    return if (message.len > 0) message else @tagName(outcome.status);
}

fn gateState() engines.GateState {
    return switch (gate.stateNow()) {
        .unstarted => .unstarted,
        .open => .open,
        .moving => .moving,
        .asleep => .asleep,
    };
}

fn addMemory(info: *engines.EngineInfo) void {
    memory.mutex.lock();
    defer memory.mutex.unlock();
    for (memory.all()) |block| {
        info.allocations += allocationsIn(block);
        info.allocated_bytes += block.size_bytes;
        if (block.pinned == .none) continue;
        info.pinned_segments += 1;
        info.pinned_bytes += block.size_bytes;
    }
    core.status.copyText(&info.bypasses, bypasses());
}

/// How the program gets device memory past the library. With the mutex of the memory held.
fn bypasses() []const u8 {
    const nothing = "uses a device and has allocated nothing through libcamem_preload.so, so that nothing sleeps";
    const frees = "frees memory that it allocated past libcamem_preload.so, which does not sleep";
    const never_allocated = memory.counts.allocations == 0;
    if (memory.counts.foreign_frees == 0) return if (never_allocated) nothing else "";
    return if (never_allocated) nothing ++ "\n" ++ frees else frees;
}

fn allocationsIn(block: *const memory.Block) u64 {
    const chunk: *const small.Chunk = @ptrCast(@alignCast(block.chunk orelse return 1));
    return @atomicLoad(u32, &chunk.allocations, .monotonic);
}

fn segments(target: []engines.EngineSegment) core.status.Error!u64 {
    memory.mutex.lock();
    defer memory.mutex.unlock();
    const blocks = memory.all();
    if (blocks.len > target.len) return blocks.len;
    for (blocks, target[0..blocks.len]) |block, *entry| entry.* = .{
        .address = block.start,
        .segment_id = block.segment_id,
        .size_bytes = block.size_bytes,
        .device = block.device,
        .written = @bitCast(block.written),
        .rule = block.rule,
        .pin = @intFromEnum(block.pinned),
        .allocations = allocationsIn(block),
    };
    return blocks.len;
}

fn rules(target: []u8) u64 {
    const text = settings.rules();
    const length = @min(text.len, target.len);
    @memcpy(target[0..length], text[0..length]);
    return length;
}

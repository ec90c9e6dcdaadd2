//! The shim and the emulator in one program, so that Zig's safety checks and the thread sanitizer see both: native
//! threads allocate, write, verify and free through `my_malloc` and `my_free` without pause, while the main thread
//! puts everything to sleep and wakes it. One thread makes a file the backup of a part of that again and again, and
//! another loads the file. `zig build stress -- <cycles>`; `-Dsanitize-thread` adds the sanitizer.

const std = @import("std");
const acl = @import("acl");
const abi = @import("abi.zig");
const pluggable = @import("pluggable_allocator.zig");
const loader = @import("loader.zig");
const test_support = @import("test_support.zig");

comptime {
    _ = @import("emulator"); // its exports are what the loader links
}

const thread_count = 8;
const slots = 4;
const probe_bytes = 64;
const most_segments = 4096;

const Totals = struct {
    allocations: std.atomic.Value(u64) = .init(0),
    nulls: std.atomic.Value(u64) = .init(0),
    mismatches: std.atomic.Value(u64) = .init(0),
    failed_copies: std.atomic.Value(u64) = .init(0),
    loads: std.atomic.Value(u64) = .init(0),
    early_reads: std.atomic.Value(u64) = .init(0),
};

var totals: Totals = .{};
var stopping: std.atomic.Value(bool) = .init(false);
var report: loader.Report = .{};

const Slot = struct { pointer: ?*anyopaque = null, size: usize = 0, expected: [probe_bytes]u8 = undefined };

fn probeOf(slot: *const Slot) *anyopaque {
    const start: [*]u8 = @ptrCast(slot.pointer.?);
    return start + slot.size - probe_bytes;
}

fn hammer(api: *const acl.Api, seed: u64) void {
    var random: std.Random.DefaultPrng = .init(seed);
    var held: [slots]Slot = @splat(.{});
    if (api.aclrtSetDevice(0) != 0) _ = totals.failed_copies.fetchAdd(1, .monotonic);
    while (!stopping.load(.acquire)) {
        const slot = &held[random.random().uintLessThan(usize, slots)];
        release(api, slot);
        slot.size = probe_bytes + random.random().uintLessThan(usize, 5 << 20);
        slot.pointer = pluggable.my_malloc(@intCast(slot.size), 0, null);
        if (slot.pointer == null) {
            _ = totals.nulls.fetchAdd(1, .monotonic);
            continue;
        }
        _ = totals.allocations.fetchAdd(1, .monotonic);
        random.random().bytes(&slot.expected);
        const kind = acl.MemcpyKind.host_to_device;
        if (api.aclrtMemcpy(probeOf(slot), probe_bytes, &slot.expected, probe_bytes, kind) != 0)
            _ = totals.failed_copies.fetchAdd(1, .monotonic);
    }
    for (&held) |*slot| release(api, slot);
    if (api.aclrtResetDevice(0) != 0) _ = totals.failed_copies.fetchAdd(1, .monotonic);
}

fn release(api: *const acl.Api, slot: *Slot) void {
    if (slot.pointer == null) return;
    var found: [probe_bytes]u8 = undefined;
    if (api.aclrtMemcpy(&found, probe_bytes, probeOf(slot), probe_bytes, acl.MemcpyKind.device_to_host) != 0) {
        _ = totals.failed_copies.fetchAdd(1, .monotonic);
    } else if (!std.mem.eql(u8, &found, &slot.expected)) {
        _ = totals.mismatches.fetchAdd(1, .monotonic);
    }
    pluggable.my_free(slot.pointer, @intCast(slot.size), 0, null);
    slot.pointer = null;
}

fn expect(call: []const u8, status: i32) !void {
    if (status == @intFromEnum(abi.Status.ok)) return;
    std.debug.print("{s} returned {d}\n", .{ call, status });
    return error.UnexpectedStatus;
}

/// Content that is in a file as well. A sleep finds one backup or the other.
const Checkpoint = struct {
    handle: u64,
    weights: Weights,

    fn open(weights: Weights, failure: *abi.Failure) !Checkpoint {
        const opened = std.os.linux.memfd_create("checkpoint", std.os.linux.MFD.CLOEXEC);
        if (std.os.linux.errno(opened) != .SUCCESS) return error.NoFile;
        const descriptor: i32 = @intCast(opened);
        defer _ = std.os.linux.close(descriptor);
        const block: [4096]u8 = @splat(7);
        for (0..weights_bytes / block.len) |_| {
            if (std.os.linux.write(descriptor, &block, block.len) != block.len) return error.NoFile;
        }
        var self: Checkpoint = .{ .handle = 0, .weights = weights };
        try expect("camem_checkpoint_open", abi.camem_checkpoint_open(descriptor, &self.handle, failure));
        return self;
    }

    fn close(self: Checkpoint) !void {
        try expect("camem_checkpoint_close", abi.camem_checkpoint_close(self.handle));
    }

    fn use(self: *const Checkpoint) void {
        const extents = [_]abi.FileExtent{.{
            .segment_offset_bytes = 0,
            .file_offset_bytes = 0,
            .size_bytes = weights_bytes,
        }};
        const weights = self.weights;
        var failure: abi.Failure = .{};
        while (!stopping.load(.acquire)) {
            const useCheckpoint = abi.camem_segment_use_checkpoint;
            const status = useCheckpoint(weights.address, weights.id, 0, self.handle, &extents, extents.len, &failure);
            const refused = status == @intFromEnum(abi.Status.moving) or status == @intFromEnum(abi.Status.asleep);
            if (status != @intFromEnum(abi.Status.ok) and !refused) _ = totals.failed_copies.fetchAdd(1, .monotonic);
            std.Thread.yield() catch continue;
        }
    }
};

/// Loads the checkpoint into memory that sleeps and wakes, again and again: all of it, or with a refusal.
fn loadAgain(checkpoint: *const Checkpoint, into: Weights) void {
    while (!stopping.load(.acquire)) {
        const status = load(checkpoint.handle, into) catch |err| {
            std.debug.print("a load ended with {t}\n", .{err});
            _ = totals.failed_copies.fetchAdd(1, .monotonic);
            return;
        };
        const accepted = [_]abi.Status{ .ok, .moving, .asleep, .immutable };
        const found = std.enums.fromInt(abi.Status, status) orelse abi.Status.invalid_argument;
        if (std.mem.indexOfScalar(abi.Status, &accepted, found) == null)
            _ = totals.failed_copies.fetchAdd(1, .monotonic);
        if (found == .ok) _ = totals.loads.fetchAdd(1, .monotonic);
    }
}

fn load(checkpoint: u64, into: Weights) !i32 {
    var pieces: [into_pieces]abi.LoadPiece = undefined;
    for (&pieces, 0..) |*piece, index| piece.* = .{
        .address = into.address,
        .segment_id = into.id,
        .segment_offset_bytes = index * weights_bytes,
        .file_offset_bytes = 0,
        .size_bytes = weights_bytes,
        .checkpoint = 0,
        .discards = 0,
    };
    var started: u64 = 0;
    try expect("camem_load_start", abi.camem_load_start(0, &.{checkpoint}, 1, &pieces, pieces.len, &started));
    var progress: abi.LoadProgress = undefined;
    var failure: abi.Failure = .{};
    while (true) {
        try expect("camem_load_poll", abi.camem_load_poll(started, &progress, &failure));
        if (progress.done == 1) return progress.status;
        std.Thread.yield() catch |err| return err;
    }
}

/// One sleep or wake-up of everything that carries `tag`.
fn transition(tag: u32, asleep: abi.Action, awake: abi.Action, immutable: bool) !void {
    var groups: [most_segments]abi.SegmentGroup = undefined;
    var steps: [most_segments]abi.PlanStep = undefined;
    while (true) {
        var count: u64 = 0;
        var version: u64 = 0;
        const all = std.math.maxInt(u64);
        const read = abi.camem_segment_groups(all, &groups, most_segments, &count, &version);
        try expect("camem_segment_groups", read);
        var planned: usize = 0;
        var is_busy = false;
        for (groups[0..count]) |group| {
            if (group.tag != tag) continue;
            is_busy = is_busy or group.moving == 1;
            const is_awake = group.state == @intFromEnum(abi.SegmentState.mapped);
            const action = if (is_awake) awake else asleep;
            steps[planned] = test_support.stepOf(group, action);
            steps[planned].immutable = @intFromBool(immutable);
            planned += 1;
        }
        if (is_busy) continue; // a backup is just being replaced
        var ticket: u64 = 0;
        const status = submit(steps[0..planned], version, &ticket);
        if (status == @intFromEnum(abi.Status.stale)) continue;
        try expect("camem_plan_submit", status);
        return follow(ticket);
    }
}

/// Wake-ups are in an order: the youngest memory first.
fn submit(steps: []const abi.PlanStep, version: u64, ticket: *u64) i32 {
    const all = std.math.maxInt(u64);
    const options = abi.plan_verify;
    if (steps.len == 0 or steps[0].action != @intFromEnum(abi.Action.restore))
        return abi.camem_plan_submit(steps.ptr, steps.len, all, version, options, ticket);
    var segments: [most_segments]abi.SegmentInfo = undefined;
    var places: [most_segments]abi.Place = undefined;
    var count: u64 = 0;
    const status = abi.camem_snapshot(&segments, most_segments, &count);
    if (status != @intFromEnum(abi.Status.ok)) return status;
    const last = @min(count, most_segments);
    for (segments[0..last], 0..) |segment, index|
        places[index] = .{ .segment_id = segment.segment_id, .group = @intCast(last - 1 - index) };
    const groups: u32 = @intCast(last + 1);
    const submitOrdered = abi.camem_plan_submit_ordered;
    return submitOrdered(steps.ptr, steps.len, all, version, options, &places, last, groups, ticket);
}

fn makeMutable(tag: u32) !void {
    const moving = @intFromEnum(abi.Status.moving);
    var status: i32 = moving;
    // Refused while a backup is just being replaced.
    while (status == moving) status = abi.camem_tag_set_immutable(tag, 0);
    try expect("camem_tag_set_immutable", status);
}

fn prepare(size_bytes: u64) !void {
    var ticket: u64 = 0;
    try expect("camem_host_prepare", abi.camem_host_prepare(0, size_bytes, 0, &ticket));
    return follow(ticket);
}

/// Memory whose content a wake-up in an order has brought back can be read before the others have theirs.
var watched: ?Weights = null;

fn readWhileMoving(failure: *abi.Failure) !void {
    const weights = watched orelse return;
    var found: [16]u8 = undefined;
    const status = abi.camem_segment_read(weights.address, weights.id, 0, &found, found.len, failure);
    if (status != @intFromEnum(abi.Status.ok)) return;
    for (found) |byte| if (byte != 7) return error.Lost;
    _ = totals.early_reads.fetchAdd(1, .monotonic);
}

fn follow(ticket: u64) !void {
    var failure: abi.Failure = .{};
    var progress: abi.PlanProgress = undefined;
    while (true) {
        try expect("camem_plan_poll", abi.camem_plan_poll(ticket, &progress, &failure));
        if (progress.phase == @intFromEnum(abi.Phase.done)) return expect("the plan", progress.status);
        // Whatever it answers: this thread may be without a context, and a group without copies.
        var refusal: abi.Failure = .{};
        for (0..4) |group| _ = abi.camem_plan_stream_wait(ticket, @intCast(group), 0, &refusal);
        try readWhileMoving(&refusal);
        try expect("camem_plan_wait", abi.camem_plan_wait(ticket, std.time.ns_per_ms));
    }
}

fn close(failure: *abi.Failure) !void {
    var closing: u64 = 0;
    try expect("camem_detach", abi.camem_detach(&closing));
    var done: u32 = 0;
    while (done == 0) {
        try expect("camem_detach_poll", abi.camem_detach_poll(closing, &done, failure));
        std.Thread.yield() catch |err| return err;
    }
}

pub fn main(init: std.process.Init) !void {
    const arguments = try init.minimal.args.toSlice(init.arena.allocator());
    const cycles = if (arguments.len > 1) try std.fmt.parseInt(u32, arguments[1], 10) else 50;
    var failure: abi.Failure = .{};
    try expect("camem_attach", abi.camem_attach(null, &failure));
    const library = try loader.open(null, &report);
    const content = try allocateWeights("weights", weights_bytes, &failure);
    watched = content;
    const filed = try allocateWeights("weights", weights_bytes, &failure);
    const checkpoint: Checkpoint = try .open(filed, &failure);
    const checkpointing = try std.Thread.spawn(.{}, Checkpoint.use, .{&checkpoint});
    const loaded = try allocateWeights("weights", into_pieces * weights_bytes, &failure);
    const loading = try std.Thread.spawn(.{}, loadAgain, .{ &checkpoint, loaded });
    var threads: [thread_count]std.Thread = undefined;
    for (&threads, 1..) |*thread, seed| thread.* = try std.Thread.spawn(.{}, hammer, .{ &library.api, seed });
    for (0..cycles) |cycle| {
        // Every other time the backup is kept, and dropped again while the threads go on.
        const immutable = cycle % 2 == 1;
        try prepare(weights_bytes);
        try transition(content.tag, .restore, .offload, immutable);
        try transition(content.tag, .restore, .offload, immutable);
        try content.verify(&failure);
        try filed.verify(&failure);
        try loaded.verify(&failure);
        if (cycle % 4 == 3) try makeMutable(content.tag);
        if (cycle % 8 == 0) try firstSleep(&failure);
    }
    stopping.store(true, .release);
    for (threads) |thread| thread.join();
    checkpointing.join();
    loading.join();
    try checkpoint.close();
    try close(&failure);
    std.debug.print("cycles {d}, loads {d}, reads while moving {d}, ", .{
        cycles,
        totals.loads.load(.acquire),
        totals.early_reads.load(.acquire),
    });
    std.debug.print("allocations {d}, nulls {d}, mismatches {d}, failed copies {d}\n", .{
        totals.allocations.load(.acquire),
        totals.nulls.load(.acquire),
        totals.mismatches.load(.acquire),
        totals.failed_copies.load(.acquire),
    });
    for ([_]*std.atomic.Value(u64){ &totals.mismatches, &totals.failed_copies, &totals.nulls }) |bad| {
        if (bad.load(.acquire) != 0) return error.Lost;
    }
}

const weights_bytes = 3 << 20;
/// Enough for two threads.
const into_pieces = 4;

/// Memory that sleeps and wakes, beside that of the threads, which stays awake under the first tag.
const Weights = struct {
    size: u64,
    tag: u32,
    address: u64,
    id: u64,

    fn verify(self: Weights, failure: *abi.Failure) !void {
        var found: [16]u8 = undefined;
        const moving = @intFromEnum(abi.Status.moving);
        const end = self.size - found.len;
        var status: i32 = moving;
        // Refused while a backup is just being replaced.
        while (status == moving)
            status = abi.camem_segment_read(self.address, self.id, end, &found, found.len, failure);
        try expect("camem_segment_read", status);
        for (found) |byte| if (byte != 7) return error.Lost;
    }
};

fn allocateWeights(tag: []const u8, size: u64, failure: *abi.Failure) !Weights {
    var weights: Weights = .{ .size = size, .tag = 0, .address = 0, .id = 0 };
    try expect("camem_tag_intern", abi.camem_tag_intern(tag.ptr, tag.len, &weights.tag));
    const newSegment = abi.camem_segment_allocate;
    const status = newSegment(0, weights.tag, size, &weights.address, &weights.id, failure);
    try expect("camem_segment_allocate", status);
    try expect("camem_segment_fill", abi.camem_segment_fill(weights.address, weights.id, 0, size, 7, failure));
    return weights;
}

/// A first sleep so large that it page-locks and copies side by side.
fn firstSleep(failure: *abi.Failure) !void {
    const large = try allocateWeights("large", 70 << 20, failure);
    try transition(large.tag, .restore, .offload, false);
    try transition(large.tag, .restore, .offload, false);
    try large.verify(failure);
    try expect("camem_segment_free", abi.camem_segment_free(large.address, large.id, failure));
}

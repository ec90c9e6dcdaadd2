//! Every AscendCL call of a scenario fails, once or from then on, and its heap is exhausted from every allocation on,
//! in a build with safety checks.
//!
//! Fault model: an AscendCL call returns a code and has no effect; an allocation of the shim returns nothing.
//! Whatever fails, no assertion is reached. Once nothing fails any more, content is what was written, and closing
//! gives everything back.

const std = @import("std");
const abi = @import("abi.zig");
const heap = @import("heap.zig");
const test_support = @import("test_support.zig");

comptime {
    _ = @import("emulator"); // its exports are what the loader links
}

const setFaults = @extern(*const fn ([*:0]const u8) callconv(.c) c_int, .{ .name = "camem_emulator_set_faults" });
const callCount = @extern(*const fn ([*:0]const u8) callconv(.c) u64, .{ .name = "camem_emulator_call_count" });
const readAccounting = @extern(*const fn (*[18]u64) callconv(.c) c_int, .{ .name = "camem_emulator_accounting" });
const setDevice = @extern(*const fn (i32) callconv(.c) c_int, .{ .name = "aclrtSetDevice" });
const resetDevice = @extern(*const fn (i32) callconv(.c) c_int, .{ .name = "aclrtResetDevice" });

const ok = @intFromEnum(abi.Status.ok);
const most_segments = 16;

const Segment = struct { address: u64, id: u64, written: bool = false };

const Scenario = struct {
    attached: bool = false,
    tag: u32 = 0,
    segments: [most_segments]Segment = undefined,
    count: usize = 0,
    failure: abi.Failure = .{},

    /// Goes on past every failure, as a process that has something to lose does.
    fn run(self: *Scenario) void {
        self.open();
        self.allocate(0, 3 << 20);
        self.allocate(1, 5000);
        self.transition(.offload);
        self.allocate(0, 1);
        self.allocate(1, 1);
        self.transition(.restore);
        self.free();
        self.transition(.offload);
        self.free();
        self.close();
    }

    fn open(self: *Scenario) void {
        if (self.attached) return;
        self.attached = abi.camem_attach(null, &self.failure) == ok;
        if (self.attached) _ = abi.camem_tag_intern("weights", "weights".len, &self.tag);
    }

    fn allocate(self: *Scenario, device: u32, size_bytes: u64) void {
        var segment: Segment = .{ .address = 0, .id = 0 };
        const newSegment = abi.camem_segment_allocate;
        if (newSegment(device, self.tag, size_bytes, &segment.address, &segment.id, &self.failure) != ok) return;
        segment.written = abi.camem_segment_fill(segment.address, segment.id, 0, 1, 7, &self.failure) == ok;
        self.segments[self.count] = segment;
        self.count += 1;
    }

    fn free(self: *Scenario) void {
        if (self.count == 0) return;
        const segment = self.segments[self.count - 1];
        if (abi.camem_segment_free(segment.address, segment.id, &self.failure) == ok) self.count -= 1;
    }

    fn transition(self: *Scenario, wanted: abi.Action) void {
        var groups: [most_segments]abi.SegmentGroup = undefined;
        var steps: [most_segments]abi.PlanStep = undefined;
        var count: u64 = 0;
        var version: u64 = 0;
        if (abi.camem_segment_groups(std.math.maxInt(u64), &groups, most_segments, &count, &version) != ok) return;
        var planned: usize = 0;
        for (groups[0..@min(count, most_segments)]) |group| {
            const is_awake = group.state == @intFromEnum(abi.SegmentState.mapped);
            const action: abi.Action = if (wanted == .restore) .restore else if (is_awake) .offload else .release;
            if (is_awake and action == .restore or action == .release and group.unreleased == 0) continue;
            steps[planned] = test_support.stepOf(group, action);
            planned += 1;
        }
        var ticket: u64 = 0;
        const options = abi.plan_verify;
        if (abi.camem_plan_submit(&steps, planned, std.math.maxInt(u64), version, options, &ticket) != ok) return;
        _ = abi.camem_plan_wait(ticket, std.math.maxInt(u64));
        var progress: abi.PlanProgress = undefined;
        _ = abi.camem_plan_poll(ticket, &progress, &self.failure);
    }

    fn close(self: *Scenario) void {
        if (!self.attached) return;
        var closing: u64 = 0;
        if (abi.camem_detach(&closing) != ok) return;
        var done: u32 = 0;
        while (done == 0) if (abi.camem_detach_poll(closing, &done, &self.failure) != ok) return;
        self.attached = false;
        self.count = 0;
    }

    /// With nothing failing any more.
    fn expectIntact(self: *Scenario) !void {
        if (self.attached) {
            self.transition(.restore);
            for (self.segments[0..self.count]) |segment| try self.expectContent(segment);
            self.close();
            try std.testing.expect(!self.attached);
        }
        self.open();
        self.close();
        var held: [18]u64 = undefined;
        try std.testing.expectEqual(0, readAccounting(&held));
        try std.testing.expectEqual(@as([18]u64, @splat(0)), held);
    }

    fn expectContent(self: *Scenario, segment: Segment) !void {
        if (!segment.written) return;
        var byte: u8 = 0;
        const status = abi.camem_segment_read(segment.address, segment.id, 0, &byte, 1, &self.failure);
        // A segment that is being released is gone, or soon will be.
        if (status == @intFromEnum(abi.Status.unknown_segment)) return;
        try std.testing.expectEqual(ok, status);
        try std.testing.expectEqual(7, byte);
    }
};

fn tryFaults(text: [:0]const u8) !void {
    errdefer std.debug.print("faults: {s}\n", .{text});
    try std.testing.expectEqual(0, setFaults(text));
    var scenario: Scenario = .{};
    scenario.run();
    try std.testing.expectEqual(0, setFaults(""));
    try scenario.expectIntact();
}

const internal_error = 507899;

/// Fails each call, or from each call on, in turn.
fn tryCalls(calls: u64, comptime format: [:0]const u8) !void {
    for (1..calls + 1) |call| {
        var buffer: [256]u8 = undefined;
        try tryFaults(try std.fmt.bufPrintZ(&buffer, format, .{ call, internal_error }));
    }
}

test "a process survives and closes when any one AscendCL call fails" {
    try tryFaults("");
    try std.testing.expectEqual(0, setFaults(""));
    var scenario: Scenario = .{};
    scenario.run();
    try tryCalls(callCount("*"), "*:{d}={d}");
}

test "a process survives and closes when a function of AscendCL fails from any call on" {
    inline for (.{
        "aclrtGetCurrentContext",            "aclrtSetCurrentContext", "aclrtSetDevice",         "aclrtResetDevice",
        "aclrtMemGetAllocationGranularity",  "aclrtReserveMemAddress", "aclrtReleaseMemAddress", "aclrtMallocPhysical",
        "aclrtFreePhysical",                 "aclrtMapMem",            "aclrtUnmapMem",          "aclrtMallocHost",
        "aclrtSynchronizeDeviceWithTimeout", "aclrtSynchronizeStream", "aclrtMemcpyAsync",       "aclrtFreeHost",
    }) |name| {
        try std.testing.expectEqual(0, setFaults(""));
        var scenario: Scenario = .{};
        scenario.run();
        try tryCalls(callCount(name), name ++ ":{d}+={d}");
    }
}

test "a process survives and closes when context calls fail on a thread with another device's context" {
    try std.testing.expectEqual(0, setDevice(1));
    try std.testing.expectEqual(0, setFaults(""));
    var scenario: Scenario = .{};
    scenario.run();
    inline for (.{ "aclrtGetCurrentContext", "aclrtSetCurrentContext" }) |name| {
        for (1..callCount(name) + 1) |call| {
            var buffer: [64]u8 = undefined;
            const faults = try std.fmt.bufPrintZ(&buffer, name ++ ":{d}=507899", .{call});
            try std.testing.expectEqual(0, setFaults(faults));
            var again: Scenario = .{};
            again.run();
            try std.testing.expectEqual(0, setFaults(""));
            again.close();
            try std.testing.expect(!again.attached);
        }
    }
    try std.testing.expectEqual(0, resetDevice(1));
    try tryFaults("");
}

test "a process survives and closes when its heap is exhausted from any allocation on" {
    var scenario: Scenario = .{};
    const plenty = 1 << 20;
    heap.remaining.store(plenty, .monotonic);
    scenario.run();
    const allocations = plenty - heap.remaining.load(.monotonic);
    try std.testing.expect(allocations > 20);
    for (0..allocations) |successes| {
        errdefer std.debug.print("allocations that succeed: {d}\n", .{successes});
        scenario = .{};
        heap.remaining.store(successes, .monotonic);
        scenario.run();
        heap.remaining.store(std.math.maxInt(u64), .monotonic);
        try scenario.expectIntact();
    }
}

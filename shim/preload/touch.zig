//! What happens when the program touches memory that is asleep: the library wakes everything by itself, or the caller
//! waits for a controller, or its call fails.

const std = @import("std");
const core = @import("core");
const own_wake_ups = @import("own_wake_ups.zig");
const settings = @import("settings.zig");
const start = @import("start.zig");
const Failure = core.status.Failure;
const Session = core.session.Session;
const heap = core.heap.allocator;
const plans = core.plans;
const SegmentGroup = core.segment_groups.SegmentGroup;

/// A caller waits for memory that is asleep. False when its call is to fail: a process that was asked to end waits for
/// nobody, and tries once to wake by itself.
pub fn touched(is_terminating: bool) bool {
    switch (settings.on_touch) {
        .fail => return false,
        .hold => return !is_terminating,
        .wake => if (is_terminating and own_wake_ups.last().status != .ok) return false,
    }
    const session = start.current() orelse return true;
    if (!own_wake_ups.begin()) return true;
    var failure: Failure = .{};
    own_wake_ups.end(wakeEverything(session, &failure), &failure);
    return true;
}

/// Wakes all that is asleep, on the library's thread, and waits for it. Null where another plan runs.
fn wakeEverything(session: *Session, failure: *Failure) ?core.status.Status {
    const ticket = submit(session) catch |err| return switch (err) {
        error.Busy, error.Stale => null,
        else => core.status.fromError(err),
    };
    while (true) {
        session.waitForPlan(ticket, std.time.ns_per_s) catch return null;
        const progress = session.pollPlan(ticket, failure) catch return null;
        if (progress.phase != @intFromEnum(plans.Phase.done)) continue;
        return if (progress.complete == 1) .ok else @enumFromInt(progress.status);
    }
}

/// What has its content somewhere is restored, and the rest is mapped.
fn submit(session: *Session) core.status.Error!u64 {
    const everything = std.math.maxInt(u64);
    const groups, const version = try groupsOf(session, everything);
    defer heap.free(groups);
    var steps: std.ArrayList(plans.PlanStep) = .empty;
    defer steps.deinit(heap);
    for (groups) |group| {
        const state: core.segments.State = @enumFromInt(group.state);
        const action: plans.Action = switch (state) {
            .mapped => continue,
            .offloaded => .restore,
            .discarded => .remap,
        };
        if (group.moving == 1) return error.Busy;
        steps.append(heap, stepOf(group, action)) catch return error.OutOfHostMemory;
    }
    if (steps.items.len == 0) return error.Stale;
    return session.submitPlan(steps.items, .{ .last_segment_id = everything, .version = version }, .{});
}

fn groupsOf(session: *Session, last_segment_id: u64) core.status.Error!struct { []SegmentGroup, u64 } {
    session.registry.mutex.lock();
    defer session.registry.mutex.unlock();
    const count = try core.segment_groups.collect(&session.registry, last_segment_id, &.{});
    const groups = heap.alloc(SegmentGroup, count) catch return error.OutOfHostMemory;
    errdefer heap.free(groups);
    _ = try core.segment_groups.collect(&session.registry, last_segment_id, groups);
    return .{ groups, session.registry.version };
}

fn stepOf(group: SegmentGroup, action: plans.Action) plans.PlanStep {
    return .{
        .segments = group.segments,
        .segment_bytes = group.segment_bytes,
        .tag = group.tag,
        .device = group.device,
        .state = group.state,
        .unreleased = group.unreleased,
        .clean = group.clean,
        .backed_up = group.backed_up,
        .action = @intFromEnum(action),
    };
}

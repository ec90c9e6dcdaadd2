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

/// After a wake-up that failed, how long until the next attempt: doubled each time up to the longest.
const first_pause_ns = 500 * std.time.ns_per_ms;
const longest_pause_ns = 30 * std.time.ns_per_s;

/// One caller at a time wakes everything.
var mutex: core.sync.Mutex = .{};
var waking = false;
var pause_ns: u64 = first_pause_ns;
var next_attempt_ns: u64 = 0;

/// A caller waits for memory that is asleep. False when its call is to fail.
pub fn touched() bool {
    switch (settings.on_touch) {
        .fail => return false,
        .hold => return true,
        .wake => {},
    }
    const session = start.current() orelse return true;
    if (!begin()) return true;
    end(wakeEverything(session));
    return true;
}

fn begin() bool {
    mutex.lock();
    defer mutex.unlock();
    if (waking or core.sync.now() < next_attempt_ns) return false;
    waking = true;
    return true;
}

pub const Attempt = struct { err: ?core.status.Status = null, failure: Failure = .{}, other: bool = false };

fn end(attempt: Attempt) void {
    mutex.lock();
    defer mutex.unlock();
    waking = false;
    if (attempt.other) return; // another plan ran meanwhile
    own_wake_ups.note(attempt.err orelse .ok, &attempt.failure);
    if (attempt.err == null) {
        pause_ns = first_pause_ns;
        next_attempt_ns = 0;
        return;
    }
    next_attempt_ns = core.sync.now() + pause_ns;
    pause_ns = @min(2 * pause_ns, longest_pause_ns);
}

fn wakeEverything(session: *Session) Attempt {
    return runOnAll(session, .restore);
}

/// Offloads all that is awake, or wakes all that is asleep, on the library's thread, and waits for it.
pub fn runOnAll(session: *Session, direction: plans.Action) Attempt {
    const ticket = submit(session, direction) catch |err| return switch (err) {
        error.Busy, error.Stale => .{ .other = true },
        else => .{ .err = core.status.fromError(err) },
    };
    var attempt: Attempt = .{};
    while (true) {
        session.waitForPlan(ticket, std.time.ns_per_s) catch return .{ .other = true };
        const progress = session.pollPlan(ticket, &attempt.failure) catch return .{ .other = true };
        if (progress.phase != @intFromEnum(plans.Phase.done)) continue;
        if (progress.complete == 0) attempt.err = @enumFromInt(progress.status);
        return attempt;
    }
}

/// The action for segments in a state: what has its content somewhere is restored, and the rest is mapped.
fn actionFor(state: core.segments.State, direction: plans.Action) ?plans.Action {
    return switch (state) {
        .mapped => if (direction == .offload) .offload else null,
        .offloaded => if (direction == .offload) null else .restore,
        .discarded => if (direction == .offload) null else .remap,
    };
}

fn submit(session: *Session, direction: plans.Action) core.status.Error!u64 {
    const everything = std.math.maxInt(u64);
    const groups, const version = try groupsOf(session, everything);
    defer heap.free(groups);
    var steps: std.ArrayList(plans.PlanStep) = .empty;
    defer steps.deinit(heap);
    for (groups) |group| {
        const action = actionFor(@enumFromInt(group.state), direction) orelse continue;
        if (group.moving == 1) return error.Busy;
        steps.append(heap, stepOf(group, action)) catch return error.OutOfHostMemory;
    }
    if (steps.items.len == 0) return error.Stale;
    return session.submitPlan(steps.items, .{ .last_segment_id = everything, .version = version }, false);
}

fn groupsOf(session: *Session, last_segment_id: u64) core.status.Error!struct { []SegmentGroup, u64 } {
    session.registry.mutex.lock();
    defer session.registry.mutex.unlock();
    const groups = try core.segment_groups.collect(&session.registry, last_segment_id);
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

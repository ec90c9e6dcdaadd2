//! The copies of a sleep that has to page-lock memory for its backups: content is copied to what is page-locked already
//! while more is page-locked. Nothing is unmapped before all of it has been copied.

const std = @import("std");
const Devices = @import("devices.zig").Devices;
const growth = @import("growth.zig");
const host = @import("host.zig");
const placement = @import("placement.zig");
const plans = @import("plans.zig");
const runtime = @import("runtime.zig");
const status = @import("status.zig");
const sync = @import("sync.zig");
const DeviceSteps = plans.DeviceSteps;
const Failure = status.Failure;
const Outcome = status.Outcome;
const Plan = plans.Plan;

/// Copies all content to new backups, and returns true. False when the plan is to take its backups first: where that
/// is as fast, where some are not page-locked, and where AscendCL has refused and the plan permits other backups.
pub fn copy(devices: *Devices, plan: *Plan, failure: *Failure) status.Error!bool {
    if (!isWorthwhile(devices, plan)) return false;
    var pipeline: Pipeline = .{ .devices = devices, .plan = plan };
    for (plan.devices, 0..) |steps, index| pipeline.bytes_to_copy[index] = steps.bytesToCopy();
    plan.pipeline = &pipeline;
    defer plan.pipeline = null;
    const placer = sync.Thread.spawn(Pipeline.place, .{&pipeline}) catch return false;
    const copied = devices.onEach(plan, copyWhatIsPlaced, failure);
    pipeline.stop();
    placer.join();
    try copied;
    if (pipeline.outcome.err) |err| {
        if (!pipeline.refused or !plan.options.isContentWithLess() or plan.unsettled.load(.acquire)) {
            failure.* = pipeline.outcome.failure;
            return err;
        }
        plan.refused = true;
        plan.bytes_done.store(0, .monotonic); // they are copied again, as some backups give way to staging
        try devices.on(plan, &plan.devices[0], placement.takeStagingAfterRefusal, failure);
        return false;
    }
    return true;
}

fn isWorthwhile(devices: *Devices, plan: *const Plan) bool {
    var wanted_bytes: u64 = 0;
    for (plan.devices) |steps| {
        if (steps.needsStaging(plan.options.verify)) return false;
        wanted_bytes += placement.missingBytes(steps.steps, .all);
    }
    return growth.Growth.isShared(wanted_bytes -| devices.memory.stores.page_locked.counts().free_bytes);
}

fn copyWhatIsPlaced(devices: *Devices, plan: *Plan, steps: *DeviceSteps, failure: *Failure) status.Error!void {
    const pipeline = plan.pipeline.?;
    errdefer pipeline.stop();
    const index = (@intFromPtr(steps) - @intFromPtr(plan.devices.ptr)) / @sizeOf(DeviceSteps);
    const first = (@intFromPtr(steps.steps.ptr) - @intFromPtr(plan.steps.ptr)) / @sizeOf(plans.Step);
    var copier = devices.copier(plan, steps, .to_host);
    try copier.start(steps.steps.len, pipeline.bytes_to_copy[index], failure);
    var added: usize = 0;
    while (added < steps.steps.len) {
        const placed = pipeline.waitFor(first + added + 1) orelse {
            copier.abandon();
            return; // the pipeline's own outcome says why
        };
        const ready = @min(placed - first, steps.steps.len);
        for (steps.steps[added..ready]) |step| if (step.copies()) copier.add(step.segment);
        added = ready;
        if (copier.hasFailed()) break;
    }
    if (index == 0) plan.enter(.copying); // on the executor's thread
    return copier.finish(failure);
}

/// A thread of its own gives backups their places, in the order of the steps.
pub const Pipeline = struct {
    devices: *Devices,
    plan: *Plan,
    bytes_to_copy: [runtime.max_devices]u64 = @splat(0),
    mutex: sync.Mutex = .{},
    changed: sync.Condition = .{},
    /// Steps of the plan that have what they need.
    placed: usize = 0,
    ended: bool = false,
    /// A copy has failed, or everything is over.
    stopped: std.atomic.Value(bool) = .init(false),
    /// Its failure is that AscendCL has refused to page-lock.
    refused: bool = false,
    outcome: Outcome = .{},

    fn place(self: *Pipeline) void {
        for (self.plan.devices) |*steps| {
            self.devices.on(self.plan, steps, placeOn, &self.outcome.failure) catch |err| {
                self.outcome.err = err;
                break;
            };
        }
        self.mutex.lock();
        defer self.mutex.unlock();
        self.ended = true;
        self.changed.broadcast();
    }

    fn placeOn(devices: *Devices, plan: *Plan, steps: *DeviceSteps, failure: *Failure) status.Error!void {
        const self = plan.pipeline.?;
        try placement.mapStranded(devices, steps, failure);
        var tags: placement.Tags = .{ .steps = steps.steps };
        while (tags.next()) |of_tag| try self.placeTag(steps.device, of_tag, failure);
    }

    fn placeTag(self: *Pipeline, device: u32, steps: []plans.Step, failure: *Failure) status.Error!void {
        const pool = &self.devices.memory.stores.page_locked;
        const interrupt: sync.Interrupt = .{ .cancelled = &self.plan.cancelled, .failed = &self.stopped };
        var grown = pool.grow(device, placement.missingBytes(steps, .all), interrupt);
        if (grown) |*growing| growing.start(.alone);
        self.placeSteps(steps, if (grown) |*growing| growing else null) catch |err| {
            const growing = if (grown) |*growing| growing else return err;
            growing.stop();
            const end = growing.finish(failure) orelse return err;
            self.refused = end == .refused;
            return switch (end) {
                .refused, .failed => |reason| reason,
            };
        };
        const growing = if (grown) |*growing| growing else return;
        // All that is needed is there. What a thread failed at was for other users of the pool.
        var spare: Failure = .{};
        _ = growing.finish(&spare);
    }

    fn placeSteps(self: *Pipeline, steps: []plans.Step, growing: ?*growth.Growth) status.Error!void {
        const pool = &self.devices.memory.stores.page_locked;
        for (steps) |step| {
            if (step.needsBackup()) {
                const size_bytes = host.Pool.blockSize(step.segment.size_bytes);
                const is_there = if (growing) |grown| grown.waitFor(size_bytes) else true;
                if (!is_there) return error.OutOfHostMemory;
                self.devices.memory.registry.save(step.segment, .{ .host = try pool.take(size_bytes) });
            }
            self.advance();
        }
    }

    fn advance(self: *Pipeline) void {
        self.mutex.lock();
        defer self.mutex.unlock();
        self.placed += 1;
        self.changed.broadcast();
    }

    /// Waits until at least `count` steps of the plan are placed, and returns how many are. Null after a failure.
    fn waitFor(self: *Pipeline, count: usize) ?usize {
        self.mutex.lock();
        defer self.mutex.unlock();
        while (self.placed < count) {
            if (self.ended) return null;
            self.changed.wait(&self.mutex);
        }
        return self.placed;
    }

    fn stop(self: *Pipeline) void {
        self.stopped.store(true, .release);
    }
};

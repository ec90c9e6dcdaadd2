//! The copies of a sleep that has to page-lock memory for its backups: content is copied to what is page-locked already
//! while more is page-locked. Nothing is unmapped before all of it has been copied.

const Devices = @import("devices.zig").Devices;
const Growth = @import("growth.zig").Growth;
const host = @import("host.zig");
const Placed = @import("placed.zig").Placed;
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
    var placed: Placed = .{};
    plan.placed = &placed;
    defer plan.placed = null;
    for (plan.devices) |*steps| steps.copy_bytes = steps.bytesToCopy();
    var placer: Placer = .{ .devices = devices, .plan = plan, .placed = &placed };
    const thread = sync.Thread.spawn(Placer.run, .{&placer}) catch return false;
    const copied = devices.onEach(plan, copyWhatIsPlaced, failure);
    thread.join();
    try copied;
    const err = placer.outcome.err orelse return true;
    if (!placer.refused or !plan.options.isContentWithLess() or plan.unsettled.load(.acquire)) {
        failure.* = placer.outcome.failure;
        return err;
    }
    plan.refused = true;
    plan.bytes_done.store(0, .monotonic); // all is copied again, as some backups give way to staging
    try devices.on(plan, &plan.devices[0], placement.takeStagingAfterRefusal, failure);
    return false;
}

fn isWorthwhile(devices: *Devices, plan: *const Plan) bool {
    var wanted_bytes: u64 = 0;
    for (plan.devices) |steps| {
        if (steps.needsStaging(plan.options.verify)) return false;
        wanted_bytes += placement.missingBytes(steps.steps, .all);
    }
    return Growth.isShared(wanted_bytes -| devices.memory.stores.page_locked.counts().free_bytes);
}

fn copyWhatIsPlaced(devices: *Devices, plan: *Plan, steps: *DeviceSteps, failure: *Failure) status.Error!void {
    const placed = plan.placed.?;
    errdefer plan.placing_stopped.store(true, .release);
    const first = (@intFromPtr(steps.steps.ptr) - @intFromPtr(plan.steps.ptr)) / @sizeOf(plans.Step);
    var copier = devices.copier(plan, steps, .to_host);
    try copier.start(steps.steps.len, steps.copy_bytes, failure);
    var added: usize = 0;
    while (added < steps.steps.len and !copier.hasFailed()) {
        const all_placed = placed.waitFor(first + added + 1) orelse return copier.abandon(); // the placer says why
        const ready = @min(all_placed - first, steps.steps.len);
        for (steps.steps[added..ready]) |step| if (step.copies()) copier.add(step.segment, 0);
        added = ready;
    }
    if (first == 0) plan.enter(.copying); // on the executor's thread
    return copier.finish(failure);
}

/// Gives backups their places on a thread of its own, in the order of the steps.
const Placer = struct {
    devices: *Devices,
    plan: *Plan,
    placed: *Placed,
    /// Its failure is that AscendCL has refused to page-lock.
    refused: bool = false,
    outcome: Outcome = .{},

    fn run(self: *Placer) void {
        defer self.placed.end();
        for (self.plan.devices) |*steps| {
            self.placeOn(steps) catch |err| {
                self.outcome.err = err;
                return;
            };
        }
    }

    fn placeOn(self: *Placer, steps: *DeviceSteps) status.Error!void {
        const failure = &self.outcome.failure;
        const scope = try runtime.Scope.enter(self.devices.memory.runtime, steps.device, failure);
        defer scope.abandon();
        try placement.mapStranded(self.devices, steps, failure);
        var tags: placement.Tags = .{ .steps = steps.steps };
        while (tags.next()) |of_tag| try self.placeTag(steps.device, of_tag);
    }

    fn placeTag(self: *Placer, device: u32, steps: []const plans.Step) status.Error!void {
        const pool = &self.devices.memory.stores.page_locked;
        const missing_bytes = pool.want(placement.missingBytes(steps, .all));
        if (missing_bytes == 0) return self.placeSteps(steps, null);
        const interrupt: sync.Interrupt = .{
            .cancelled = &self.plan.cancelled,
            .failed = &self.plan.placing_stopped,
        };
        var growth: Growth = .init(pool, device, missing_bytes, interrupt);
        growth.start(.alone);
        const taken = self.placeSteps(steps, &growth);
        growth.stop();
        const end = growth.finish(&self.outcome.failure);
        taken catch |err| switch (end orelse return err) {
            .refused => |refusal| {
                self.refused = true;
                return refusal;
            },
            .failed => |reason| return reason,
        };
        self.outcome.failure = .{}; // of a thread that was not needed any more
    }

    fn placeSteps(self: *Placer, steps: []const plans.Step, growth: ?*Growth) status.Error!void {
        const pool = &self.devices.memory.stores.page_locked;
        for (steps) |step| {
            if (step.needsBackup()) {
                const size_bytes = host.Pool.blockSize(step.segment.size_bytes);
                if (growth) |growing| if (!growing.waitFor(size_bytes)) return error.OutOfHostMemory;
                self.devices.memory.registry.save(step.segment, .{ .host = try pool.take(size_bytes) });
            }
            self.placed.advance();
        }
    }
};

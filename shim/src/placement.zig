//! Finds room for the new backups of a sleep, before anything is copied: in page-locked memory; where AscendCL refuses
//! that, in ordinary memory or in the device's spill file, as the plan permits; in the spill file where it says so.

const Devices = @import("devices.zig").Devices;
const staging_bytes = @import("devices.zig").staging_bytes;
const growth = @import("growth.zig");
const host = @import("host.zig");
const plans = @import("plans.zig");
const status = @import("status.zig");
const DeviceSteps = plans.DeviceSteps;
const Failure = status.Failure;
const Plan = plans.Plan;
const Step = plans.Step;

pub fn takeBackups(devices: *Devices, plan: *Plan, failure: *Failure) status.Error!void {
    for (plan.devices) |*steps| try devices.on(plan, steps, takeInPageLocked, failure);
    for (plan.devices) |*steps| {
        if (plan.options.pageable) try takePageable(devices, plan, steps, failure);
        try takeSpill(devices, plan, steps, failure);
    }
    if (plan.refused) devices.memory.stores.page_locked.expect(0); // backups have what could be had
}

fn takeInPageLocked(devices: *Devices, plan: *Plan, steps: *DeviceSteps, failure: *Failure) status.Error!void {
    if (steps.needsStaging(plan.options.verify)) try devices.takeStaging(plan, steps, failure);
    try mapStranded(devices, steps, failure);
    var tags: Tags = .{ .steps = steps.steps };
    while (tags.next()) |of_tag| try takeForTag(devices, plan, steps.device, of_tag, failure);
}

/// Maps content that a sleep whose undoing failed has left unmapped, so that it can be copied.
pub fn mapStranded(devices: *Devices, steps: *const DeviceSteps, failure: *Failure) status.Error!void {
    for (steps.steps) |step| {
        if (step.copies() and step.segment.content.isLive()) try devices.memory.back(step.segment, failure);
    }
}

/// The steps of each tag, which follow each other: a slab serves one tag.
pub const Tags = struct {
    steps: []Step,
    first: usize = 0,

    pub fn next(self: *Tags) ?[]Step {
        if (self.first == self.steps.len) return null;
        const tag = self.steps[self.first].segment.tag;
        var end = self.first;
        while (end < self.steps.len and self.steps[end].segment.tag == tag) end += 1;
        defer self.first = end;
        return self.steps[self.first..end];
    }
};

/// Bytes in whole blocks of the backups that still need a place.
pub fn missingBytes(steps: []const Step, which: enum { all, in_memory }) u64 {
    var sum: u64 = 0;
    for (steps) |step| {
        if (step.needsBackup() and !(which == .in_memory and step.spill))
            sum += host.Pool.blockSize(step.segment.size_bytes);
    }
    return sum;
}

fn takeForTag(
    devices: *Devices,
    plan: *Plan,
    device: u32,
    steps: []const Step,
    failure: *Failure,
) status.Error!void {
    const pool = &devices.memory.stores.page_locked;
    const wanted_bytes = missingBytes(steps, .in_memory);
    if (wanted_bytes == 0) return;
    if (!plan.refused) {
        switch (try growth.tryReserve(pool, device, wanted_bytes, plan.interrupt(), failure)) {
            .granted => {},
            .refused => |refusal| {
                if (!plan.options.isContentWithLess()) return refusal;
                plan.refused = true;
                try takeStagingForRest(devices, plan, failure);
            },
        }
    }
    for (steps) |step| {
        if (!step.needsBackup() or step.spill) continue;
        const size_bytes = host.Pool.blockSize(step.segment.size_bytes);
        if (pool.counts().free_bytes < size_bytes) continue;
        devices.memory.registry.save(step.segment, .{ .host = try pool.take(size_bytes) });
    }
}

/// After AscendCL has refused: staging for the devices whose backups will not all be page-locked.
pub fn takeStagingAfterRefusal(
    devices: *Devices,
    plan: *Plan,
    _: *DeviceSteps,
    failure: *Failure,
) status.Error!void {
    return takeStagingForRest(devices, plan, failure);
}

/// What is page-locked already goes to staging before it goes to backups. What was copied to them is copied again.
fn takeStagingForRest(devices: *Devices, plan: *Plan, failure: *Failure) status.Error!void {
    const pool = &devices.memory.stores.page_locked;
    while (stagingBytesMissing(devices, plan) > pool.counts().free_bytes) {
        const step = lastPageLocked(plan) orelse break;
        const taken = devices.memory.registry.takeBackup(step.segment, .drop_unfinished) orelse break;
        taken.drop(devices.memory.stores);
    }
    pool.expect(pool.counts().free_bytes);
    for (plan.devices) |*steps| {
        if (missingBytes(steps.steps, .in_memory) > 0) try devices.takeStaging(plan, steps, failure);
    }
}

fn stagingBytesMissing(devices: *const Devices, plan: *const Plan) u64 {
    var sum: u64 = 0;
    for (plan.devices) |steps| {
        const has_staging = steps.staging[0].len > 0 or devices.kept_staging[steps.device][0].len > 0;
        if (!has_staging and missingBytes(steps.steps, .in_memory) > 0) sum += staging_bytes;
    }
    return sum;
}

/// Of the backups that this plan is going to copy to.
fn lastPageLocked(plan: *const Plan) ?Step {
    var found: ?Step = null;
    for (plan.steps) |step| {
        if (step.copies() and step.segment.content == .saving and step.segment.content.saving.saved.backup == .host)
            found = step;
    }
    return found;
}

fn takePageable(devices: *Devices, plan: *Plan, steps: *const DeviceSteps, failure: *Failure) status.Error!void {
    const pool = &devices.memory.stores.pageable;
    const wanted_bytes = missingBytes(steps.steps, .in_memory);
    if (wanted_bytes == 0) return;
    defer pool.expect(0);
    switch (try growth.tryReserve(pool, steps.device, wanted_bytes, plan.interrupt(), failure)) {
        .granted => {},
        .refused => |refusal| if (!plan.options.spill) return refusal,
    }
    for (steps.steps) |step| {
        if (!step.needsBackup() or step.spill) continue;
        const size_bytes = host.Pool.blockSize(step.segment.size_bytes);
        if (pool.counts().free_bytes < size_bytes) continue;
        devices.memory.registry.save(step.segment, .{ .pageable = try pool.take(size_bytes) });
        plan.pageable_bytes += step.segment.size_bytes;
    }
}

fn takeSpill(devices: *Devices, plan: *Plan, steps: *const DeviceSteps, failure: *Failure) status.Error!void {
    const wanted_bytes = missingBytes(steps.steps, .all);
    if (wanted_bytes == 0) return;
    const spills = &devices.memory.stores.spills;
    var claim = try spills.claim(steps.device, plan.spill_folder, wanted_bytes, failure);
    defer claim.deinit();
    for (steps.steps) |step| {
        if (!step.needsBackup()) continue;
        const size_bytes = step.segment.size_bytes;
        const extents = try claim.cut(size_bytes);
        devices.memory.registry.save(step.segment, .{ .file = .{ .file = claim.file(), .extents = extents } });
        plan.spilled_bytes += size_bytes;
    }
}

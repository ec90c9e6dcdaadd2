//! A sleep, all or nothing: wait for the device, take host memory, copy, unmap everything while still holding the
//! physical memory, and only then free it. Until the first free every step is undone on a failure, so that all memory
//! is as it was.

const checksum = @import("checksum.zig");
const Devices = @import("devices.zig").Devices;
const files = @import("files.zig");
const pipeline = @import("pipeline.zig");
const placement = @import("placement.zig");
const plans = @import("plans.zig");
const status = @import("status.zig");
const DeviceSteps = plans.DeviceSteps;
const Failure = status.Failure;
const Plan = plans.Plan;

pub fn run(devices: *Devices, plan: *Plan, failure: *Failure) status.Error!void {
    plan.enter(.waiting);
    try plan.checkFiles(failure);
    try devices.onEach(plan, Devices.wait, failure);
    plan.enter(.preparing);
    const pool = &devices.memory.stores.page_locked;
    const reserved_before = pool.counts().reserved_bytes;
    errdefer pool.expect(reserved_before);
    const is_copied = try pipeline.copy(devices, plan, failure);
    if (!is_copied) try placement.takeBackups(devices, plan, failure);
    plan.enter(.verifying);
    if (plan.options.verify) try devices.onEach(plan, checksum.verifyKept, failure);
    if (!is_copied) {
        plan.enter(.copying);
        try devices.onEach(plan, copyToBackups, failure);
    }
    plan.enter(.verifying);
    try devices.onEach(plan, checksum.takeNew, failure);
    try plan.checkFiles(failure); // again: the copies took their time
    plan.enter(.releasing);
    try devices.onEach(plan, unmapAll, failure);
    commit(devices, plan);
}

fn copyToBackups(devices: *Devices, plan: *Plan, steps: *DeviceSteps, failure: *Failure) status.Error!void {
    var copier = devices.copier(plan, steps, .to_host);
    try copier.start(steps.steps.len, steps.bytesToCopy(), failure);
    for (steps.steps) |step| {
        if (step.copies()) copier.add(step.segment, 0);
    }
    try copier.finish(failure);
    try flushSpills(steps, failure);
}

fn flushSpills(steps: *const DeviceSteps, failure: *Failure) status.Error!void {
    var last: ?*const files.File = null;
    for (steps.steps) |step| {
        if (!step.copies()) continue;
        const in_file = step.segment.fileBackup() orelse continue;
        if (in_file.file != last) try in_file.file.flush(failure);
        last = in_file.file;
    }
}

fn unmapAll(devices: *Devices, plan: *Plan, steps: *DeviceSteps, failure: *Failure) status.Error!void {
    const interrupt = plan.interrupt();
    for (steps.steps) |step| {
        try interrupt.check();
        try devices.memory.unmap(step.segment, failure);
    }
}

/// Past the point of no return: nothing is mapped any more, every backup is whole.
fn commit(devices: *Devices, plan: *Plan) void {
    plan.complete = true;
    markOffloaded(devices, plan);
    for (plan.steps) |step| {
        if (step.action != .discard) continue;
        if (devices.memory.registry.takeBackup(step.segment, .discard)) |backup| backup.drop(devices.memory.stores);
    }
    var failure: Failure = .{};
    devices.onEach(plan, freeAll, &failure) catch |err| plan.note(err, &failure);
}

fn markOffloaded(devices: *Devices, plan: *Plan) void {
    const table = devices.memory.registry;
    table.mutex.lock();
    defer table.mutex.unlock();
    for (plan.steps) |step| switch (step.action) {
        .offload, .release => step.segment.content.offload(step.immutable),
        .discard, .restore, .remap => {},
    };
}

/// Goes on past failures: what could not be freed stays recorded.
fn freeAll(devices: *Devices, plan: *Plan, steps: *DeviceSteps, _: *Failure) status.Error!void {
    for (steps.steps) |step| {
        var own: Failure = .{};
        devices.memory.freePhysical(step.segment, &own) catch |err| plan.note(err, &own);
    }
}

/// Maps again what was unmapped, with the physical memory that was held all along, and drops new backups. Where that
/// fails too, the segment is stranded: asleep with its content in the memory it holds, and a wake-up maps it.
pub fn undo(devices: *Devices, plan: *Plan, steps: DeviceSteps) void {
    const memory = devices.memory;
    const scope = devices.enterToUndo(steps.device);
    defer if (scope) |entered| entered.abandon();
    var spare: Failure = .{};
    for (steps.steps) |step| {
        const segment = step.segment;
        if (segment.content.isLive() and !segment.isAwake()) memory.back(segment, &spare) catch {
            plan.undo_failed = true;
        };
        // What a copy may still write to is kept until the device has been waited for.
        if (plan.unsettled.load(.acquire) or devices.unsettled[steps.device]) continue;
        if (memory.registry.takeBackup(segment, .drop_unfinished)) |backup| backup.drop(memory.stores);
    }
}

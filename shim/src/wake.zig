//! A wake-up, all or nothing: back and map everything, copy, and only then let go of the backups. Until the copies
//! have arrived every step is undone on a failure, and the backups are intact.

const checksum = @import("checksum.zig");
const Devices = @import("devices.zig").Devices;
const plans = @import("plans.zig");
const Segment = @import("segment.zig").Segment;
const status = @import("status.zig");
const sync = @import("sync.zig");
const transfer = @import("transfer.zig");
const DeviceSteps = plans.DeviceSteps;
const Failure = status.Failure;
const Plan = plans.Plan;
const Zeroing = @import("zeroing.zig").Zeroing;

pub fn run(devices: *Devices, plan: *Plan, failure: *Failure) status.Error!void {
    plan.enter(.verifying);
    try plan.checkFiles(failure);
    // Staging is given back as it was found: what is prepared is for a sleep.
    const reserved_before = devices.memory.stores.page_locked.counts().reserved_bytes;
    defer devices.memory.stores.page_locked.expect(reserved_before);
    for (plan.devices) |*steps| {
        if (steps.needsStaging(plan.options.verify)) try devices.on(plan, steps, Devices.takeStaging, failure);
    }
    try devices.onEach(plan, checksum.verifyAsleep, failure);
    plan.enter(if (plan.bytes_total > 0) .copying else .mapping);
    try devices.onEach(plan, mapAndCopy, failure);
    try plan.checkFiles(failure); // again: it may have been written to while it was read
    try plan.interrupt().check();
    plan.complete = true;
    markAwake(devices, plan);
}

/// While the copies of one segment run, the next ones are mapped.
fn mapAndCopy(devices: *Devices, plan: *Plan, steps: *DeviceSteps, failure: *Failure) status.Error!void {
    // What an earlier wake-up could not undo may still be the target of its copies.
    if (devices.unsettled[steps.device] or holdsMappings(steps)) try devices.wait(plan, steps, failure);
    var copier = devices.copier(plan, steps, .to_device);
    try copier.start(steps.steps.len, steps.bytesToCopy(), failure);
    // Its stream is the one that the copier uses on this thread, once it finishes.
    var zeroing: Zeroing = .{
        .runtime = devices.memory.runtime,
        .stream = copier.streams[0],
        .observer = plan.observer(),
    };
    const mapping_ns = mapAll(devices, plan, steps, &copier, &zeroing, failure) catch |err| {
        copier.abandon();
        zeroing.abandon();
        return err;
    };
    try copier.finish(failure);
    if (plan.bytes_total == 0) return;
    plan.mutex.lock();
    defer plan.mutex.unlock();
    plan.mapping_ns = @max(plan.mapping_ns, mapping_ns);
}

/// Maps everything, and zeroes what is to be zeroed. Returns how long it took.
fn mapAll(
    devices: *Devices,
    plan: *Plan,
    steps: *DeviceSteps,
    copier: *transfer.Copier,
    zeroing: *Zeroing,
    failure: *Failure,
) status.Error!u64 {
    const interrupt = plan.interrupt();
    const started_ns = sync.now();
    for (steps.steps) |step| {
        try interrupt.check();
        try devices.memory.back(step.segment, failure);
        if (step.zero) try zeroing.add(step.segment, failure);
        if (plan.order == null) addTo(copier, step);
    }
    try zeroing.finish(failure);
    if (plan.order) |*order| {
        // Whoever uses a group while others are copied must not see the mapping fail.
        order.mapped();
        for (steps.steps) |step| addTo(copier, step);
    }
    return sync.now() -| started_ns;
}

fn addTo(copier: *transfer.Copier, step: plans.Step) void {
    if (step.copies()) copier.add(step.segment, step.group);
}

fn holdsMappings(steps: *const DeviceSteps) bool {
    for (steps.steps) |step| if (step.segment.mapped) return true;
    return false;
}

fn markAwake(devices: *Devices, plan: *Plan) void {
    const memory = devices.memory;
    for (plan.steps) |step| {
        const is_used = if (step.segment.ordered) |ordered| ordered.mutable else false;
        const Taking = @TypeOf(memory.registry.*).Taking;
        const how: Taking = if (step.immutable) .restore_immutable else if (is_used) .restore_used else .restore;
        if (memory.registry.takeBackup(step.segment, how)) |backup| backup.drop(memory.stores);
    }
}

/// Gives back the device memory that was taken. What cannot be given back is recorded as unreleased.
pub fn undo(devices: *Devices, plan: *Plan, steps: DeviceSteps) void {
    const scope = devices.enterToUndo(steps.device);
    defer if (scope) |entered| entered.abandon();
    var spare: Failure = .{};
    // The engine may have given the device work on what was ready.
    if (plan.order != null) devices.waitToUndo(steps.device);
    for (steps.steps) |step| {
        const segment = step.segment;
        if (segment.content.isLive()) continue; // its content is in the memory it holds
        const is_unsettled = plan.unsettled.load(.acquire) or devices.unsettled[steps.device];
        if (is_unsettled and segment.mapped) {
            plan.undo_failed = true;
            continue;
        }
        giveBack(devices, segment, &spare) catch {
            plan.undo_failed = true;
        };
    }
}

fn giveBack(devices: *Devices, segment: *Segment, failure: *Failure) status.Error!void {
    try devices.memory.unmap(segment, failure);
    try devices.memory.freePhysical(segment, failure);
}

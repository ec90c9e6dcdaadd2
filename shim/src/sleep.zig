//! A sleep, all or nothing: wait for the device, take host memory, copy, unmap everything while still holding the
//! physical memory, and only then free it. Until the first free every step is undone on a failure, so that all memory
//! is as it was.

const std = @import("std");
const Backup = @import("backup.zig").Backup;
const checksum = @import("checksum.zig");
const Devices = @import("devices.zig").Devices;
const files = @import("files.zig");
const heap = @import("heap.zig");
const host = @import("host.zig");
const plans = @import("plans.zig");
const status = @import("status.zig");
const DeviceSteps = plans.DeviceSteps;
const Failure = status.Failure;
const Plan = plans.Plan;
const Step = plans.Step;

pub fn run(devices: *Devices, plan: *Plan, failure: *Failure) status.Error!void {
    plan.enter(.waiting);
    try plan.checkFiles(failure);
    try devices.onEach(plan, Devices.wait, failure);
    plan.enter(.preparing);
    const pool = devices.memory.pool;
    const reserved_before = pool.counts().reserved_bytes;
    errdefer pool.expect(reserved_before);
    for (plan.devices) |*steps| try devices.on(plan, steps, takeBackups, failure);
    plan.enter(.verifying);
    if (plan.verify) try devices.onEach(plan, checksum.verifyKept, failure);
    plan.enter(.copying);
    try devices.onEach(plan, copyToBackups, failure);
    plan.enter(.verifying);
    try devices.onEach(plan, checksum.takeNew, failure);
    try plan.checkFiles(failure); // again: the copies took their time
    plan.enter(.releasing);
    try devices.onEach(plan, unmapAll, failure);
    commit(devices, plan);
}

/// Host memory and disk space for everything that is to be copied, before anything is.
fn takeBackups(devices: *Devices, plan: *Plan, steps: *DeviceSteps, failure: *Failure) status.Error!void {
    try devices.takeStaging(plan, steps, failure);
    var first: usize = 0;
    while (first < steps.steps.len) {
        const tag = steps.steps[first].segment.tag;
        var end = first;
        while (end < steps.steps.len and steps.steps[end].segment.tag == tag) end += 1;
        try takeBackupsOfTag(devices, plan, steps.steps[first..end], failure);
        first = end;
    }
}

fn takeBackupsOfTag(devices: *Devices, plan: *Plan, steps: []const Step, failure: *Failure) status.Error!void {
    const memory = devices.memory;
    var host_bytes: u64 = 0;
    var spill_bytes: u64 = 0;
    for (steps) |step| {
        const segment = step.segment;
        if (step.copies() and segment.content.isLive()) try memory.back(segment, failure);
        if (!step.needsBackup()) continue;
        if (step.spill) spill_bytes += segment.size_bytes else host_bytes += host.Pool.blockSize(segment.size_bytes);
    }
    if (host_bytes > 0) try memory.pool.reserve(host_bytes, plan.interrupt(), failure);
    var spill: ?Spill = if (spill_bytes > 0) try .create(plan, spill_bytes, failure) else null;
    defer if (spill) |created| created.file.release();
    for (steps) |step| {
        if (!step.needsBackup()) continue;
        const size_bytes = step.segment.size_bytes;
        const target: Backup = if (spill != null and step.spill)
            .{ .file = try spill.?.take(size_bytes) }
        else
            .{ .host = try memory.pool.take(host.Pool.blockSize(size_bytes)) };
        memory.registry.save(step.segment, target);
    }
}

/// A spill file that is handed out from its beginning.
const Spill = struct {
    file: *files.File,
    used_bytes: u64 = 0,

    fn create(plan: *const Plan, size_bytes: u64, failure: *Failure) status.Error!Spill {
        return .{ .file = try .createSpill(plan.spill_folder, size_bytes, failure) };
    }

    fn take(self: *Spill, size_bytes: u64) status.Error!@FieldType(Backup, "file") {
        const extent: files.Extent = .{
            .segment_offset_bytes = 0,
            .file_offset_bytes = self.used_bytes,
            .size_bytes = size_bytes,
        };
        const extents = heap.allocator.dupe(files.Extent, &.{extent}) catch return error.OutOfHostMemory;
        self.file.reference();
        self.used_bytes += size_bytes;
        return .{ .file = self.file, .extents = extents };
    }
};

fn copyToBackups(devices: *Devices, plan: *Plan, steps: *DeviceSteps, failure: *Failure) status.Error!void {
    var copier = devices.copier(plan, steps, .to_host);
    try copier.start(steps.steps.len, steps.bytesToCopy(), failure);
    for (steps.steps) |step| {
        if (step.copies()) copier.add(step.segment);
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
        if (devices.memory.registry.takeBackup(step.segment, .discard)) |backup| backup.drop(devices.memory.pool);
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
        if (memory.registry.takeBackup(segment, .drop_unfinished)) |backup| backup.drop(memory.pool);
    }
}

//! Checksums of backups: taken when a backup is made, compared before it is relied on.

const std = @import("std");
const acl = @import("acl");
const Devices = @import("devices.zig").Devices;
const plans = @import("plans.zig");
const Segment = @import("segment.zig").Segment;
const status = @import("status.zig");
const DeviceSteps = plans.DeviceSteps;
const Failure = status.Failure;
const Plan = plans.Plan;

/// Takes the checksums of new backups, where the plan verifies.
pub fn takeNew(devices: *Devices, plan: *Plan, steps: *DeviceSteps, failure: *Failure) status.Error!void {
    for (steps.steps) |step| {
        if (!step.copies()) continue;
        try plan.interrupt().check();
        const found = if (plan.options.verify) try ofBackup(step.segment, steps, failure) else null;
        devices.memory.registry.setChecksum(step.segment, found);
    }
}

/// Verifies the backups that a sleep does not make anew. One in a checkpoint has no checksum before its first sleep:
/// it is compared with what is in device memory.
pub fn verifyKept(devices: *Devices, plan: *Plan, steps: *DeviceSteps, failure: *Failure) status.Error!void {
    for (steps.steps) |step| {
        if (!step.keepsBackup()) continue;
        try plan.interrupt().check();
        const segment = step.segment;
        const found = try ofBackup(segment, steps, failure);
        try devices.memory.back(segment, failure); // a sleep whose undoing failed may have left it unmapped
        const expected = segment.content.checksum() orelse try ofDevice(devices, segment, steps, failure);
        if (found != expected) return corrupt(segment, failure);
        devices.memory.registry.setChecksum(segment, found);
    }
}

/// Compares the checksums of backups that a wake-up relies on, before anything is mapped.
pub fn verifyAsleep(_: *Devices, plan: *Plan, steps: *DeviceSteps, failure: *Failure) status.Error!void {
    for (steps.steps) |step| {
        const expected = step.segment.content.checksum() orelse continue;
        if (!step.copies()) continue;
        try plan.interrupt().check();
        if (try ofBackup(step.segment, steps, failure) != expected) return corrupt(step.segment, failure);
    }
}

fn corrupt(segment: *const Segment, failure: *Failure) status.Error {
    const is_checkpoint = if (segment.content.backup()) |backup| backup.isCheckpoint() else false;
    failure.describe("", 0, segment.address, segment.size_bytes, if (is_checkpoint)
        "the content of the checkpoint is not what is in device memory, or what it was"
    else
        "the checksum of the backup is not the one taken when it was made");
    return if (is_checkpoint) error.FileChanged else error.BackupCorrupt;
}

fn ofBackup(segment: *const Segment, steps: *const DeviceSteps, failure: *Failure) status.Error!u64 {
    var hash: std.hash.XxHash3 = .init(0);
    const backup = segment.content.backup() orelse return error.NoBackup;
    var pieces = backup.pieces(segment.requested_bytes);
    while (pieces.next()) |piece| switch (piece.place) {
        .memory, .pageable => |memory| hash.update(memory[0..piece.size_bytes]),
        .file => |in_file| {
            const buffer = try stagingBuffer(steps);
            var done: u64 = 0;
            while (done < piece.size_bytes) {
                const part = buffer[0..@min(buffer.len, piece.size_bytes - done)];
                try in_file.file.read(part.ptr, part.len, in_file.offset_bytes + done, failure);
                hash.update(part);
                done += part.len;
            }
        },
    };
    return hash.final();
}

/// Of the parts of a segment that its checkpoint holds, as they are in device memory.
fn ofDevice(devices: *Devices, segment: *const Segment, steps: *const DeviceSteps, failure: *Failure) status.Error!u64 {
    var hash: std.hash.XxHash3 = .init(0);
    const rt = devices.memory.runtime;
    const buffer = try stagingBuffer(steps);
    const backup = segment.content.backup() orelse return error.NoBackup;
    var pieces = backup.pieces(segment.requested_bytes);
    while (pieces.next()) |piece| {
        var done: u64 = 0;
        while (done < piece.size_bytes) {
            const part = buffer[0..@min(buffer.len, piece.size_bytes - done)];
            const address = segment.address + piece.segment_offset_bytes + done;
            const origin: *const anyopaque = @ptrFromInt(address);
            const kind = acl.MemcpyKind.device_to_host;
            const code = rt.library.api.aclrtMemcpy(part.ptr, part.len, origin, part.len, kind);
            try rt.check("aclrtMemcpy", code, address, part.len, failure);
            hash.update(part);
            done += part.len;
        }
    }
    return hash.final();
}

fn stagingBuffer(steps: *const DeviceSteps) status.Error![]u8 {
    const share = steps.staging[0];
    if (share.len == 0) return error.OutOfHostMemory;
    return share[0].memory()[0..share[0].sizeBytes()];
}

//! Runs a plan's steps on their devices, each device on a thread of its own, and keeps what copies may still use
//! until their device has been waited for.

const std = @import("std");
const Backup = @import("backup.zig").Backup;
const Events = @import("events.zig").Events;
const growth = @import("growth.zig");
const heap = @import("heap.zig");
const plans = @import("plans.zig");
const runtime = @import("runtime.zig");
const status = @import("status.zig");
const sync = @import("sync.zig");
const transfer = @import("transfer.zig");
const vmm = @import("vmm.zig");
const DeviceSteps = plans.DeviceSteps;
const Failure = status.Failure;
const Outcome = status.Outcome;
const Plan = plans.Plan;

/// Page-locked memory that a plan takes on each device where content goes to or comes from a file or ordinary memory.
pub const staging_bytes = runtime.streams_per_device * transfer.staging_bytes_per_stream;

const undo_patience_ns = 10 * std.time.ns_per_s;

pub const Devices = struct {
    memory: vmm.Memory,
    events: Events = .{},
    /// Devices on which copies of an earlier plan may still run, and the staging that they use. It and backups of
    /// memory that is awake are kept until the device has been waited for.
    unsettled: [runtime.max_devices]bool = @splat(false),
    unsettled_staging: [runtime.max_devices]transfer.Staging = @splat(transfer.no_staging),
    /// Set once AscendCL has refused to page-lock: staging stays for the wake-up until no backup needs it.
    keeps_staging: std.atomic.Value(bool) = .init(false),
    kept_staging: [runtime.max_devices]transfer.Staging = @splat(transfer.no_staging),
    kept_bytes: std.atomic.Value(u64) = .init(0),

    pub const Work = fn (self: *Devices, plan: *Plan, steps: *DeviceSteps, failure: *Failure) status.Error!void;

    /// Runs `work` for each device at once. Once one has failed the others end soon.
    pub fn onEach(self: *Devices, plan: *Plan, comptime work: Work, failure: *Failure) status.Error!void {
        if (plan.devices.len == 1) return self.on(plan, &plan.devices[0], work, failure);
        var threads: [runtime.max_devices]?sync.Thread = @splat(null);
        var outcomes: [runtime.max_devices]Outcome = @splat(.{});
        for (plan.devices[1..], 1..) |*steps, index|
            threads[index] = sync.Thread.spawn(runOn, .{ self, plan, steps, work, &outcomes[index] }) catch null;
        for (plan.devices, 0..) |*steps, index| {
            if (threads[index] == null) self.runOn(plan, steps, work, &outcomes[index]);
        }
        for (&threads) |thread| if (thread) |running| running.join();
        return Outcome.first(&outcomes, failure);
    }

    fn runOn(self: *Devices, plan: *Plan, steps: *DeviceSteps, comptime work: Work, outcome: *Outcome) void {
        self.on(plan, steps, work, &outcome.failure) catch |err| {
            outcome.err = err;
            plan.failed.store(true, .release);
        };
    }

    /// Runs `work` for one device, on this thread.
    pub fn on(
        self: *Devices,
        plan: *Plan,
        steps: *DeviceSteps,
        comptime work: Work,
        failure: *Failure,
    ) status.Error!void {
        const scope = try runtime.Scope.enter(self.memory.runtime, steps.device, failure);
        defer scope.abandon();
        return work(self, plan, steps, failure);
    }

    /// Waits until the device has finished what it was given.
    pub fn wait(self: *Devices, plan: *Plan, steps: *DeviceSteps, failure: *Failure) status.Error!void {
        try self.memory.runtime.synchronizeDevice(steps.device, plan.interrupt(), failure);
        self.events.settle(steps.device);
        self.settle(steps.device);
    }

    /// Waits, for some time, until the device has finished the work on memory that is to be unmapped. Otherwise it
    /// counts as unsettled, and the memory stays mapped.
    pub fn waitToUndo(self: *Devices, device: u32) void {
        var ignored: Failure = .{};
        const interrupt: sync.Interrupt = .{ .deadline_ns = sync.now() +| undo_patience_ns };
        self.memory.runtime.synchronizeDevice(device, interrupt, &ignored) catch {
            self.unsettled[device] = true;
            return;
        };
        self.events.settle(device);
        self.settle(device);
    }

    /// Staging for a device, unless the plan has it already.
    pub fn takeStaging(self: *Devices, plan: *Plan, steps: *DeviceSteps, failure: *Failure) status.Error!void {
        if (steps.staging[0].len > 0) return;
        if (self.unsettled[steps.device]) try self.wait(plan, steps, failure);
        const kept = &self.kept_staging[steps.device];
        if (kept[0].len > 0) {
            steps.staging = kept.*;
            kept.* = transfer.no_staging;
            _ = self.kept_bytes.fetchSub(staging_bytes, .monotonic);
            return;
        }
        const pool = &self.memory.stores.page_locked;
        const share_bytes = transfer.staging_bytes_per_stream;
        try growth.reserve(pool, steps.device, share_bytes * steps.staging.len, plan.interrupt(), failure);
        errdefer self.giveStaging(&steps.staging);
        for (&steps.staging) |*share| share.* = try pool.take(share_bytes);
    }

    /// At the end of a plan: gives its staging back, or keeps it where copies may still run.
    pub fn letGoOfStaging(self: *Devices, plan: *Plan, steps: *DeviceSteps) void {
        if (plan.refused) self.keeps_staging.store(true, .release);
        if (!plan.unsettled.load(.acquire)) return self.putAside(&steps.staging, steps.device);
        self.unsettled[steps.device] = true;
        if (steps.staging[0].len == 0) return;
        self.unsettled_staging[steps.device] = steps.staging;
        steps.staging = transfer.no_staging;
    }

    /// Keeps staging that no copy uses where a wake-up may not get it again, and else gives it back.
    fn putAside(self: *Devices, staging: *transfer.Staging, device: u32) void {
        const keeps = self.keeps_staging.load(.acquire) and self.kept_staging[device][0].len == 0;
        if (!keeps or staging[0].len == 0) return self.giveStaging(staging);
        self.kept_staging[device] = staging.*;
        staging.* = transfer.no_staging;
        _ = self.kept_bytes.fetchAdd(staging_bytes, .monotonic);
    }

    /// Whether staging is kept that no backup needs. Any thread may ask.
    pub fn hasNeedlessStaging(self: *Devices) bool {
        return self.keeps_staging.load(.acquire) and self.memory.stores.hasOnlyPageLocked();
    }

    /// Gives back staging that was kept, once no backup needs it.
    pub fn letGoOfKept(self: *Devices) void {
        if (!self.hasNeedlessStaging()) return;
        self.keeps_staging.store(false, .release);
        for (&self.kept_staging) |*staging| self.giveStaging(staging);
        self.kept_bytes.store(0, .monotonic);
    }

    fn giveStaging(self: *Devices, staging: *transfer.Staging) void {
        for (staging) |*share| {
            if (share.len > 0) self.memory.stores.page_locked.give(share.*);
            share.* = &.{};
        }
    }

    /// Gives back what no copy of an earlier plan can touch any more, now that the device has been waited for.
    fn settle(self: *Devices, device: u32) void {
        if (!self.unsettled[device]) return;
        self.putAside(&self.unsettled_staging[device], device);
        var unfinished: std.ArrayList(Backup) = .empty;
        defer unfinished.deinit(heap.allocator);
        self.memory.registry.takeUnfinished(device, &unfinished) catch return; // the next wait tries again
        for (unfinished.items) |backup| backup.drop(self.memory.stores);
        self.unsettled[device] = false;
    }

    /// Waits for the devices on which copies may still run.
    pub fn settleAll(self: *Devices, interrupt: ?sync.Interrupt, failure: *Failure) status.Error!void {
        for (self.unsettled, 0..) |unsettled, index| {
            if (!unsettled) continue;
            const device: u32 = @intCast(index);
            const rt = self.memory.runtime;
            if (!rt.isGone(device)) rt.synchronizeDevice(device, interrupt, failure) catch |err| {
                if (!rt.isGone(device)) return err;
            };
            self.events.settle(device);
            self.settle(device);
        }
    }

    /// The copies of one device, which the caller starts.
    pub fn copier(self: *Devices, plan: *Plan, steps: *DeviceSteps, direction: transfer.Direction) transfer.Copier {
        return .{
            .runtime = self.memory.runtime,
            .device = steps.device,
            .direction = direction,
            .streams = undefined, // until it starts
            .staging = &steps.staging,
            .observer = plan.observer(),
        };
    }

    /// Enters a device's context to undo what failed. Without it each call reports its own failure.
    pub fn enterToUndo(self: *Devices, device: u32) ?runtime.Scope {
        var ignored: Failure = .{};
        return runtime.Scope.enter(self.memory.runtime, device, &ignored) catch null;
    }
};

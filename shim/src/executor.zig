//! Runs one plan at a time on a thread of its own: a sleep or a wake-up, all or nothing.
//!
//! Sleep: wait for the device, take host memory, copy, unmap everything while still holding the physical memory, and only
//! then free it. Until the first free every step is undone on a failure, so that all memory is as it was.
//! Wake: back and map everything, copy, and only then let go of the backups. Until the copies have arrived every step is
//! undone on a failure, and the backups are intact.
//! After its point of no return a plan goes on past failures: the transition is complete, the first failure is reported, and
//! what could not be given back stays recorded and is tried again by the next plan.

const std = @import("std");
const acl = @import("acl");
const registry = @import("registry.zig");
const runtime = @import("runtime.zig");
const status = @import("status.zig");
const sync = @import("sync.zig");
const transfer = @import("transfer.zig");
const vmm = @import("vmm.zig");
const Failure = status.Failure;
const Segment = registry.Segment;

/// What happens to one segment.
pub const Action = enum(u32) {
    /// Copy to the host, unmap and free: a mapped segment.
    offload = 1,
    /// Unmap and free, or drop the backup: the content is gone.
    discard = 2,
    /// Map and copy the backup back.
    restore = 3,
    /// Map: the content is undefined.
    remap = 4,
    /// Give back what a segment holds though it is asleep and does not need it; content in device memory goes to the host
    /// first.
    release = 5,
    /// Give back the host memory that an earlier wake-up could not, of a segment that is awake.
    drop_backup = 6,

    fn isSleep(self: Action) bool {
        return switch (self) {
            .offload, .discard, .release => true,
            .restore, .remap, .drop_backup => false,
        };
    }

    fn fits(self: Action, segment: *const Segment) bool {
        return switch (self) {
            .offload => segment.isAwake(),
            .discard => segment.content != .discarded,
            .restore => !segment.isAwake() and segment.content != .discarded,
            .remap => segment.content == .discarded,
            .release => segment.isUnreleased() or (segment.content == .discarded and segment.backup != null),
            .drop_backup => segment.isAwake() and segment.backup != null,
        };
    }
};

pub const Phase = enum(u32) {
    queued = 0,
    /// Until the device has finished what it was given.
    waiting,
    /// Page-locked host memory is being taken.
    preparing,
    mapping,
    copying,
    /// Checksums are being taken (sleep) or compared (wake).
    verifying,
    /// Device memory (sleep) or backups (wake) are being given back.
    releasing,
    undoing,
    done,
};

const phase_count = @typeInfo(Phase).@"enum".fields.len;

pub const PlanStep = extern struct {
    address: u64,
    segment_id: u64,
    action: u32,
    reserved: u32 = 0,
};

pub const PlanProgress = extern struct {
    phase: u32,
    /// A `Status`, meaningful once `phase` is done.
    status: i32,
    /// 1 once the transition has taken place, also when a later step failed.
    complete: u32,
    /// 1 when it failed and not everything could be put back: some memory is asleep with its content safe.
    undo_failed: u32,
    copied_bytes: u64,
    copy_bytes_total: u64,
    waiting_ns: u64,
    preparing_ns: u64,
    mapping_ns: u64,
    copying_ns: u64,
    verifying_ns: u64,
    releasing_ns: u64,
    total_ns: u64,
};

const Step = struct {
    segment: *Segment,
    action: Action,
    /// The host memory was taken by this plan, so undoing gives it back.
    made_backup: bool = false,

    fn copies(self: Step) bool {
        return switch (self.action) {
            .offload => true,
            // Content that a failed sleep left in physical memory needs mapping only; to sleep, it is copied then.
            .restore => self.segment.content == .backed_up,
            .release => self.segment.content == .live,
            .discard, .remap, .drop_backup => false,
        };
    }
};

const Plan = struct {
    ticket: u64 = 0,
    steps: []Step = &.{},
    /// Take a checksum of each new backup.
    verify: bool = false,
    cancelled: std.atomic.Value(bool) = .init(false),
    phase: std.atomic.Value(u32) = .init(@intFromEnum(Phase.done)),
    bytes_done: std.atomic.Value(u64) = .init(0),
    bytes_total: u64 = 0,
    /// What follows is the executor's until the phase is done.
    complete: bool = false,
    undo_failed: bool = false,
    /// Copies may still be running: nothing they touch is given back by this plan.
    unsettled: bool = false,
    outcome: status.Status = .ok,
    failure: Failure = .{},
    started_ns: u64 = 0,
    phase_started_ns: u64 = 0,
    total_ns: u64 = 0,
    spent_ns: [phase_count]u64 = @splat(0),

    fn enter(self: *Plan, phase: Phase) void {
        const now = sync.now();
        self.spent_ns[self.phase.load(.monotonic)] += now - self.phase_started_ns;
        self.phase_started_ns = now;
        self.phase.store(@intFromEnum(phase), .release);
    }

    fn isDone(self: *const Plan) bool {
        return self.phase.load(.acquire) == @intFromEnum(Phase.done);
    }

    /// Before the point of no return.
    fn checkCancelled(self: *const Plan) status.Error!void {
        if (self.cancelled.load(.acquire)) return error.Aborted;
    }

    fn noteFailure(self: *Plan, err: status.Error) void {
        if (self.outcome == .ok) self.outcome = status.fromError(err);
    }

    /// Where a step past the point of no return reports to: only the first failure is kept.
    fn laterFailure(self: *Plan, spare: *Failure) *Failure {
        return if (self.outcome == .ok) &self.failure else spare;
    }
};

/// Results stay readable until this many later plans were submitted.
const history = 256;

pub const Executor = struct {
    memory: vmm.Memory,
    mutex: sync.Mutex = .{},
    changed: sync.Condition = .{},
    plans: [history]Plan = @splat(.{}),
    next_ticket: u64 = 1,
    pending: ?*Plan = null,
    stopping: bool = false,
    /// Segments wait for their release, beside any plan.
    sweep_wanted: bool = false,
    /// Makes a sweep that waits for a device give way.
    interrupted: std.atomic.Value(bool) = .init(false),

    pub fn deinit(self: *Executor) void {
        for (&self.plans) |*plan| std.debug.assert(plan.steps.len == 0);
    }

    /// The thread's body: runs plans until `stop`.
    pub fn runUntilStopped(self: *Executor) void {
        self.mutex.lock();
        defer self.mutex.unlock();
        while (true) {
            if (self.pending) |plan| {
                self.mutex.unlock();
                self.execute(plan);
                self.mutex.lock();
                registry.allocator.free(plan.steps);
                plan.steps = &.{};
                plan.enter(.done);
                self.pending = null;
            } else if (self.stopping) {
                return;
            } else if (self.sweep_wanted) {
                self.sweep_wanted = false;
                self.interrupted.store(false, .release);
                self.mutex.unlock();
                self.releaseDoomed(&self.interrupted);
                self.mutex.lock();
            } else {
                self.changed.wait(&self.mutex);
            }
        }
    }

    /// Cancels what runs and makes the thread's body return.
    pub fn stop(self: *Executor) void {
        self.mutex.lock();
        defer self.mutex.unlock();
        self.stopping = true;
        self.interrupted.store(true, .release);
        if (self.pending) |plan| plan.cancelled.store(true, .release);
        self.changed.broadcast();
    }

    /// Has what an earlier release could not give back tried again, without making the caller wait.
    pub fn requestSweep(self: *Executor) void {
        self.mutex.lock();
        defer self.mutex.unlock();
        self.sweep_wanted = true;
        self.changed.broadcast();
    }

    /// Takes a copy of `steps`, marks their segments as moving and starts. Returns the ticket to follow the plan by.
    pub fn submit(self: *Executor, steps: []const PlanStep, verify: bool) status.Error!u64 {
        self.mutex.lock();
        defer self.mutex.unlock();
        if (self.stopping) return error.NotOpen;
        if (self.pending != null) return error.Busy;
        const resolved = try self.resolve(steps);
        const plan = &self.plans[self.next_ticket % history];
        const now = sync.now();
        plan.* = .{ .ticket = self.next_ticket, .steps = resolved, .verify = verify, .phase = .init(@intFromEnum(Phase.queued)), .started_ns = now, .phase_started_ns = now };
        for (resolved) |step| {
            if (step.copies()) plan.bytes_total += step.segment.size_bytes;
        }
        self.next_ticket += 1;
        self.pending = plan;
        self.interrupted.store(true, .release);
        self.changed.broadcast();
        return plan.ticket;
    }

    /// Finds every step's segment and takes it, or takes none.
    fn resolve(self: *Executor, steps: []const PlanStep) status.Error![]Step {
        if (steps.len == 0) return error.InvalidArgument;
        const resolved = registry.allocator.alloc(Step, steps.len) catch return error.OutOfHostMemory;
        errdefer registry.allocator.free(resolved);
        const table = self.memory.registry;
        table.mutex.lock();
        defer table.mutex.unlock();
        var taken: usize = 0;
        errdefer for (resolved[0..taken]) |step| {
            step.segment.moving = false;
        };
        for (steps, resolved) |step, *slot| {
            const action = std.enums.fromInt(Action, step.action) orelse return error.InvalidArgument;
            const segment = table.segments.get(step.address) orelse return error.Stale;
            if (segment.id != step.segment_id or segment.doomed or segment.moving or !action.fits(segment)) return error.Stale;
            if (taken > 0 and action.isSleep() != resolved[0].action.isSleep()) return error.InvalidArgument;
            slot.* = .{ .segment = segment, .action = action };
            segment.moving = true;
            taken += 1;
        }
        return resolved;
    }

    fn find(self: *Executor, ticket: u64) status.Error!*Plan {
        const plan = &self.plans[ticket % history];
        if (ticket == 0 or plan.ticket != ticket) return error.Stale;
        return plan;
    }

    pub fn cancel(self: *Executor, ticket: u64) status.Error!void {
        self.mutex.lock();
        defer self.mutex.unlock();
        const plan = try self.find(ticket);
        plan.cancelled.store(true, .release);
    }

    /// How far a plan is; `failure` is written once it is done and failed.
    pub fn poll(self: *Executor, ticket: u64, progress: *PlanProgress, failure: *Failure) status.Error!void {
        self.mutex.lock();
        defer self.mutex.unlock();
        const plan = try self.find(ticket);
        progress.* = std.mem.zeroes(PlanProgress);
        progress.phase = plan.phase.load(.acquire);
        progress.copied_bytes = plan.bytes_done.load(.monotonic);
        progress.copy_bytes_total = plan.bytes_total;
        if (!plan.isDone()) return;
        progress.status = @intFromEnum(plan.outcome);
        progress.complete = @intFromBool(plan.complete);
        progress.undo_failed = @intFromBool(plan.undo_failed);
        progress.waiting_ns = plan.spent_ns[@intFromEnum(Phase.waiting)];
        progress.preparing_ns = plan.spent_ns[@intFromEnum(Phase.preparing)];
        progress.mapping_ns = plan.spent_ns[@intFromEnum(Phase.mapping)];
        progress.copying_ns = plan.spent_ns[@intFromEnum(Phase.copying)];
        progress.verifying_ns = plan.spent_ns[@intFromEnum(Phase.verifying)];
        progress.releasing_ns = plan.spent_ns[@intFromEnum(Phase.releasing)];
        progress.total_ns = plan.total_ns;
        if (plan.outcome != .ok) failure.* = plan.failure;
    }

    fn execute(self: *Executor, plan: *Plan) void {
        self.waitForPins(plan);
        const sleep = plan.steps[0].action.isSleep();
        const outcome = if (sleep) self.runSleep(plan) else self.runWake(plan);
        outcome catch |err| {
            plan.noteFailure(err);
            plan.enter(.undoing);
            if (sleep) self.undoSleep(plan) else self.undoWake(plan);
        };
        for (plan.steps) |step| self.memory.registry.stopMoving(step.segment);
        self.releaseDoomed(&plan.cancelled);
        plan.total_ns = sync.now() - plan.started_ns;
    }

    fn waitForPins(self: *Executor, plan: *Plan) void {
        const table = self.memory.registry;
        table.mutex.lock();
        defer table.mutex.unlock();
        for (plan.steps) |step| table.waitForPins(step.segment);
    }

    /// Releases what was freed while it moved. A failure leaves the segment doomed, for the next time.
    fn releaseDoomed(self: *Executor, interrupted: *const std.atomic.Value(bool)) void {
        var ignored: Failure = .{};
        self.releaseAllDoomed(interrupted, &ignored) catch return;
    }

    /// Releases every doomed segment that it can, and reports the first failure.
    pub fn releaseAllDoomed(self: *Executor, interrupted: ?*const std.atomic.Value(bool), failure: *Failure) status.Error!void {
        var list: std.ArrayList(*Segment) = .empty;
        defer list.deinit(registry.allocator);
        self.memory.registry.takeDoomed(&list);
        var first: ?status.Error = null;
        var spare: Failure = .{};
        for (list.items) |segment| {
            if (self.memory.release(segment, interrupted, if (first == null) failure else &spare)) {
                self.memory.registry.destroy(segment);
            } else |err| {
                if (first == null) first = err;
                self.memory.registry.stopMoving(segment);
            }
        }
        if (first) |err| return err;
    }

    fn runSleep(self: *Executor, plan: *Plan) status.Error!void {
        plan.enter(.waiting);
        try self.synchronizeDevices(plan);
        plan.enter(.preparing);
        for (plan.steps) |*step| {
            if (!step.copies()) continue;
            try plan.checkCancelled();
            try self.memory.back(step.segment, &plan.failure);
            step.made_backup = step.segment.backup == null;
            try self.memory.allocateBackup(step.segment, &plan.failure);
        }
        plan.enter(.copying);
        try self.copy(plan, .to_host);
        plan.enter(.verifying);
        try self.takeChecksums(plan);
        plan.enter(.releasing);
        for (plan.steps) |step| {
            try plan.checkCancelled();
            try self.memory.unmap(step.segment, &plan.failure);
        }
        self.commitSleep(plan);
    }

    /// Past the point of no return: nothing is mapped any more, every backup is whole.
    fn commitSleep(self: *Executor, plan: *Plan) void {
        plan.complete = true;
        for (plan.steps) |step| {
            switch (step.action) {
                .offload => self.memory.registry.set(step.segment, .content, .backed_up),
                .release => if (step.segment.content == .live) self.memory.registry.set(step.segment, .content, .backed_up),
                .discard => self.memory.registry.set(step.segment, .content, .discarded),
                .restore, .remap, .drop_backup => {},
            }
        }
        var spare: Failure = .{};
        for (plan.steps) |step| {
            self.memory.freePhysical(step.segment, plan.laterFailure(&spare)) catch |err| plan.noteFailure(err);
            if (step.segment.content == .discarded)
                self.memory.freeBackup(step.segment, plan.laterFailure(&spare)) catch |err| plan.noteFailure(err);
        }
    }

    /// Maps again what was unmapped, with the physical memory that was held all along, and gives new host memory back.
    /// Where that fails too, the segment is stranded: asleep with its content in the memory it holds, and a wake maps it.
    fn undoSleep(self: *Executor, plan: *Plan) void {
        var spare: Failure = .{};
        for (plan.steps) |step| {
            const segment = step.segment;
            if (segment.content == .live) self.memory.back(segment, &spare) catch {
                plan.undo_failed = true;
            };
            // Host memory that a copy may still write to, or that cannot be given back, serves the next sleep.
            if (step.made_backup and !plan.unsettled) self.memory.freeBackup(segment, &spare) catch {
                plan.undo_failed = true;
            };
        }
    }

    fn runWake(self: *Executor, plan: *Plan) status.Error!void {
        plan.enter(.verifying);
        try compareChecksums(plan);
        if (holdsMappings(plan)) try self.synchronizeDevices(plan);
        plan.enter(.mapping);
        for (plan.steps) |step| {
            try plan.checkCancelled();
            try self.memory.back(step.segment, &plan.failure);
        }
        plan.enter(.copying);
        try self.copy(plan, .to_device);
        try plan.checkCancelled();
        plan.complete = true;
        for (plan.steps) |step| self.memory.registry.set(step.segment, .content, .live);
        plan.enter(.releasing);
        var spare: Failure = .{};
        for (plan.steps) |step| {
            self.memory.freeBackup(step.segment, plan.laterFailure(&spare)) catch |err| plan.noteFailure(err);
        }
    }

    fn takeChecksums(self: *Executor, plan: *Plan) status.Error!void {
        for (plan.steps) |step| {
            if (!step.copies()) continue;
            try plan.checkCancelled();
            self.memory.registry.set(step.segment, .checksum, if (plan.verify) checksumOf(step.segment) else null);
        }
    }

    /// Before anything is mapped, so that a corrupt backup is never mapped as good.
    fn compareChecksums(plan: *Plan) status.Error!void {
        for (plan.steps) |step| {
            const expected = step.segment.checksum orelse continue;
            if (!step.copies()) continue;
            try plan.checkCancelled();
            if (checksumOf(step.segment) == expected) continue;
            plan.failure.describe("", 0, step.segment.address, step.segment.size_bytes, "the checksum of the backup is not the one taken when it was made");
            return error.BackupCorrupt;
        }
    }

    fn checksumOf(segment: *const Segment) u64 {
        const bytes: [*]const u8 = @ptrCast(segment.backup.?);
        return std.hash.XxHash3.hash(0, bytes[0..segment.size_bytes]);
    }

    /// What an earlier wake-up could not undo may still be the target of its copies.
    fn holdsMappings(plan: *const Plan) bool {
        for (plan.steps) |step| if (step.segment.mapped) return true;
        return false;
    }

    /// Gives back the device memory that was taken. What cannot be given back is recorded as unreleased.
    fn undoWake(self: *Executor, plan: *Plan) void {
        var spare: Failure = .{};
        for (plan.steps) |step| {
            const segment = step.segment;
            if (segment.content == .live) continue; // its content is in the memory it holds
            if (plan.unsettled and segment.mapped) {
                plan.undo_failed = true;
                continue;
            }
            self.giveBack(segment, &spare) catch {
                plan.undo_failed = true;
            };
        }
    }

    fn giveBack(self: *Executor, segment: *Segment, failure: *Failure) status.Error!void {
        try self.memory.unmap(segment, failure);
        try self.memory.freePhysical(segment, failure);
    }

    fn synchronizeDevices(self: *Executor, plan: *Plan) status.Error!void {
        var seen: [runtime.max_devices]bool = @splat(false);
        for (plan.steps) |step| {
            const device = step.segment.device;
            if (seen[device]) continue;
            seen[device] = true;
            try self.memory.runtime.synchronizeDevice(device, &plan.cancelled, &plan.failure);
        }
    }

    fn copy(self: *Executor, plan: *Plan, direction: transfer.Direction) status.Error!void {
        const segments = registry.allocator.alloc(*Segment, plan.steps.len) catch return error.OutOfHostMemory;
        defer registry.allocator.free(segments);
        for (0..self.memory.runtime.device_count) |device| {
            var count: usize = 0;
            for (plan.steps) |step| {
                if (!step.copies() or step.segment.device != device) continue;
                segments[count] = step.segment;
                count += 1;
            }
            if (count == 0) continue;
            try plan.checkCancelled();
            const scope = try runtime.Scope.enter(self.memory.runtime, @intCast(device), &plan.failure);
            defer scope.leave();
            const observer: transfer.Observer = .{ .bytes_done = &plan.bytes_done, .cancelled = &plan.cancelled, .unsettled = &plan.unsettled };
            try transfer.run(self.memory.runtime, @intCast(device), segments[0..count], direction, observer, &plan.failure);
        }
    }
};

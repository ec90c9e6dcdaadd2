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
const backup = @import("backup.zig");
const files = @import("files.zig");
const heap = @import("heap.zig");
const host = @import("host.zig");
const plans = @import("plans.zig");
const registry = @import("registry.zig");
const runtime = @import("runtime.zig");
const status = @import("status.zig");
const sync = @import("sync.zig");
const transfer = @import("transfer.zig");
const vmm = @import("vmm.zig");
const Failure = status.Failure;
const Group = plans.Group;
const Plan = plans.Plan;
const Segment = registry.Segment;
const Step = plans.Step;

/// Page-locked memory that a plan takes on each device where content goes to or comes from a file.
pub const staging_bytes = runtime.streams_per_device * transfer.staging_bytes_per_stream;

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
    /// Where spill files of later plans are made; empty without a folder.
    spill_folder: [1024]u8 = @splat(0),
    /// Makes a sweep that waits for a device give way.
    interrupted: std.atomic.Value(bool) = .init(false),
    /// Devices on which copies of an earlier plan may still run, and the staging that they use. It and backups of memory that
    /// is awake are kept until the device has been waited for.
    unsettled: [runtime.max_devices]bool = @splat(false),
    unsettled_staging: [runtime.max_devices]transfer.Staging = @splat(transfer.no_staging),

    /// The thread's body: runs plans until `stop`.
    pub fn runUntilStopped(self: *Executor) void {
        self.mutex.lock();
        defer self.mutex.unlock();
        while (true) {
            if (self.pending) |plan| {
                self.mutex.unlock();
                self.execute(plan);
                self.mutex.lock();
                heap.allocator.free(plan.steps);
                heap.allocator.free(plan.groups);
                plan.steps = &.{};
                plan.groups = &.{};
                plan.enter(.done);
                self.pending = null;
            } else if (self.stopping) {
                return;
            } else if (self.sweep_wanted) {
                self.sweep_wanted = false;
                self.interrupted.store(false, .release);
                self.mutex.unlock();
                self.sweep();
                self.mutex.lock();
            } else {
                self.changed.wait(&self.mutex);
            }
        }
    }

    fn sweep(self: *Executor) void {
        var ignored: Failure = .{};
        self.releaseAllDoomed(.{ .cancelled = &self.interrupted }, &ignored) catch return;
    }

    /// Takes plans again after a `stop` whose closing failed.
    pub fn restart(self: *Executor) void {
        self.mutex.lock();
        defer self.mutex.unlock();
        self.stopping = false;
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

    /// Marks the segments of all steps as moving and starts. Returns the ticket to follow the plan by.
    pub fn submit(self: *Executor, steps: []const plans.PlanStep, basis: plans.Basis, verify: bool) status.Error!u64 {
        if (steps.len == 0) return error.InvalidArgument;
        self.mutex.lock();
        defer self.mutex.unlock();
        try self.checkFree();
        const groups = heap.allocator.alloc(Group, self.memory.runtime.device_count) catch return error.OutOfHostMemory;
        errdefer heap.allocator.free(groups);
        const resolved = try plans.resolve(self.memory.registry, steps, basis);
        const plan = self.start();
        plan.steps = resolved.steps;
        plan.groups = groups;
        plan.verify = verify;
        plan.bytes_total = resolved.bytes_to_copy;
        self.launch(plan);
        return plan.ticket;
    }

    /// Starts a plan that page-locks host memory until `free_bytes` are free, and gives back what is not to be kept.
    pub fn submitPreparation(self: *Executor, device: u32, free_bytes: u64) status.Error!u64 {
        if (device >= self.memory.runtime.device_count) return error.UnknownDevice;
        if (free_bytes > std.math.maxInt(u64) - host.block_bytes) return error.InvalidSize;
        self.mutex.lock();
        defer self.mutex.unlock();
        try self.checkFree();
        const plan = self.start();
        plan.host_device = device;
        plan.host_bytes = host.Pool.blockSize(free_bytes);
        self.launch(plan);
        return plan.ticket;
    }

    fn checkFree(self: *const Executor) status.Error!void {
        if (self.stopping) return error.NotOpen;
        if (self.pending != null) return error.Busy;
    }

    fn start(self: *Executor) *Plan {
        const plan = &self.plans[self.next_ticket % history];
        const now = sync.now();
        plan.* = .{ .ticket = self.next_ticket, .spill_folder = self.spill_folder, .phase = .init(@intFromEnum(plans.Phase.queued)), .started_ns = now, .phase_started_ns = now };
        self.next_ticket += 1;
        return plan;
    }

    fn launch(self: *Executor, plan: *Plan) void {
        self.pending = plan;
        self.interrupted.store(true, .release);
        self.changed.broadcast();
    }

    pub fn setSpillFolder(self: *Executor, path: []const u8) status.Error!void {
        self.mutex.lock();
        defer self.mutex.unlock();
        if (path.len >= self.spill_folder.len) return error.InvalidArgument;
        status.copyText(&self.spill_folder, path);
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

    /// Waits until a plan is done, for at most `timeout_ns`.
    pub fn wait(self: *Executor, ticket: u64, timeout_ns: u64) status.Error!void {
        const plan = blk: {
            self.mutex.lock();
            defer self.mutex.unlock();
            break :blk try self.find(ticket);
        };
        const deadline_ns = sync.now() +| timeout_ns;
        while (true) {
            const phase = plan.phase.load(.acquire);
            const now_ns = sync.now();
            if (phase == @intFromEnum(plans.Phase.done) or now_ns >= deadline_ns) return;
            sync.waitWhile(&plan.phase, phase, deadline_ns - now_ns);
        }
    }

    /// How far a plan is; `failure` is written once it is done and failed.
    pub fn poll(self: *Executor, ticket: u64, progress: *plans.PlanProgress, failure: *Failure) status.Error!void {
        self.mutex.lock();
        defer self.mutex.unlock();
        const plan = try self.find(ticket);
        progress.* = plan.progress();
        if (plan.isDone() and plan.outcome != .ok) failure.* = plan.failure;
    }

    fn execute(self: *Executor, plan: *Plan) void {
        plan.groups = plans.group(plan.steps, plan.groups);
        self.waitForPins(plan);
        var failure: Failure = .{};
        self.run(plan, &failure) catch |err| {
            plan.note(err, &failure);
            plan.enter(.undoing);
            self.undo(plan);
        };
        for (plan.groups) |*each| self.letGoOfStaging(plan, each);
        plan.enter(.releasing);
        self.stopMoving(plan);
        self.finish(plan);
        plan.total_ns = sync.now() - plan.started_ns;
    }

    /// Releases what was freed while it moved, whose failures are no concern of the plan, and the host memory that is left.
    fn finish(self: *Executor, plan: *Plan) void {
        var failure: Failure = .{};
        const unreleased = self.releaseSegments(.{ .cancelled = &plan.cancelled }, &failure);
        self.memory.pool.trim(&failure) catch |err| plan.note(err, &failure);
        unreleased catch return;
    }

    fn run(self: *Executor, plan: *Plan, failure: *Failure) status.Error!void {
        if (plan.steps.len == 0) return self.prepare(plan, failure);
        return if (plan.isSleep()) self.runSleep(plan, failure) else self.runWake(plan, failure);
    }

    fn undo(self: *Executor, plan: *Plan) void {
        if (plan.steps.len == 0) return;
        for (plan.groups) |each| if (plan.isSleep()) self.undoSleep(plan, each) else self.undoWake(plan, each);
    }

    fn stopMoving(self: *Executor, plan: *Plan) void {
        const table = self.memory.registry;
        table.mutex.lock();
        defer table.mutex.unlock();
        for (plan.steps) |step| step.segment.moving = false;
        table.changed.broadcast();
    }

    /// Runs `work` for each device, on a thread of its own where there are several. Once one has failed the others end soon.
    fn onEachDevice(self: *Executor, plan: *Plan, comptime work: Work, failure: *Failure) status.Error!void {
        if (plan.groups.len == 1) return self.onDevice(plan, &plan.groups[0], work, failure);
        var threads: [runtime.max_devices]?sync.Thread = @splat(null);
        var outcomes: [runtime.max_devices]Outcome = @splat(.{});
        for (plan.groups[1..], 1..) |*each, index|
            threads[index] = sync.Thread.spawn(runOnDevice, .{ self, plan, each, work, &outcomes[index] }) catch null;
        for (plan.groups, 0..) |*each, index| {
            if (threads[index] == null) self.runOnDevice(plan, each, work, &outcomes[index]);
        }
        for (&threads) |thread| if (thread) |running| running.join();
        // One that ended because another failed says nothing.
        var first: ?Outcome = null;
        for (outcomes) |outcome| {
            if (outcome.err == null) continue;
            if (first == null or first.?.err.? == error.Aborted) first = outcome;
        }
        const outcome = first orelse return;
        failure.* = outcome.failure;
        return outcome.err.?;
    }

    const Work = fn (self: *Executor, plan: *Plan, group: *Group, failure: *Failure) status.Error!void;
    const Outcome = struct { err: ?status.Error = null, failure: Failure = .{} };

    fn runOnDevice(self: *Executor, plan: *Plan, each: *Group, comptime work: Work, outcome: *Outcome) void {
        self.onDevice(plan, each, work, &outcome.failure) catch |err| {
            outcome.err = err;
            plan.failed.store(true, .release);
        };
    }

    fn onDevice(self: *Executor, plan: *Plan, each: *Group, comptime work: Work, failure: *Failure) status.Error!void {
        const scope = try runtime.Scope.enter(self.memory.runtime, each.device, failure);
        defer scope.abandon();
        return work(self, plan, each, failure);
    }

    fn waitForPins(self: *Executor, plan: *Plan) void {
        const table = self.memory.registry;
        table.mutex.lock();
        defer table.mutex.unlock();
        for (plan.steps) |step| table.waitForPins(step.segment);
    }

    /// Releases every doomed segment that it can, and the host memory that nothing keeps; reports the first failure. What
    /// fails is left for the next time.
    pub fn releaseAllDoomed(self: *Executor, interrupt: ?sync.Interrupt, failure: *Failure) status.Error!void {
        var spare: Failure = .{};
        const released = self.releaseSegments(interrupt, failure);
        const trimmed = self.memory.pool.trim(if (released) |_| failure else |_| &spare);
        try released;
        return trimmed;
    }

    fn releaseSegments(self: *Executor, interrupt: ?sync.Interrupt, failure: *Failure) status.Error!void {
        const table = self.memory.registry;
        const round = table.beginSweep();
        var first: ?status.Error = null;
        var spare: Failure = .{};
        while (table.takeDoomed(round)) |segment| {
            if (self.memory.release(segment, interrupt, if (first == null) failure else &spare)) {
                table.destroy(segment);
            } else |err| {
                if (first == null) first = err;
                table.stopMoving(segment);
            }
        }
        if (first) |err| return err;
    }

    fn prepare(self: *Executor, plan: *Plan, failure: *Failure) status.Error!void {
        plan.enter(.preparing);
        const scope = try runtime.Scope.enter(self.memory.runtime, plan.host_device, failure);
        defer scope.abandon();
        try self.settleAll(plan.interrupt(), failure);
        const reserved_before = self.memory.pool.counts().reserved_bytes;
        errdefer self.memory.pool.expect(reserved_before);
        self.memory.pool.expect(plan.host_bytes); // what an earlier preparation expected is out of date
        try self.memory.pool.reserve(plan.host_bytes, plan.interrupt(), failure);
        plan.complete = true;
    }

    fn runSleep(self: *Executor, plan: *Plan, failure: *Failure) status.Error!void {
        plan.enter(.waiting);
        try checkFiles(plan, failure);
        try self.onEachDevice(plan, waitForDevice, failure);
        plan.enter(.preparing);
        const reserved_before = self.memory.pool.counts().reserved_bytes;
        errdefer self.memory.pool.expect(reserved_before);
        for (plan.groups) |*each| try self.onDevice(plan, each, takeBackups, failure);
        plan.enter(.verifying);
        if (plan.verify) try self.onEachDevice(plan, verifyClean, failure);
        plan.enter(.copying);
        try self.onEachDevice(plan, copyToBackups, failure);
        plan.enter(.verifying);
        try self.onEachDevice(plan, takeChecksums, failure);
        try checkFiles(plan, failure); // again: the copies took their time
        plan.enter(.releasing);
        try self.onEachDevice(plan, unmapAll, failure);
        self.commitSleep(plan);
    }

    /// A checkpoint that somebody wrote to is no backup any more.
    fn checkFiles(plan: *Plan, failure: *Failure) status.Error!void {
        var last: ?*const files.File = null;
        for (plan.steps) |step| {
            if (step.segment.backup != .file or !step.reliesOnBackup()) continue;
            const file = step.segment.backup.file.file;
            if (file == last) continue;
            last = file;
            try file.checkUnchanged(failure);
        }
    }

    fn waitForDevice(self: *Executor, plan: *Plan, each: *Group, failure: *Failure) status.Error!void {
        try self.memory.runtime.synchronizeDevice(each.device, plan.interrupt(), failure);
        self.settle(each.device);
    }

    /// Host memory and disk space for everything that is to be copied, before anything is.
    fn takeBackups(self: *Executor, plan: *Plan, each: *Group, failure: *Failure) status.Error!void {
        try self.takeStaging(plan, each, failure);
        var first: usize = 0;
        while (first < each.steps.len) {
            const tag = each.steps[first].segment.tag;
            var end = first;
            while (end < each.steps.len and each.steps[end].segment.tag == tag) end += 1;
            try self.takeBackupsOfTag(plan, each.steps[first..end], failure);
            first = end;
        }
    }

    fn takeBackupsOfTag(self: *Executor, plan: *Plan, steps: []const Step, failure: *Failure) status.Error!void {
        var host_bytes: u64 = 0;
        var spill_bytes: u64 = 0;
        for (steps) |step| {
            if (step.copies() and step.segment.content == .live) try self.memory.back(step.segment, failure);
            if (!step.needsBackup()) continue;
            if (step.spill) spill_bytes += step.segment.size_bytes else host_bytes += host.Pool.blockSize(step.segment.size_bytes);
        }
        if (host_bytes > 0) try self.memory.pool.reserve(host_bytes, plan.interrupt(), failure);
        const file = if (spill_bytes > 0) try files.File.createSpill(@ptrCast(&plan.spill_folder), spill_bytes, failure) else null;
        defer if (file) |created| created.release();
        var file_offset: u64 = 0;
        for (steps) |step| {
            if (!step.needsBackup()) continue;
            const size_bytes = step.segment.size_bytes;
            const taken: backup.Backup = if (step.spill) blk: {
                const extents = heap.allocator.dupe(files.Extent, &.{.{ .segment_offset_bytes = 0, .file_offset_bytes = file_offset, .size_bytes = size_bytes }}) catch return error.OutOfHostMemory;
                file.?.reference();
                file_offset += size_bytes;
                break :blk .{ .file = .{ .file = file.?, .extents = extents } };
            } else .{ .host = try self.memory.pool.take(host.Pool.blockSize(size_bytes)) };
            self.memory.registry.set(step.segment, .backup, taken);
        }
    }

    fn takeStaging(self: *Executor, plan: *Plan, each: *Group, failure: *Failure) status.Error!void {
        if (!each.needsStaging(plan.verify)) return;
        if (self.unsettled[each.device]) try self.waitForDevice(plan, each, failure);
        const share_bytes = transfer.staging_bytes_per_stream;
        try self.memory.pool.reserve(share_bytes * each.staging.len, plan.interrupt(), failure);
        for (&each.staging) |*share| share.* = try self.memory.pool.take(share_bytes);
    }

    fn letGoOfStaging(self: *Executor, plan: *Plan, each: *Group) void {
        if (!plan.unsettled.load(.acquire)) return self.giveStaging(&each.staging);
        self.unsettled[each.device] = true;
        if (each.staging[0].len == 0) return;
        self.unsettled_staging[each.device] = each.staging;
        each.staging = transfer.no_staging;
    }

    fn giveStaging(self: *Executor, staging: *transfer.Staging) void {
        for (staging) |*share| {
            if (share.len > 0) self.memory.pool.give(share.*);
            share.* = &.{};
        }
    }

    /// Gives back what no copy of an earlier plan can touch any more, now that the device has been waited for.
    fn settle(self: *Executor, device: u32) void {
        if (!self.unsettled[device]) return;
        self.giveStaging(&self.unsettled_staging[device]);
        var left: std.ArrayList(backup.Backup) = .empty;
        defer left.deinit(heap.allocator);
        self.memory.registry.takeLeftBackups(device, &left) catch return; // the next wait tries again
        for (left.items) |each| each.drop(self.memory.pool);
        self.unsettled[device] = false;
    }

    /// Waits for the devices on which copies may still run.
    pub fn settleAll(self: *Executor, interrupt: ?sync.Interrupt, failure: *Failure) status.Error!void {
        for (self.unsettled, 0..) |unsettled, index| {
            if (!unsettled) continue;
            const device: u32 = @intCast(index);
            if (!self.memory.runtime.isGone(device)) try self.memory.runtime.synchronizeDevice(device, interrupt, failure);
            self.settle(device);
        }
    }

    fn copyToBackups(self: *Executor, plan: *Plan, each: *Group, failure: *Failure) status.Error!void {
        var copier = self.copierOf(plan, each, .to_host);
        try copier.start(each.steps.len, each.bytesToCopy(), failure);
        for (each.steps) |step| {
            if (step.copies()) copier.add(step.segment);
        }
        try copier.finish(failure);
        try flushSpills(each, failure);
    }

    fn copierOf(self: *Executor, plan: *Plan, each: *Group, direction: transfer.Direction) transfer.Copier {
        return .{
            .runtime = self.memory.runtime,
            .device = each.device,
            .direction = direction,
            .streams = undefined, // until it starts
            .staging = &each.staging,
            .observer = plan.observer(),
        };
    }

    fn flushSpills(each: *const Group, failure: *Failure) status.Error!void {
        var last: ?*const files.File = null;
        for (each.steps) |step| {
            if (!step.copies() or step.segment.backup != .file) continue;
            const file = step.segment.backup.file.file;
            if (file != last) try file.flush(failure);
            last = file;
        }
    }

    fn unmapAll(self: *Executor, plan: *Plan, each: *Group, failure: *Failure) status.Error!void {
        const interrupt = plan.interrupt();
        for (each.steps) |step| {
            try interrupt.check();
            try self.memory.unmap(step.segment, failure);
        }
    }

    /// Past the point of no return: nothing is mapped any more, every backup is whole.
    fn commitSleep(self: *Executor, plan: *Plan) void {
        plan.complete = true;
        self.markAsleep(plan);
        for (plan.steps) |step| {
            if (step.segment.content == .discarded) self.memory.dropBackup(step.segment);
        }
        var failure: Failure = .{};
        self.onEachDevice(plan, freeAll, &failure) catch |err| plan.note(err, &failure);
    }

    fn markAsleep(self: *Executor, plan: *Plan) void {
        const table = self.memory.registry;
        table.mutex.lock();
        defer table.mutex.unlock();
        for (plan.steps) |step| {
            const segment = step.segment;
            switch (step.action) {
                .offload => segment.content = .backed_up,
                .release => if (segment.content == .live) {
                    segment.content = .backed_up;
                },
                .discard => segment.content = .discarded,
                .restore, .remap => {},
            }
            segment.clean = false;
            segment.sealed = segment.content == .backed_up and (segment.sealed or step.immutable);
        }
    }

    /// Goes on past failures: what could not be freed stays recorded.
    fn freeAll(self: *Executor, plan: *Plan, each: *Group, failure: *Failure) status.Error!void {
        for (each.steps) |step| {
            var own: Failure = .{};
            self.memory.freePhysical(step.segment, &own) catch |err| plan.note(err, &own);
        }
        _ = failure;
    }

    /// Maps again what was unmapped, with the physical memory that was held all along, and drops new backups.
    /// Where that fails too, the segment is stranded: asleep with its content in the memory it holds, and a wake maps it.
    fn undoSleep(self: *Executor, plan: *Plan, each: Group) void {
        var spare: Failure = .{};
        const scope = runtime.Scope.enter(self.memory.runtime, each.device, &spare) catch null;
        defer if (scope) |entered| entered.abandon();
        for (each.steps) |step| {
            const segment = step.segment;
            if (segment.content == .live and !segment.isAwake()) self.memory.back(segment, &spare) catch {
                plan.undo_failed = true;
            };
            // What a copy may still write to is kept until the device has been waited for.
            const is_unfinished = segment.content == .live and !segment.clean;
            if (is_unfinished and !plan.unsettled.load(.acquire)) self.memory.dropBackup(segment);
        }
    }

    fn runWake(self: *Executor, plan: *Plan, failure: *Failure) status.Error!void {
        plan.enter(.verifying);
        try checkFiles(plan, failure);
        // Staging is given back as it was found: what is prepared is for a sleep.
        const reserved_before = self.memory.pool.counts().reserved_bytes;
        defer self.memory.pool.expect(reserved_before);
        for (plan.groups) |*each| try self.onDevice(plan, each, takeStagingOf, failure);
        try self.onEachDevice(plan, compareChecksums, failure);
        plan.enter(if (plan.bytes_total > 0) .copying else .mapping);
        try self.onEachDevice(plan, mapAndCopy, failure);
        try checkFiles(plan, failure); // again: it may have been written to while it was read
        try plan.interrupt().check();
        plan.complete = true;
        self.markAwake(plan);
    }

    fn takeStagingOf(self: *Executor, plan: *Plan, each: *Group, failure: *Failure) status.Error!void {
        return self.takeStaging(plan, each, failure);
    }

    /// While the copies of one segment run, the next ones are mapped.
    fn mapAndCopy(self: *Executor, plan: *Plan, each: *Group, failure: *Failure) status.Error!void {
        // What an earlier wake-up could not undo may still be the target of its copies.
        if (self.unsettled[each.device] or holdsMappings(each)) try self.waitForDevice(plan, each, failure);
        var copier = self.copierOf(plan, each, .to_device);
        try copier.start(each.steps.len, each.bytesToCopy(), failure);
        const mapping_ns = self.mapAll(plan, each, &copier, failure) catch |err| {
            copier.abandon();
            return err;
        };
        try copier.finish(failure);
        if (plan.bytes_total == 0) return;
        plan.mutex.lock();
        defer plan.mutex.unlock();
        plan.mapping_ns = @max(plan.mapping_ns, mapping_ns);
    }

    /// Returns how long it took.
    fn mapAll(self: *Executor, plan: *Plan, each: *Group, copier: *transfer.Copier, failure: *Failure) status.Error!u64 {
        const interrupt = plan.interrupt();
        const started_ns = sync.now();
        for (each.steps) |step| {
            try interrupt.check();
            try self.memory.back(step.segment, failure);
            if (step.copies()) copier.add(step.segment);
        }
        return sync.now() - started_ns;
    }

    fn holdsMappings(each: *const Group) bool {
        for (each.steps) |step| if (step.segment.mapped) return true;
        return false;
    }

    fn markAwake(self: *Executor, plan: *Plan) void {
        for (plan.steps) |step| {
            const segment = step.segment;
            // A failed sleep may have left content in physical memory, and a backup that it had not finished.
            const intact = segment.content == .backed_up or segment.clean;
            const keeps = intact and (step.immutable or segment.sealed or segment.backup.isCheckpoint());
            if (!keeps) self.memory.dropBackup(segment);
            const table = self.memory.registry;
            table.mutex.lock();
            defer table.mutex.unlock();
            segment.clean = keeps;
            segment.sealed = segment.sealed or keeps;
            segment.content = .live;
        }
    }

    /// Gives back the device memory that was taken. What cannot be given back is recorded as unreleased.
    fn undoWake(self: *Executor, plan: *Plan, each: Group) void {
        var spare: Failure = .{};
        const scope = runtime.Scope.enter(self.memory.runtime, each.device, &spare) catch null;
        defer if (scope) |entered| entered.abandon();
        for (each.steps) |step| {
            const segment = step.segment;
            if (segment.content == .live) continue; // its content is in the memory it holds
            if (plan.unsettled.load(.acquire) and segment.mapped) {
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

    fn takeChecksums(self: *Executor, plan: *Plan, each: *Group, failure: *Failure) status.Error!void {
        for (each.steps) |step| {
            if (!step.copies()) continue;
            try plan.interrupt().check();
            self.memory.registry.set(step.segment, .checksum, if (plan.verify) try checksumOf(step.segment, each, failure) else null);
        }
    }

    /// A backup that is not made anew has to be what it was. One in a checkpoint has no checksum before its first sleep: it is
    /// compared with what is in device memory.
    fn verifyClean(self: *Executor, plan: *Plan, each: *Group, failure: *Failure) status.Error!void {
        for (each.steps) |step| {
            if (!step.keepsBackup()) continue;
            try plan.interrupt().check();
            const segment = step.segment;
            const found = try checksumOf(segment, each, failure);
            try self.memory.back(segment, failure); // which a sleep whose undoing failed has left unmapped
            const expected = segment.checksum orelse try self.checksumOnDevice(segment, each, failure);
            if (found != expected) return corrupt(segment, failure);
            self.memory.registry.set(segment, .checksum, found);
        }
    }

    /// Before anything is mapped, so that a corrupt backup is never mapped as good.
    fn compareChecksums(_: *Executor, plan: *Plan, each: *Group, failure: *Failure) status.Error!void {
        for (each.steps) |step| {
            const expected = step.segment.checksum orelse continue;
            if (!step.copies()) continue;
            try plan.interrupt().check();
            if (try checksumOf(step.segment, each, failure) != expected) return corrupt(step.segment, failure);
        }
    }

    fn corrupt(segment: *const Segment, failure: *Failure) status.Error {
        const reason = if (segment.backup.isCheckpoint())
            "the content of the checkpoint is not what is in device memory, or what it was"
        else
            "the checksum of the backup is not the one taken when it was made";
        failure.describe("", 0, segment.address, segment.size_bytes, reason);
        return if (segment.backup.isCheckpoint()) error.FileChanged else error.BackupCorrupt;
    }

    fn checksumOf(segment: *const Segment, each: *const Group, failure: *Failure) status.Error!u64 {
        var hash: std.hash.XxHash3 = .init(0);
        var pieces = segment.backup.pieces(segment.size_bytes);
        while (pieces.next()) |piece| switch (piece.place) {
            .memory => |memory| hash.update(memory[0..piece.size_bytes]),
            .file_offset_bytes => |file_offset| {
                const buffer = stagingBuffer(each);
                var done: u64 = 0;
                while (done < piece.size_bytes) {
                    const part = buffer[0..@min(buffer.len, piece.size_bytes - done)];
                    try segment.backup.file.file.read(part.ptr, part.len, file_offset + done, failure);
                    hash.update(part);
                    done += part.len;
                }
            },
        };
        return hash.final();
    }

    /// Of the parts of a segment that its checkpoint holds, as they are in device memory.
    fn checksumOnDevice(self: *Executor, segment: *const Segment, each: *const Group, failure: *Failure) status.Error!u64 {
        var hash: std.hash.XxHash3 = .init(0);
        const buffer = stagingBuffer(each);
        var pieces = segment.backup.pieces(segment.size_bytes);
        while (pieces.next()) |piece| {
            var done: u64 = 0;
            while (done < piece.size_bytes) {
                const part = buffer[0..@min(buffer.len, piece.size_bytes - done)];
                const address = segment.address + piece.segment_offset_bytes + done;
                const code = self.memory.runtime.library.api.aclrtMemcpy(part.ptr, part.len, @ptrFromInt(address), part.len, acl.MemcpyKind.device_to_host);
                try self.memory.runtime.check("aclrtMemcpy", code, address, part.len, failure);
                hash.update(part);
                done += part.len;
            }
        }
        return hash.final();
    }

    fn stagingBuffer(each: *const Group) []u8 {
        const extent = each.staging[0][0];
        return extent.memory()[0..extent.sizeBytes()];
    }
};

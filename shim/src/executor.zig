//! Runs one plan at a time on a thread of its own: a sleep, a wake-up, or a preparation.
//!
//! After its point of no return a plan goes on past failures: the transition is complete, the first failure is
//! reported, and what could not be given back stays recorded and is tried again by the next plan.

const std = @import("std");
const acl = @import("acl");
const program_memory = @import("program_memory.zig");
const Devices = @import("devices.zig").Devices;
const growth = @import("growth.zig");
const heap = @import("heap.zig");
const host = @import("host.zig");
const orders = @import("order.zig");
const plans = @import("plans.zig");
const runtime = @import("runtime.zig");
const sleep = @import("sleep.zig");
const status = @import("status.zig");
const sync = @import("sync.zig");
const wake = @import("wake.zig");
const Failure = status.Failure;
const Plan = plans.Plan;

/// How long a release waits for a busy device before it is left to a sweep: short enough for an event loop.
pub const release_patience_ns = 5 * std.time.ns_per_ms;

/// Results stay readable until this many later plans were submitted.
const history = 256;

/// Keeps the program that a session is beside away from the memory of a plan.
pub const Guard = struct {
    /// Holds back calls that begin, and waits for those in progress. Called again for later plans, also without an
    /// `open` between.
    close: *const fn (interrupt: sync.Interrupt, failure: *Failure) status.Error!void,
    /// A plan has ended.
    open: *const fn () void,
};

const SpillFolder = [std.os.linux.PATH_MAX]u8;

pub const Executor = struct {
    devices: Devices,
    guard: ?Guard = null,
    mutex: sync.Mutex = .{},
    changed: sync.Condition = .{},
    plans: [history]Plan = @splat(.{}),
    next_ticket: u64 = 1,
    pending: ?*Plan = null,
    /// How many plans have ended, for those that wait.
    ended: std.atomic.Value(u32) = .init(0),
    stopping: bool = false,
    /// Segments wait for their release, beside any plan.
    sweep_wanted: bool = false,
    /// Devices to let go of once none of their segments is left.
    close_wanted: [runtime.max_devices]bool = @splat(false),
    /// Where spill files of later plans are made; empty without a folder.
    spill_folder: SpillFolder = @splat(0),
    /// As it was when the plan that runs was submitted.
    plan_spill_folder: SpillFolder = @splat(0),
    /// Makes a sweep that waits for a device give way.
    interrupted: std.atomic.Value(bool) = .init(false),
    /// Of the plan that runs.
    device_steps: [runtime.max_devices]plans.DeviceSteps = undefined,

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
                plan.steps = &.{};
                plan.devices = &.{};
                if (plan.order) |*order| order.deinit();
                plan.order = null;
                self.end(plan);
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
        for (0..runtime.max_devices) |device| self.closeIfUnused(@intCast(device));
    }

    fn closeIfUnused(self: *Executor, device: u32) void {
        self.mutex.lock();
        defer self.mutex.unlock();
        if (!self.close_wanted[device]) return;
        const memory = self.devices.memory;
        if (program_memory.hasDevice(memory.registry, device)) return;
        var ignored: Failure = .{};
        memory.runtime.close(device, &ignored) catch return; // the next sweep tries again
        self.close_wanted[device] = false;
        self.changed.broadcast();
    }

    /// Lets go of a device that the program beside has let go of, on the executor's thread: cancels the plan that
    /// runs, and releases every segment of the device. Returns when that is done, or after `timeout_ns`.
    pub fn closeDevice(self: *Executor, device: u32, timeout_ns: u64) void {
        program_memory.doomDevice(self.devices.memory.registry, device);
        const deadline_ns = sync.now() +| timeout_ns;
        self.mutex.lock();
        defer self.mutex.unlock();
        self.close_wanted[device] = true;
        while (self.close_wanted[device] and !self.stopping and sync.now() < deadline_ns) {
            if (self.pending) |plan| plan.withdraw();
            self.sweep_wanted = true;
            self.changed.broadcast();
            self.mutex.unlock();
            sync.sleep(std.time.ns_per_ms);
            self.mutex.lock();
        }
    }

    /// Takes plans again after a `stop` whose closing failed.
    pub fn restart(self: *Executor) void {
        self.mutex.lock();
        defer self.mutex.unlock();
        self.stopping = false;
    }

    /// Whether the session is about to close, once no call is in progress.
    pub fn isStopping(self: *Executor) bool {
        self.mutex.lock();
        defer self.mutex.unlock();
        return self.stopping;
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

    /// Retries earlier releases that failed, without making the caller wait.
    pub fn requestSweep(self: *Executor) void {
        self.mutex.lock();
        defer self.mutex.unlock();
        self.sweep_wanted = true;
        self.changed.broadcast();
    }

    /// Marks the segments of all steps as moving and starts. Returns the ticket to follow the plan by.
    pub fn submit(
        self: *Executor,
        steps: []const plans.PlanStep,
        basis: plans.Basis,
        options: plans.Options,
        wanted: orders.Wanted,
    ) status.Error!u64 {
        if (steps.len == 0) return error.InvalidArgument;
        self.mutex.lock();
        defer self.mutex.unlock();
        try self.checkFree();
        const table = self.devices.memory.registry;
        const resolved = try plans.resolve(table, steps, basis, wanted, &self.devices.events);
        const plan = self.start();
        plan.order = resolved.order;
        plan.steps = resolved.steps;
        plan.options = options;
        plan.bytes_total = resolved.bytes_to_copy;
        self.launch(plan);
        return plan.ticket;
    }

    /// Starts a plan that page-locks host memory until `free_bytes` are free, and gives back all that is not kept.
    pub fn submitPreparation(
        self: *Executor,
        device: u32,
        free_bytes: u64,
        options: plans.Options,
    ) status.Error!u64 {
        if (device >= self.devices.memory.runtime.device_count) return error.UnknownDevice;
        if (free_bytes > host.machineBytes()) return error.OutOfHostMemory; // before it takes all there is
        self.mutex.lock();
        defer self.mutex.unlock();
        try self.checkFree();
        const plan = self.start();
        plan.options = options;
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
        self.plan_spill_folder = self.spill_folder;
        const now = sync.now();
        plan.* = .{
            .ticket = self.next_ticket,
            .spill_folder = @ptrCast(&self.plan_spill_folder),
            .phase = .init(@intFromEnum(plans.Phase.queued)),
            .started_ns = now,
            .phase_started_ns = now,
        };
        self.next_ticket += 1;
        return plan;
    }

    fn launch(self: *Executor, plan: *Plan) void {
        self.pending = plan;
        self.interrupted.store(true, .release);
        self.changed.broadcast();
    }

    /// With the mutex held.
    fn end(self: *Executor, plan: *Plan) void {
        plan.enter(.done);
        self.pending = null;
        _ = self.ended.fetchAdd(1, .release);
        sync.wakeAll(&self.ended);
    }

    /// Asks the plan that runs, if any, to stop and undo itself.
    pub fn cancelRunning(self: *Executor) void {
        self.mutex.lock();
        defer self.mutex.unlock();
        if (self.pending) |plan| plan.withdraw();
    }

    /// As `cancelRunning`, for a plan that still waits for the device or for calls of the program beside.
    pub fn withdrawWaiting(self: *Executor) void {
        self.mutex.lock();
        defer self.mutex.unlock();
        const plan = self.pending orelse return;
        if (plan.phase.load(.acquire) == @intFromEnum(plans.Phase.waiting)) plan.withdraw();
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

    /// Makes a stream wait until a group of a plan's order has its content. Fails as busy while copies of the group
    /// were not given to a stream yet.
    pub fn streamWait(
        self: *Executor,
        ticket: u64,
        group: u32,
        stream: acl.Stream,
        failure: *Failure,
    ) status.Error!void {
        self.mutex.lock();
        defer self.mutex.unlock();
        const plan = try self.find(ticket);
        if (plan.isDone()) return if (plan.outcome == .ok) {} else error.Aborted;
        const order = if (plan.order) |*given| given else return error.InvalidArgument;
        return order.streamWait(self.devices.memory.runtime, group, stream, failure);
    }

    /// Waits until a plan is done, for at most `timeout_ns`.
    pub fn wait(self: *Executor, ticket: u64, timeout_ns: u64) status.Error!void {
        const deadline_ns = sync.now() +| timeout_ns;
        var ended = self.ended.load(.acquire);
        if (!try self.isPending(ticket)) return;
        while (true) {
            const now_ns = sync.now();
            if (now_ns >= deadline_ns) return;
            sync.waitWhile(&self.ended, ended, deadline_ns - now_ns);
            ended = self.ended.load(.acquire);
            // Its result may have given way to that of a later plan.
            if (!(self.isPending(ticket) catch return)) return;
        }
    }

    fn isPending(self: *Executor, ticket: u64) status.Error!bool {
        self.mutex.lock();
        defer self.mutex.unlock();
        const plan = try self.find(ticket);
        return !plan.isDone();
    }

    /// How far a plan is; `failure` is written once it is done and failed.
    pub fn poll(self: *Executor, ticket: u64, failure: *Failure) status.Error!plans.PlanProgress {
        self.mutex.lock();
        defer self.mutex.unlock();
        const plan = try self.find(ticket);
        const progress = plan.progress();
        if (plan.isDone() and plan.outcome != .ok) failure.* = plan.failure;
        return progress;
    }

    fn execute(self: *Executor, plan: *Plan) void {
        plan.devices = plans.splitByDevice(plan.steps, self.device_steps[0..]);
        if (plan.order) |*order| order.begin(plan.devices.len);
        self.waitForPins(plan);
        self.letUseReady(plan);
        var failure: Failure = .{};
        self.run(plan, &failure) catch |err| {
            const is_withdrawn = err == error.Aborted and plan.withdrawn.load(.acquire);
            plan.note(if (is_withdrawn) error.Moving else err, &failure);
            self.failOrder(plan);
            self.waitForPins(plan); // of memory that was ready
            plan.enter(.undoing);
            self.undo(plan);
        };
        for (plan.devices) |*steps| self.devices.letGoOfStaging(plan, steps);
        plan.enter(.releasing);
        self.stopMoving(plan);
        self.finish(plan);
        if (self.guard) |guard| guard.open();
        plan.total_ns = sync.now() -| plan.started_ns;
    }

    /// With the mutex held, so that whoever waits for a group sees either.
    fn failOrder(self: *Executor, plan: *Plan) void {
        self.mutex.lock();
        defer self.mutex.unlock();
        if (plan.order) |*order| order.fail();
    }

    /// Releases segments that were freed while they moved, unless their device is busy, and host memory that nothing
    /// keeps. A failure to release a
    /// segment is not the plan's.
    fn finish(self: *Executor, plan: *Plan) void {
        var failure: Failure = .{};
        const interrupt: sync.Interrupt = .{
            .cancelled = &plan.cancelled,
            .deadline_ns = sync.now() +| release_patience_ns,
        };
        const unreleased = self.releaseSegments(interrupt, &failure);
        self.devices.letGoOfKept();
        self.devices.memory.stores.trim(&failure) catch |err| plan.note(err, &failure);
        unreleased catch return;
    }

    fn run(self: *Executor, plan: *Plan, failure: *Failure) status.Error!void {
        if (plan.steps.len == 0) return self.prepare(plan, failure);
        if (self.guard) |guard| {
            plan.enter(.waiting);
            try guard.close(plan.interrupt(), failure);
        }
        return if (plan.isSleep()) sleep.run(&self.devices, plan, failure) else wake.run(&self.devices, plan, failure);
    }

    fn undo(self: *Executor, plan: *Plan) void {
        if (plan.steps.len == 0) return;
        for (plan.devices) |steps| {
            if (plan.isSleep()) sleep.undo(&self.devices, plan, steps) else wake.undo(&self.devices, plan, steps);
        }
    }

    fn prepare(self: *Executor, plan: *Plan, failure: *Failure) status.Error!void {
        plan.enter(.preparing);
        const memory = self.devices.memory;
        const pool = &memory.stores.page_locked;
        const scope = try runtime.Scope.enter(memory.runtime, plan.host_device, failure);
        defer scope.abandon();
        try self.devices.settleAll(plan.interrupt(), failure);
        const reserved_before = pool.counts().reserved_bytes;
        errdefer pool.expect(reserved_before);
        pool.expect(plan.host_bytes); // replaces what an earlier preparation reserved
        switch (try growth.tryReserve(pool, plan.host_device, plan.host_bytes, plan.interrupt(), failure)) {
            .granted => {},
            .refused => |refusal| {
                if (!plan.options.isContentWithLess()) return refusal;
                pool.expect(@min(plan.host_bytes, pool.counts().free_bytes));
            },
        }
        plan.complete = true;
    }

    fn stopMoving(self: *Executor, plan: *Plan) void {
        const table = self.devices.memory.registry;
        table.mutex.lock();
        defer table.mutex.unlock();
        table.waking = null;
        for (plan.steps) |step| {
            step.segment.moving = false;
            step.segment.ordered = null;
        }
        table.changed.broadcast();
    }

    /// Memory that the plan makes ready can be read and written from then on.
    fn letUseReady(self: *Executor, plan: *Plan) void {
        const table = self.devices.memory.registry;
        table.mutex.lock();
        defer table.mutex.unlock();
        table.waking = if (plan.order) |*order| order else null;
    }

    fn waitForPins(self: *Executor, plan: *Plan) void {
        const table = self.devices.memory.registry;
        table.mutex.lock();
        defer table.mutex.unlock();
        for (plan.steps) |step| table.waitForPins(step.segment);
    }

    /// Gives back everything that plans left behind, while closing.
    pub fn releaseAll(self: *Executor, failure: *Failure) status.Error!void {
        try self.devices.settleAll(null, failure);
        return self.releaseAllDoomed(null, failure);
    }

    /// Releases doomed segments and the host memory that nothing keeps. Goes on past failures, which the next call
    /// retries, and reports the first.
    fn releaseAllDoomed(self: *Executor, interrupt: ?sync.Interrupt, failure: *Failure) status.Error!void {
        var spare: Failure = .{};
        const released = self.releaseSegments(interrupt, failure);
        self.devices.letGoOfKept();
        const trimmed = self.devices.memory.stores.trim(if (released) |_| failure else |_| &spare);
        try released;
        return trimmed;
    }

    fn releaseSegments(self: *Executor, interrupt: ?sync.Interrupt, failure: *Failure) status.Error!void {
        const memory = self.devices.memory;
        const table = memory.registry;
        const round = table.beginSweep();
        var first: ?status.Error = null;
        var spare: Failure = .{};
        while (table.takeDoomed(round)) |segment| {
            if (memory.release(segment, interrupt, if (first == null) failure else &spare)) {
                table.destroy(segment);
            } else |err| {
                if (first == null) first = err;
                table.postpone(segment, err == error.Aborted);
                if (err != error.Aborted) continue;
                // The others would wait as long.
                self.requestSweep();
                break;
            }
        }
        if (first) |err| return err;
    }
};

const Waiter = struct {
    executor: *Executor,
    ticket: u64,
    has_begun: std.atomic.Value(bool) = .init(false),
    waited_ns: u64 = 0,

    const timeout_ns = 4 * std.time.ns_per_s;

    fn run(self: *Waiter) void {
        const started_ns = sync.now();
        self.has_begun.store(true, .release);
        self.executor.wait(self.ticket, timeout_ns) catch return;
        self.waited_ns = sync.now() - started_ns;
    }
};

test "Executor.wait returns when later plans have taken the place of the result" {
    var executor: Executor = .{ .devices = .{ .memory = undefined } };
    const plan = executor.start();
    var waiter: Waiter = .{ .executor = &executor, .ticket = plan.ticket };
    const thread: sync.Thread = try .spawn(Waiter.run, .{&waiter});
    while (!waiter.has_begun.load(.acquire)) try std.Thread.yield();
    sync.waitWhile(&executor.ended, 0, 20 * std.time.ns_per_ms); // until it most likely waits
    executor.mutex.lock();
    executor.end(plan);
    for (0..history) |_| _ = executor.start();
    executor.mutex.unlock();
    thread.join();
    try std.testing.expect(waiter.waited_ns > 0);
    try std.testing.expect(waiter.waited_ns < Waiter.timeout_ns);
    try std.testing.expectError(error.Stale, executor.wait(1, 0));
}

//! Plans: the steps asked for, the segments they concern, and progress. `executor.zig` runs them.

const std = @import("std");
const Events = @import("events.zig").Events;
const files = @import("files.zig");
const heap = @import("heap.zig");
const orders = @import("order.zig");
const Placed = @import("placed.zig").Placed;
const registry = @import("registry.zig");
const runtime = @import("runtime.zig");
const Key = @import("segment_groups.zig").Key;
const segments = @import("segment.zig");
const status = @import("status.zig");
const sync = @import("sync.zig");
const transfer = @import("transfer.zig");
const Failure = status.Failure;
const Order = orders.Order;
const Segment = segments.Segment;

/// The action for one segment.
pub const Action = enum(u32) {
    /// Copy to the backup unless that is the same already, unmap and free: a mapped segment.
    offload = 1,
    /// Unmap and free, or drop the backup: the content is gone.
    discard = 2,
    /// Map and copy the backup back.
    restore = 3,
    /// Map: the content is undefined.
    remap = 4,
    /// Give back the device memory that a segment holds though it is asleep; content in it goes to the backup first.
    release = 5,

    pub fn isSleep(self: Action) bool {
        return switch (self) {
            .offload, .discard, .release => true,
            .restore, .remap => false,
        };
    }

    fn fits(self: Action, segment: *const Segment) bool {
        return switch (self) {
            .offload => segment.isAwake(),
            .discard => segment.content != .discarded,
            .restore => !segment.isAwake() and segment.content != .discarded,
            .remap => segment.content == .discarded,
            .release => segment.isUnreleased(),
        };
    }
};

pub const Phase = enum(u32) {
    queued = 0,
    /// Until the device has finished the work it has.
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

/// The action for the segments of one group.
pub const PlanStep = extern struct {
    /// How many the group has.
    segments: u64,
    /// Of new backups, how many go to the spill folder.
    spilled_segments: u64 = 0,
    /// What identifies the group, as in `SegmentGroup`; nothing moves.
    segment_bytes: u64,
    tag: u32,
    device: u32,
    state: u32,
    unreleased: u32 = 0,
    clean: u32 = 0,
    backed_up: u32 = 0,
    /// An `Action`.
    action: u32,
    /// 1 where the content is immutable from here on: a wake-up keeps its backup for the next sleep.
    immutable: u32 = 0,
    /// 1 where memory that is mapped without its content is zeroed.
    zero: u32 = 0,
    reserved: u32 = 0,

    fn key(self: PlanStep) status.Error!Key {
        return .{
            .segment_bytes = self.segment_bytes,
            .tag = self.tag,
            .device = self.device,
            .state = std.enums.fromInt(segments.State, self.state) orelse return error.InvalidArgument,
            .moving = false,
            .unreleased = self.unreleased == 1,
            .clean = self.clean == 1,
            .backed_up = self.backed_up == 1,
        };
    }
};

/// What a plan may do. Crosses the C ABI as a word.
pub const Options = packed struct(u32) {
    /// Take a checksum of each new backup.
    verify: bool = false,
    /// Where AscendCL refuses to page-lock: keep backups in ordinary memory. A preparation keeps what it could get.
    pageable: bool = false,
    /// Likewise, in the spill folder. With both, what ordinary memory does not take.
    spill: bool = false,
    reserved: u29 = 0,

    /// Whether backups need not be page-locked.
    pub fn isContentWithLess(self: Options) bool {
        return self.pageable or self.spill;
    }
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
    /// New backups in ordinary memory and in the spill folder, once it is done.
    pageable_bytes: u64,
    spilled_bytes: u64,
    waiting_ns: u64,
    preparing_ns: u64,
    mapping_ns: u64,
    copying_ns: u64,
    verifying_ns: u64,
    releasing_ns: u64,
    total_ns: u64,
    /// How many groups of the plan's order, from the first on, have their content.
    ready_groups: u64,
};

pub const Step = struct {
    segment: *Segment,
    action: Action,
    immutable: bool,
    spill: bool,
    /// Of a `remap`.
    zero: bool,
    /// Its group in the order of the plan; 0 without one.
    group: u32 = 0,

    pub fn copies(self: Step) bool {
        return switch (self.action) {
            .offload => self.segment.content != .clean,
            // Content that a failed sleep left in physical memory needs mapping only; to sleep, it is copied then.
            .restore => self.segment.content == .offloaded,
            .release => self.segment.content.isLive() and self.segment.content != .clean,
            .discard, .remap => false,
        };
    }

    pub fn needsBackup(self: Step) bool {
        return self.copies() and self.segment.content == .live;
    }

    /// Puts to sleep what an earlier plan has backed up.
    pub fn keepsBackup(self: Step) bool {
        return switch (self.action) {
            .offload, .release => self.segment.content == .clean,
            .discard, .restore, .remap => false,
        };
    }

    /// The content will be, or is, in a backup alone.
    fn reliesOnBackup(self: Step) bool {
        return self.keepsBackup() or (self.action == .restore and self.segment.content == .offloaded);
    }

    fn before(_: void, a: Step, b: Step) bool {
        if (a.segment.device != b.segment.device) return a.segment.device < b.segment.device;
        if (a.group != b.group) return a.group < b.group;
        // Blocks of one tag side by side, so that a slab serves one tag and goes back when that wakes.
        if (a.segment.tag != b.segment.tag) return a.segment.tag < b.segment.tag;
        return a.segment.id < b.segment.id;
    }
};

/// The steps of one device, which run on one thread.
pub const DeviceSteps = struct {
    device: u32,
    steps: []Step,
    /// Page-locked memory for content in files and in ordinary memory.
    staging: transfer.Staging = transfer.no_staging,
    /// While `Plan.placed` is set, where the steps themselves change.
    copy_bytes: u64 = 0,

    pub fn bytesToCopy(self: DeviceSteps) u64 {
        var sum: u64 = 0;
        for (self.steps) |step| {
            if (step.copies()) sum += step.segment.contentBytes();
        }
        return sum;
    }

    pub fn needsStaging(self: DeviceSteps, verify: bool) bool {
        for (self.steps) |step| {
            if (step.spill and step.needsBackup()) return true;
            if (step.segment.fileBackup() != null and (verify or step.copies())) return true;
            if (step.copies() and step.segment.content.isPageable()) return true;
            // What a backup without a checksum is compared with is in device memory.
            if (verify and step.keepsBackup() and step.segment.content.checksum() == null) return true;
        }
        return false;
    }
};

pub const Plan = struct {
    ticket: u64 = 0,
    steps: []Step = &.{},
    devices: []DeviceSteps = &.{},
    /// For a plan without steps, which only page-locks host memory: how much is to be free.
    host_bytes: u64 = 0,
    host_device: u32 = 0,
    /// While memory is page-locked and copied to side by side.
    placed: ?*Placed = null,
    /// A copy has failed, so nothing more is page-locked.
    placing_stopped: std.atomic.Value(bool) = .init(false),
    options: Options = .{},
    /// Of a wake-up: the order of its copies.
    order: ?Order = null,
    /// AscendCL has refused to page-lock more.
    refused: bool = false,
    /// New backups in ordinary memory and in the spill folder.
    pageable_bytes: u64 = 0,
    spilled_bytes: u64 = 0,
    /// Where its spill files are made.
    spill_folder: [*:0]const u8 = "",
    cancelled: std.atomic.Value(bool) = .init(false),
    /// Cancelled for the program beside, and not by whoever submitted it.
    withdrawn: std.atomic.Value(bool) = .init(false),
    /// A device's thread has failed: the others end as well.
    failed: std.atomic.Value(bool) = .init(false),
    /// Copies may still be running: nothing they touch is given back by this plan.
    unsettled: std.atomic.Value(bool) = .init(false),
    phase: std.atomic.Value(u32) = .init(@intFromEnum(Phase.done)),
    bytes_done: std.atomic.Value(u64) = .init(0),
    bytes_total: u64 = 0,
    /// What follows is the executor's until the phase is done; `outcome` and `failure` are under `mutex` while
    /// threads run.
    mutex: sync.Mutex = .{},
    complete: bool = false,
    undo_failed: bool = false,
    outcome: status.Status = .ok,
    failure: Failure = .{},
    started_ns: u64 = 0,
    phase_started_ns: u64 = 0,
    total_ns: u64 = 0,
    spent_ns: [phase_count]u64 = @splat(0),
    /// Of the copying phase, what its slowest device spent on mapping.
    mapping_ns: u64 = 0,

    pub fn enter(self: *Plan, phase: Phase) void {
        const now = sync.now();
        self.spent_ns[self.phase.load(.monotonic)] +|= now -| self.phase_started_ns;
        self.phase_started_ns = now;
        self.phase.store(@intFromEnum(phase), .release);
    }

    pub fn withdraw(self: *Plan) void {
        self.withdrawn.store(true, .release);
        self.cancelled.store(true, .release);
    }

    pub fn isDone(self: *const Plan) bool {
        return self.phase.load(.acquire) == @intFromEnum(Phase.done);
    }

    pub fn interrupt(self: *const Plan) sync.Interrupt {
        return .{ .cancelled = &self.cancelled, .failed = &self.failed };
    }

    pub fn observer(self: *Plan) transfer.Observer {
        return .{
            .bytes_done = &self.bytes_done,
            .interrupt = self.interrupt(),
            .unsettled = &self.unsettled,
            .order = if (self.order) |*order| order else null,
        };
    }

    /// How far it is. Its outcome is reported once it is done.
    pub fn progress(self: *const Plan) PlanProgress {
        var so_far = std.mem.zeroes(PlanProgress);
        so_far.phase = self.phase.load(.acquire);
        so_far.copied_bytes = self.bytes_done.load(.monotonic);
        so_far.copy_bytes_total = self.bytes_total;
        if (self.order) |*order| so_far.ready_groups = order.readyGroups();
        if (so_far.phase != @intFromEnum(Phase.done)) return so_far;
        so_far.status = @intFromEnum(self.outcome);
        so_far.complete = @intFromBool(self.complete);
        so_far.pageable_bytes = self.pageable_bytes;
        so_far.spilled_bytes = self.spilled_bytes;
        so_far.undo_failed = @intFromBool(self.undo_failed);
        so_far.waiting_ns = self.spent_ns[@intFromEnum(Phase.waiting)];
        so_far.preparing_ns = self.spent_ns[@intFromEnum(Phase.preparing)];
        so_far.mapping_ns = self.spent_ns[@intFromEnum(Phase.mapping)] + self.mapping_ns;
        so_far.copying_ns = self.spent_ns[@intFromEnum(Phase.copying)] -| self.mapping_ns;
        so_far.verifying_ns = self.spent_ns[@intFromEnum(Phase.verifying)];
        so_far.releasing_ns = self.spent_ns[@intFromEnum(Phase.releasing)];
        so_far.total_ns = self.total_ns;
        return so_far;
    }

    /// Records a failure; only the first one is kept.
    pub fn note(self: *Plan, err: status.Error, failure: *const Failure) void {
        self.mutex.lock();
        defer self.mutex.unlock();
        if (self.outcome != .ok) return;
        self.outcome = status.fromError(err);
        self.failure = failure.*;
    }

    /// A checkpoint that somebody wrote to is no backup any more.
    pub fn checkFiles(self: *const Plan, failure: *Failure) status.Error!void {
        var last: ?*const files.File = null;
        for (self.steps) |step| {
            if (!step.reliesOnBackup()) continue;
            const in_file = step.segment.fileBackup() orelse continue;
            if (in_file.file == last) continue;
            last = in_file.file;
            try in_file.file.checkUnchanged(failure);
        }
    }

    pub fn isSleep(self: *const Plan) bool {
        return self.steps[0].action.isSleep();
    }
};

/// Which table a plan was made for.
pub const Basis = struct {
    /// Younger segments are left as they are.
    last_segment_id: u64,
    /// Of the registry.
    version: u64,
};

/// Puts the steps in the order that is wanted.
fn arrange(steps: []Step, wanted: orders.Wanted, order: *Order) status.Error!void {
    var groups: std.AutoHashMapUnmanaged(u64, u32) = .empty;
    defer groups.deinit(heap.allocator);
    for (wanted.places) |place| {
        if (place.group >= wanted.groups) return error.InvalidArgument;
        const slot = groups.getOrPut(heap.allocator, place.segment_id) catch return error.OutOfHostMemory;
        if (!slot.found_existing or place.group < slot.value_ptr.*) slot.value_ptr.* = place.group;
    }
    for (steps) |*step| {
        step.group = groups.get(step.segment.id) orelse wanted.groups - 1;
        step.segment.ordered = .{
            .group = step.group,
            .mutable = !step.immutable and !step.segment.content.isImmutable() and !step.segment.isInCheckpoint(),
        };
        if (step.copies()) order.expect(step.group, step.segment.contentBytes());
    }
}

const Resolved = struct { steps: []Step, bytes_to_copy: u64, order: ?Order };

/// Takes the segments of all steps, but what was freed since, or none where the table has changed. The caller frees
/// the list. Copies of users may still run: until the plan has waited for them, backups may change.
pub fn resolve(
    table: *registry.Registry,
    steps: []const PlanStep,
    basis: Basis,
    arrangement: orders.Wanted,
    events: *Events,
) status.Error!Resolved {
    var wanted = try Wanted.of(steps);
    defer wanted.groups.deinit(heap.allocator);
    var order: ?Order = null;
    if (arrangement.groups > 0) {
        if ((try actionOf(steps[0])).isSleep()) return error.InvalidArgument;
        order = try .init(arrangement.groups, events);
    }
    errdefer if (order) |*made| made.deinit();
    table.mutex.lock();
    defer table.mutex.unlock();
    if (table.version != basis.version) return error.Stale;
    const most = @min(wanted.segments, table.segments.count());
    var resolved = std.ArrayList(Step).initCapacity(heap.allocator, most) catch return error.OutOfHostMemory;
    errdefer resolved.deinit(heap.allocator);
    // Most segments are like the one before, and need no look-up.
    var last: ?Key = null;
    var found: ?*Remaining = null;
    var iterator: registry.Iterator = .init(table);
    while (iterator.next()) |segment| {
        if (segment.doomed or segment.id > basis.last_segment_id) continue;
        const key: Key = .of(segment);
        if (last == null or !last.?.eql(key)) found = wanted.groups.getPtr(key);
        last = key;
        const remaining = found orelse continue;
        if (remaining.segments == 0 or !remaining.action.fits(segment)) return error.Stale;
        // There is room: each step takes one of the wanted segments and one of the table's.
        resolved.appendAssumeCapacity(remaining.take(segment));
    }
    if (resolved.items.len == 0) return error.Stale;
    const taken = resolved.toOwnedSlice(heap.allocator) catch return error.OutOfHostMemory;
    errdefer heap.allocator.free(taken);
    if (order) |*made| try arrange(taken, arrangement, made);
    var bytes_to_copy: u64 = 0;
    for (taken) |step| {
        step.segment.moving = true;
        if (step.copies()) bytes_to_copy += step.segment.contentBytes();
    }
    table.version += 1;
    return .{ .steps = taken, .bytes_to_copy = bytes_to_copy, .order = order };
}

/// The actions for each group.
const Wanted = struct {
    groups: std.HashMapUnmanaged(Key, Remaining, Key.HashContext, std.hash_map.default_max_load_percentage) = .empty,
    segments: u64 = 0,

    fn of(steps: []const PlanStep) status.Error!Wanted {
        var self: Wanted = .{};
        errdefer self.groups.deinit(heap.allocator);
        const count = std.math.cast(u32, steps.len) orelse return error.OutOfHostMemory;
        self.groups.ensureTotalCapacity(heap.allocator, count) catch return error.OutOfHostMemory;
        for (steps) |step| {
            const action = try actionOf(step);
            const slot = self.groups.getOrPut(heap.allocator, try step.key()) catch return error.OutOfHostMemory;
            if (slot.found_existing or step.spilled_segments > step.segments) return error.InvalidArgument;
            if (step.zero == 1 and action != .remap) return error.InvalidArgument;
            if (action.isSleep() != (try actionOf(steps[0])).isSleep()) return error.InvalidArgument;
            slot.value_ptr.* = .{
                .action = action,
                .immutable = step.immutable == 1,
                .zero = step.zero == 1,
                .segments = step.segments,
                .spilled = step.spilled_segments,
            };
            self.segments = std.math.add(u64, self.segments, step.segments) catch return error.Stale;
        }
        return self;
    }
};

fn actionOf(step: PlanStep) status.Error!Action {
    return std.enums.fromInt(Action, step.action) orelse error.InvalidArgument;
}

/// The segments of a group that were not found yet, and the action for them.
const Remaining = struct {
    action: Action,
    immutable: bool,
    zero: bool,
    segments: u64,
    spilled: u64,

    fn take(self: *Remaining, segment: *Segment) Step {
        defer self.segments -= 1;
        return .{
            .segment = segment,
            .action = self.action,
            .immutable = self.immutable,
            .zero = self.zero,
            .spill = self.segments <= self.spilled,
        };
    }
};

/// Sorts the steps and splits them by device; `devices` has room for all devices there are.
pub fn splitByDevice(steps: []Step, devices: []DeviceSteps) []DeviceSteps {
    std.mem.sortUnstable(Step, steps, {}, Step.before);
    var count: usize = 0;
    var first: usize = 0;
    for (steps, 1..) |step, end| {
        if (end < steps.len and steps[end].segment.device == step.segment.device) continue;
        devices[count] = .{ .device = step.segment.device, .steps = steps[first..end] };
        count += 1;
        first = end;
    }
    return devices[0..count];
}

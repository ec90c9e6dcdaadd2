//! The verbs behind the C ABI, for the AscendCL that this process has opened. Any thread may call each.

const std = @import("std");
const program_memory = @import("program_memory.zig");
const acl = @import("acl");
const backups = @import("backup.zig");
const devices = @import("devices.zig");
const executor = @import("executor.zig");
const files = @import("files.zig");
const heap = @import("heap.zig");
const loader = @import("loader.zig");
const orders = @import("order.zig");
const plans = @import("plans.zig");
const Registry = @import("registry.zig").Registry;
const runtime = @import("runtime.zig");
const segment_groups = @import("segment_groups.zig");
const segments = @import("segment.zig");
const status = @import("status.zig");
const sync = @import("sync.zig");
const usage = @import("usage.zig");
const vmm = @import("vmm.zig");
const Executor = executor.Executor;
const Failure = status.Failure;
const Guard = executor.Guard;
const Segment = segments.Segment;

const Allocation = struct { address: u64, segment_id: u64 };
const Groups = struct { count: u64, version: u64 };

/// Host memory. All that is page-locked is `held`; what is not `free` holds backups or is staging. Crosses the C ABI.
pub const HostInfo = extern struct {
    held_bytes: u64,
    free_bytes: u64,
    /// Of what is free, what is kept for the next sleep.
    reserved_bytes: u64,
    /// What a plan takes on each device while it moves content to or from a file or ordinary memory.
    staging_bytes: u64,
    /// Page-locked memory that is kept to copy through, for backups that are not page-locked.
    kept_staging_bytes: u64,
    /// Ordinary memory that holds backups.
    pageable_bytes: u64,
};

/// How long an allocation without room waits for memory that was freed while the device was busy.
const longest_release_wait_ns = 100 * std.time.ns_per_ms;

pub const Session = struct {
    runtime: runtime.Runtime,
    registry: Registry,
    stores: backups.Stores,
    executor: Executor,
    memory: vmm.Memory,

    /// What a session inside a program that allocates by itself has besides.
    pub const Beside = struct { runtime: *const runtime.Beside, memory: *const vmm.Beside, guard: Guard };

    /// Opens a session in place: its parts point to each other.
    pub fn open(self: *Session, library: loader.Library, beside: ?Beside, failure: *Failure) status.Error!void {
        self.runtime = try runtime.Runtime.init(library, if (beside) |given| given.runtime else null, failure);
        errdefer self.runtime.abandon();
        self.stores = .{ .page_locked = .{ .source = .{ .page_locked = &self.runtime } } };
        self.registry = .{};
        errdefer self.registry.deinit();
        self.memory = .{ .runtime = &self.runtime, .registry = &self.registry, .stores = &self.stores };
        if (beside) |given| self.memory.beside = given.memory;
        self.executor = .{ .devices = .{ .memory = self.memory } };
        if (beside) |given| self.executor.guard = given.guard;
        _ = try self.registry.tags.intern("default");
    }

    /// Undoes `open` before anything was allocated.
    pub fn abandon(self: *Session) void {
        self.registry.deinit();
        self.runtime.abandon();
    }

    /// Gives everything back, once no other call is in progress. Can be called again after a failure.
    pub fn close(self: *Session, failure: *Failure) status.Error!void {
        self.registry.doomAll();
        self.stores.page_locked.expect(0);
        self.stores.page_locked.retain(0);
        try self.executor.releaseAll(failure);
        try self.executor.devices.events.close(&self.runtime, failure);
        try self.runtime.closeDevices(failure);
        try self.runtime.finalize(failure);
        self.registry.deinit();
    }

    pub fn runtimeInfo(self: *Session) status.Error!runtime.Info {
        return self.runtime.info();
    }

    pub fn memoryInfo(self: *Session, device: u32, failure: *Failure) status.Error!runtime.MemoryInfo {
        // First: what is released meanwhile counts as free then.
        const awaited_bytes = self.registry.awaitedBytes(device);
        var info = try self.runtime.memoryInfo(device, failure);
        info.awaited_bytes = awaited_bytes;
        return info;
    }

    pub fn copySymbols(self: *Session, target: []u8) status.Error!u64 {
        return self.runtime.library.copySymbols(target);
    }

    pub fn internTag(self: *Session, name: []const u8) status.Error!u32 {
        self.registry.mutex.lock();
        defer self.registry.mutex.unlock();
        return self.registry.tags.intern(name);
    }

    pub fn findTag(self: *Session, name: []const u8) status.Error!u32 {
        self.registry.mutex.lock();
        defer self.registry.mutex.unlock();
        return self.registry.tags.find(name);
    }

    /// Copies a tag's name to `target`, which has room for the longest, and returns how long it is.
    pub fn copyTagName(self: *Session, tag: u32, target: [*]u8) status.Error!u64 {
        self.registry.mutex.lock();
        defer self.registry.mutex.unlock();
        const name = try self.registry.tags.name(tag);
        @memcpy(target[0..name.len], name);
        return name.len;
    }

    pub fn tagPolicy(self: *Session, tag: u32) status.Error!u64 {
        self.registry.mutex.lock();
        defer self.registry.mutex.unlock();
        return self.registry.tags.policy(tag);
    }

    /// Copies the policies of all tags to `target` where they fit, by number, and returns how many tags there are.
    pub fn tagPolicies(self: *Session, target: []u64) status.Error!u64 {
        self.registry.mutex.lock();
        defer self.registry.mutex.unlock();
        const policies = self.registry.tags.policies.items;
        if (policies.len <= target.len) @memcpy(target[0..policies.len], policies);
        return policies.len;
    }

    pub fn setTagPolicy(self: *Session, tag: u32, expected: u64, new: u64) status.Error!void {
        self.registry.mutex.lock();
        defer self.registry.mutex.unlock();
        return self.registry.tags.setPolicy(tag, expected, new);
    }

    pub fn enterRegion(self: *Session, tag: u32, parent: u64) status.Error!u64 {
        self.registry.mutex.lock();
        defer self.registry.mutex.unlock();
        return self.registry.tags.enter(tag, parent);
    }

    pub fn leaveRegion(self: *Session, token: u64) status.Error!void {
        self.registry.mutex.lock();
        defer self.registry.mutex.unlock();
        return self.registry.tags.leave(token);
    }

    /// The tag of what this thread allocates now.
    pub fn regionTag(self: *Session) status.Error!u32 {
        self.registry.mutex.lock();
        defer self.registry.mutex.unlock();
        return self.registry.tags.current();
    }

    /// A new segment of at least `size_bytes`, mapped.
    pub fn allocate(
        self: *Session,
        device: u32,
        tag: u32,
        size_bytes: u64,
        failure: *Failure,
    ) status.Error!Allocation {
        return self.allocateOf(runtime.memory_attribute, device, tag, size_bytes, failure);
    }

    /// As `allocate`, of physical memory with the attribute `mem_attr`.
    pub fn allocateOf(
        self: *Session,
        mem_attr: c_int,
        device: u32,
        tag: u32,
        size_bytes: u64,
        failure: *Failure,
    ) status.Error!Allocation {
        if (size_bytes == 0) return error.InvalidSize;
        // A release that failed earlier may hold the memory that is needed now.
        if (self.registry.hasDoomed()) self.executor.requestSweep();
        const granularity: u64 = try self.runtime.granularityOf(device, failure);
        const padded_bytes = segments.paddedBytes(size_bytes, granularity) orelse return error.InvalidSize;
        const segment = try self.registry.create(device, tag, padded_bytes, size_bytes);
        errdefer self.discard(segment);
        segment.mem_attr = mem_attr;
        self.acquire(segment, failure) catch |err| {
            if (err != error.OutOfDeviceMemory or !self.waitForReleases(device)) return err;
            try self.acquire(segment, failure);
        };
        const address = segment.address;
        const segment_id = self.registry.insert(segment) orelse {
            const reason = "AscendCL gave out an address that is in use";
            failure.describe("aclrtReserveMemAddress", 0, address, segment.size_bytes, reason);
            return error.DeviceLost;
        };
        return .{ .address = address, .segment_id = segment_id };
    }

    fn acquire(self: *Session, segment: *Segment, failure: *Failure) status.Error!void {
        if (self.runtime.beside != null) { // none of these calls needs a context
            if (!segment.reserved) try self.memory.reserve(segment, failure);
            return self.memory.back(segment, failure);
        }
        const scope = try runtime.Scope.enter(&self.runtime, segment.device, failure);
        errdefer scope.abandon();
        if (!segment.reserved) try self.memory.reserve(segment, failure);
        try self.memory.back(segment, failure);
        try scope.leave(failure);
    }

    /// Undoes a failed allocation. A record that still holds something is kept, and its release is retried.
    fn discard(self: *Session, segment: *Segment) void {
        var ignored: Failure = .{};
        const released = if (self.runtime.beside != null and segment.reserved)
            self.memory.giveBack(segment, &ignored)
        else
            self.memory.release(segment, null, &ignored);
        released catch return self.registry.keep(segment);
        self.registry.destroy(segment);
    }

    /// Waits a short time for memory that was freed while the device was busy. False when there is none.
    fn waitForReleases(self: *Session, device: u32) bool {
        if (!self.registry.awaitsDevice(device)) return false;
        const deadline_ns = sync.now() +| longest_release_wait_ns;
        while (self.registry.awaitsDevice(device) and sync.now() < deadline_ns) {
            self.executor.requestSweep();
            sync.sleep(std.time.ns_per_ms);
        }
        return true;
    }

    /// Releases a segment: now, or when the plan that moves it has ended. Waits for a busy device a short time only;
    /// the executor's thread releases the segment then.
    pub fn free(self: *Session, address: u64, id: u64, failure: *Failure) status.Error!void {
        const segment = try self.registry.doom(address, id, .leaves) orelse return;
        // Each of many would wait as long.
        if (segment.mapped and self.registry.awaitsDevice(segment.device)) return self.leaveToSweep(segment);
        const interrupt: sync.Interrupt = .{ .deadline_ns = sync.now() +| executor.release_patience_ns };
        return self.release(segment, interrupt, failure) catch |err| {
            if (err == error.Aborted) return self.leaveToSweep(segment);
            self.registry.postpone(segment, false);
            return err;
        };
    }

    fn leaveToSweep(self: *Session, segment: *Segment) void {
        self.registry.postpone(segment, true);
        self.executor.requestSweep();
    }

    /// As `free`, of whichever segment is at the address, however long the device takes.
    pub fn freeAt(self: *Session, address: u64, failure: *Failure) status.Error!void {
        const segment = try self.registry.doom(address, null, .waits) orelse return;
        return self.release(segment, null, failure) catch |err| {
            self.registry.postpone(segment, false);
            return err;
        };
    }

    fn release(
        self: *Session,
        segment: *Segment,
        interrupt: ?sync.Interrupt,
        failure: *Failure,
    ) status.Error!void {
        try self.memory.release(segment, interrupt, failure);
        self.registry.destroy(segment);
        self.trimHost();
    }

    /// After the release of a segment: gives back host memory that nothing keeps.
    pub fn trimHost(self: *Session) void {
        if (self.executor.devices.hasNeedlessStaging()) self.executor.requestSweep();
        var ignored: Failure = .{};
        self.stores.trim(&ignored) catch return; // what stays serves the next sleep
    }

    /// Drops the backup that immutable content has kept: the program beside is about to write to it.
    pub fn dropKeptBackup(self: *Session, address: u64, id: u64) void {
        const backup = program_memory.takeClean(&self.registry, address, id) orelse return;
        backup.drop(&self.stores);
        self.executor.requestSweep(); // gives back what nothing retains
    }

    pub fn segmentInfo(self: *Session, address: u64, id: u64) status.Error!segments.Info {
        self.registry.mutex.lock();
        defer self.registry.mutex.unlock();
        const segment = try self.registry.find(address, id);
        return segment.info();
    }

    /// Copies the table to `target` where it fits, and returns how many segments there are.
    pub fn snapshot(self: *Session, target: []segments.Info) status.Error!u64 {
        self.registry.mutex.lock();
        defer self.registry.mutex.unlock();
        const count = self.registry.segmentCount();
        if (count > target.len) return count;
        const found = try self.registry.inOrder();
        defer heap.allocator.free(found);
        for (found, target[0..count]) |segment, *info| info.* = segment.info();
        return count;
    }

    /// Copies the table's groups to `target` where they fit.
    pub fn segmentGroups(
        self: *Session,
        last_segment_id: u64,
        target: []segment_groups.SegmentGroup,
    ) status.Error!Groups {
        self.registry.mutex.lock();
        defer self.registry.mutex.unlock();
        const count = try segment_groups.collect(&self.registry, last_segment_id, target);
        return .{ .count = count, .version = self.registry.version };
    }

    /// Copies the sums of each tag to `target` where they fit, and returns how many tags there are.
    pub fn tagUsage(self: *Session, target: []usage.TagUsage) status.Error!u64 {
        self.registry.mutex.lock();
        defer self.registry.mutex.unlock();
        return usage.collect(&self.registry, target);
    }

    pub const Copy = union(enum) { write: *const anyopaque, read: *anyopaque, fill: i32 };

    /// Copies between a part of a segment that is awake and the host, or fills it; blocks until done.
    pub fn copy(
        self: *Session,
        name: Name,
        offset_bytes: u64,
        size_bytes: u64,
        what: Copy,
        failure: *Failure,
    ) status.Error!void {
        const access: Registry.Access = if (what == .read) .reading else .writing;
        const segment = try self.registry.pin(name.address, name.segment_id, offset_bytes, size_bytes, access);
        defer if (self.registry.unpin(segment)) self.executor.requestSweep();
        if (size_bytes == 0) return;
        const scope = try runtime.Scope.enter(&self.runtime, segment.device, failure);
        errdefer scope.abandon();
        try self.copyPinned(name.address + offset_bytes, size_bytes, what, failure); // within the segment
        try scope.leave(failure);
    }

    /// As `copy`, at an address in a segment that is pinned, inside a `Scope` of its device.
    pub fn copyPinned(self: *Session, address: u64, size_bytes: u64, what: Copy, failure: *Failure) status.Error!void {
        const api = &self.runtime.library.api;
        const device: *anyopaque = @ptrFromInt(address);
        const kind = acl.MemcpyKind;
        const call, const code = switch (what) {
            .write => |source| .{
                "aclrtMemcpy", api.aclrtMemcpy(device, size_bytes, source, size_bytes, kind.host_to_device),
            },
            .read => |target| .{
                "aclrtMemcpy", api.aclrtMemcpy(target, size_bytes, device, size_bytes, kind.device_to_host),
            },
            .fill => |value| .{ "aclrtMemset", api.aclrtMemset(device, size_bytes, value, size_bytes) },
        };
        try self.runtime.check(call, code, address, size_bytes, failure);
    }

    pub const Name = struct { address: u64, segment_id: u64 };

    /// Copies a part of the backup of a segment. Makes no AscendCL call.
    pub fn readBackup(
        self: *Session,
        name: Name,
        offset_bytes: u64,
        target: []u8,
        failure: *Failure,
    ) status.Error!void {
        const pinned = try self.registry.pinBackup(name.address, name.segment_id, offset_bytes, target.len);
        defer if (self.registry.unpin(pinned.segment)) self.executor.requestSweep();
        try pinned.backup.read(pinned.segment.requested_bytes, offset_bytes, target, failure);
        // Afterwards: it may change while it is read.
        if (pinned.backup == .file) try pinned.backup.file.file.checkUnchanged(failure);
    }

    /// Makes a checkpoint the backup of a segment that is awake and has lost its content `discards` times.
    pub fn useCheckpoint(
        self: *Session,
        name: Name,
        discards: u32,
        handle: u64,
        extents: []const files.Extent,
        failure: *Failure,
    ) status.Error!void {
        const file = try files.checkpoint(handle);
        errdefer file.release();
        try file.checkUnchanged(failure);
        const own = heap.allocator.dupe(files.Extent, extents) catch return error.OutOfHostMemory;
        errdefer heap.allocator.free(own);
        const segment = try self.registry.claim(name.address, name.segment_id);
        defer if (self.registry.stopMoving(segment)) self.executor.requestSweep();
        if (segment.discards != discards) return error.Asleep;
        var end: u64 = 0;
        for (own) |extent| {
            const start = extent.segment_offset_bytes;
            const fits = start >= end and start <= segment.size_bytes and
                extent.size_bytes > 0 and extent.size_bytes <= segment.size_bytes - start;
            if (!fits or !file.holds(extent)) return error.OutOfBounds;
            end = start + extent.size_bytes;
        }
        // The copies of a failed sleep may still run.
        if (self.registry.isUnfinished(segment))
            try self.runtime.synchronizeDevice(segment.device, null, failure);
        const replaced = self.registry.replaceBackup(segment, .{ .file = .{ .file = file, .extents = own } });
        if (replaced) |backup| backup.drop(&self.stores);
    }

    pub fn setTagImmutable(self: *Session, tag: u32, immutable: bool) status.Error!void {
        var dropped: std.ArrayList(backups.Backup) = .empty;
        defer dropped.deinit(heap.allocator);
        try self.registry.setImmutable(tag, immutable, &dropped);
        if (dropped.items.len == 0) return;
        for (dropped.items) |backup| backup.drop(&self.stores);
        self.executor.requestSweep(); // gives back all that nothing retains
    }

    pub fn hostInfo(self: *Session) status.Error!HostInfo {
        const counts = self.stores.page_locked.counts();
        return .{
            .held_bytes = counts.held_bytes,
            .free_bytes = counts.held_bytes - counts.used_bytes, // also what is being given back
            .reserved_bytes = counts.reserved_bytes,
            .staging_bytes = devices.staging_bytes,
            .kept_staging_bytes = self.executor.devices.kept_bytes.load(.monotonic),
            .pageable_bytes = self.stores.pageable.counts().used_bytes,
        };
    }

    pub fn retainHost(self: *Session, size_bytes: u64) status.Error!void {
        self.stores.page_locked.retain(size_bytes);
    }

    pub fn setSpillFolder(self: *Session, path: []const u8) status.Error!void {
        return self.executor.setSpillFolder(path);
    }

    pub fn prepareHost(self: *Session, device: u32, free_bytes: u64, options: plans.Options) status.Error!u64 {
        return self.executor.submitPreparation(device, free_bytes, options);
    }

    pub fn submitPlan(
        self: *Session,
        steps: []const plans.PlanStep,
        basis: plans.Basis,
        options: plans.Options,
    ) status.Error!u64 {
        return self.executor.submit(steps, basis, options, .{});
    }

    pub fn submitOrdered(
        self: *Session,
        steps: []const plans.PlanStep,
        basis: plans.Basis,
        options: plans.Options,
        order: orders.Wanted,
    ) status.Error!u64 {
        return self.executor.submit(steps, basis, options, order);
    }

    pub fn streamWait(
        self: *Session,
        ticket: u64,
        group: u32,
        stream: acl.Stream,
        failure: *Failure,
    ) status.Error!void {
        return self.executor.streamWait(ticket, group, stream, failure);
    }

    pub fn pollPlan(self: *Session, ticket: u64, failure: *Failure) status.Error!plans.PlanProgress {
        return self.executor.poll(ticket, failure);
    }

    pub fn waitForPlan(self: *Session, ticket: u64, timeout_ns: u64) status.Error!void {
        return self.executor.wait(ticket, timeout_ns);
    }

    pub fn cancelPlan(self: *Session, ticket: u64) status.Error!void {
        return self.executor.cancel(ticket);
    }
};

//! Reserves, backs, unmaps and releases the memory of one segment. Each step records what it acquired or gave up in
//! the segment only once AscendCL has confirmed it, so that a failed step can be made again and nothing is lost track
//! of. All are called inside a `Scope` of the segment's device, except `release`: not every call needs a context, but
//! none minds one.

const std = @import("std");
const acl = @import("acl");
const Stores = @import("backup.zig").Stores;
const registry = @import("registry.zig");
const runtime = @import("runtime.zig");
const status = @import("status.zig");
const sync = @import("sync.zig");
const Failure = status.Failure;
const Scope = runtime.Scope;
const Segment = @import("segment.zig").Segment;

/// JavaScript numbers are exact up to here; Ascend's addresses lie far below.
const highest_address: u64 = 1 << 53;

/// Calls that only segments with a borrowed address range need.
pub const Beside = struct {
    mapNoAccess: *const fn (*anyopaque, usize, usize, acl.DrvMemHandle, u64) callconv(.c) acl.Error,
    setAccess: *const fn (*anyopaque, usize, *const acl.MemAccessDesc, usize) callconv(.c) acl.Error,
};

pub const Memory = struct {
    runtime: *runtime.Runtime,
    registry: *registry.Registry,
    stores: *Stores,
    /// Set where segments can have a borrowed address range.
    beside: ?*const Beside = null,

    /// Reserves an address range for `segment`.
    pub fn reserve(self: Memory, segment: *Segment, failure: *Failure) status.Error!void {
        const api = &self.runtime.library.api;
        var pointer: ?*anyopaque = null;
        const call = "aclrtReserveMemAddress";
        const code = api.aclrtReserveMemAddress(&pointer, segment.size_bytes, 0, null, 0);
        try self.check(call, code, segment, failure);
        segment.address = @intFromPtr(try runtime.expectResult(call, pointer, 0, segment.size_bytes, failure));
        segment.reserved = true;
        if (segment.address +| segment.size_bytes > highest_address) {
            const reason = "the address is not exact as a JavaScript number";
            failure.describe(call, 0, segment.address, segment.size_bytes, reason);
            return error.AclCallFailed;
        }
    }

    /// Puts fresh physical memory behind `segment`, or maps what it still holds. Does only the steps that are missing.
    pub fn back(self: Memory, segment: *Segment, failure: *Failure) status.Error!void {
        const api = &self.runtime.library.api;
        if (segment.handle == null) {
            const prop = if (segment.borrowed) |owner|
                owner.prop
            else
                runtime.physicalMemory(segment.device, segment.mem_attr);
            var handle: acl.DrvMemHandle = null;
            const call = "aclrtMallocPhysical";
            try self.check(call, api.aclrtMallocPhysical(&handle, segment.size_bytes, &prop, 0), segment, failure);
            const acquired = try runtime.expectResult(call, handle, segment.address, segment.size_bytes, failure);
            self.registry.set(segment, .handle, acquired);
        }
        if (!segment.mapped) {
            if (segment.borrowed != null) return self.mapBorrowed(segment, failure);
            const code = api.aclrtMapMem(segment.pointer(), segment.size_bytes, 0, segment.handle, 0);
            try self.check("aclrtMapMem", code, segment, failure);
            self.registry.set(segment, .mapped, true);
        }
    }

    fn mapBorrowed(self: Memory, segment: *Segment, failure: *Failure) status.Error!void {
        const owner = segment.borrowed orelse return;
        const calls = self.beside orelse return error.InvalidArgument;
        const map = if (owner.no_access) calls.mapNoAccess else self.runtime.library.api.aclrtMapMem;
        const name = if (owner.no_access) "aclrtMemMapNoAccess" else "aclrtMapMem";
        try self.check(name, map(segment.pointer(), segment.size_bytes, 0, segment.handle, 0), segment, failure);
        self.registry.set(segment, .mapped, true);
        errdefer self.unmapAgain(segment);
        for (owner.access.items) |*access| {
            const code = calls.setAccess(segment.pointer(), segment.size_bytes, access, 1);
            try self.check("aclrtMemSetAccess", code, segment, failure);
        }
    }

    /// A mapping without its access would pass for whole in the next attempt.
    fn unmapAgain(self: Memory, segment: *Segment) void {
        var ignored: Failure = .{};
        self.unmap(segment, &ignored) catch return;
    }

    pub fn unmap(self: Memory, segment: *Segment, failure: *Failure) status.Error!void {
        if (!segment.mapped) return;
        try self.check("aclrtUnmapMem", self.runtime.library.api.aclrtUnmapMem(segment.pointer()), segment, failure);
        self.registry.set(segment, .mapped, false);
    }

    pub fn freePhysical(self: Memory, segment: *Segment, failure: *Failure) status.Error!void {
        const handle = segment.handle orelse return;
        try self.check("aclrtFreePhysical", self.runtime.library.api.aclrtFreePhysical(handle), segment, failure);
        self.registry.set(segment, .handle, null);
    }

    fn dropBackup(self: Memory, segment: *Segment) void {
        if (self.registry.takeBackup(segment, .drop)) |backup| backup.drop(self.stores);
    }

    /// Gives back everything that `segment` holds, and takes it out of the table at the end. Waits for the device
    /// first where the memory may be in use, and gives up soon after `interrupt` says so. What was not given back
    /// stays recorded: the same call can be made again. Called outside of any `Scope`.
    pub fn release(self: Memory, segment: *Segment, interrupt: ?sync.Interrupt, failure: *Failure) status.Error!void {
        // The address range is the first to be taken and the last to be released: without one, there is nothing to
        // give back.
        if (!segment.reserved) return;
        if (self.runtime.isGone(segment.device)) return self.forget(segment);
        const scope = Scope.enter(self.runtime, segment.device, failure) catch |err| {
            return if (self.runtime.isGone(segment.device)) self.forget(segment) else err;
        };
        defer scope.abandon();
        if (segment.mapped) try self.runtime.synchronizeDevice(segment.device, interrupt, failure);
        return self.giveBack(segment, failure);
    }

    /// As `release`, for memory that nothing uses any more, on a thread with any context or none.
    pub fn giveBack(self: Memory, segment: *Segment, failure: *Failure) status.Error!void {
        try self.unmap(segment, failure);
        try self.freePhysical(segment, failure);
        self.dropBackup(segment);
        try self.releaseAddress(segment, failure);
    }

    fn releaseAddress(self: Memory, segment: *Segment, failure: *Failure) status.Error!void {
        const was_listed = self.registry.unlist(segment);
        if (segment.borrowed != null) return self.registry.set(segment, .reserved, false);
        errdefer if (was_listed) self.registry.relist(segment);
        const code = self.runtime.library.api.aclrtReleaseMemAddress(segment.pointer());
        try self.check("aclrtReleaseMemAddress", code, segment, failure);
        self.registry.set(segment, .reserved, false);
    }

    /// For a device that somebody else has closed, and all its memory with it. The backup and, on some drivers, the
    /// address range are left to give back. CANN does not document whether the driver still knows the range, so
    /// ignore the error.
    fn forget(self: Memory, segment: *Segment) void {
        self.dropBackup(segment);
        _ = self.registry.unlist(segment);
        if (segment.borrowed == null) _ = self.runtime.library.api.aclrtReleaseMemAddress(segment.pointer());
        self.registry.set(segment, .mapped, false);
        self.registry.set(segment, .handle, null);
        self.registry.set(segment, .reserved, false);
    }

    fn check(
        self: Memory,
        call: []const u8,
        code: acl.Error,
        segment: *const Segment,
        failure: *Failure,
    ) status.Error!void {
        return self.runtime.check(call, code, segment.address, segment.size_bytes, failure);
    }
};

//! The program's own mappings.

const std = @import("std");
const acl = @import("acl");
const core = @import("core");
const program_memory = core.program_memory;
const handles = @import("../handles.zig");
const memory = @import("../memory.zig");
const parking = @import("../parking.zig");
const passage = @import("../passage.zig");
const real = @import("../real.zig");
const refusal = @import("../refusal.zig");
const sharing = @import("../sharing.zig");
const start = @import("../start.zig");
const written = @import("../written.zig");
const Session = core.session.Session;
const heap = core.heap.allocator;

const Pointer = ?*anyopaque;
const Map = fn (Pointer, usize, usize, acl.DrvMemHandle, u64) callconv(.c) acl.Error;
const OfPointer = fn (Pointer) callconv(.c) acl.Error;

pub fn aclrtReserveMemAddress(
    out: ?*Pointer,
    size: usize,
    alignment: usize,
    expected: Pointer,
    flags: u64,
) callconv(.c) acl.Error {
    const Call = fn (?*Pointer, usize, usize, Pointer, u64) callconv(.c) acl.Error;
    const call = real.function("aclrtReserveMemAddress", Call) orelse return refusal.missing;
    const code = call(out, size, alignment, expected, flags);
    if (code != acl.code.success) return code;
    if (out) |reserved| handles.noteReservation(@intFromPtr(reserved.*), size);
    return code;
}

/// Refused, as AscendCL refuses it, while a mapping in it is asleep and so not mapped in truth.
pub fn aclrtReleaseMemAddress(pointer: Pointer) callconv(.c) acl.Error {
    const call = real.function("aclrtReleaseMemAddress", OfPointer) orelse return refusal.missing;
    if (memory.isAllocation(pointer)) return acl.code.rt_param_invalid;
    const address = @intFromPtr(pointer);
    if (handles.reservationBytes(address)) |size_bytes| {
        if (memory.isUsed(address, size_bytes)) return refusal.bad_range;
    }
    const code = call(pointer);
    if (code == acl.code.success) handles.dropReservation(address);
    return code;
}

pub fn aclrtMapMem(
    pointer: Pointer,
    size: usize,
    offset: usize,
    handle: acl.DrvMemHandle,
    flags: u64,
) callconv(.c) acl.Error {
    return map("aclrtMapMem", pointer, size, offset, handle, flags);
}

pub fn aclrtMemMapNoAccess(
    pointer: Pointer,
    size: usize,
    offset: usize,
    handle: acl.DrvMemHandle,
    flags: u64,
) callconv(.c) acl.Error {
    return map("aclrtMemMapNoAccess", pointer, size, offset, handle, flags);
}

fn map(
    comptime name: [:0]const u8,
    pointer: Pointer,
    size: usize,
    offset: usize,
    handle: acl.DrvMemHandle,
    flags: u64,
) acl.Error {
    const call = real.function(name, Map) orelse return refusal.missing;
    const is_free = !memory.isUsed(@intFromPtr(pointer), size);
    if (!handles.isVirtual(handle)) {
        const code = call(pointer, size, offset, handle, flags);
        if (code != acl.code.success or is_free) return code;
        // What the program maps there already is asleep, which AscendCL cannot know.
        const unmap = real.function("aclrtUnmapMem", OfPointer) orelse return code;
        return if (unmap(pointer) == acl.code.success) refusal.bad_range else code;
    }
    const session = start.current() orelse return refusal.stale_handle;
    if (pointer == null or size == 0 or flags != 0) return acl.code.invalid_param;
    if (offset != 0) return acl.code.rt_param_invalid;
    const mapping: Mapping = .{
        .call = call,
        .no_access = comptime std.mem.eql(u8, name, "aclrtMemMapNoAccess"),
        .address = @intFromPtr(pointer),
        .size_bytes = size,
        .handle = @intFromPtr(handle),
        .is_free = is_free,
    };
    return mapping.mapUnused(session) orelse sharing.whileAwake(session, mapping);
}

/// One call of the program's.
const Mapping = struct {
    call: *const Map,
    no_access: bool,
    address: u64,
    size_bytes: u64,
    handle: u64,
    is_free: bool,

    /// Null where the memory is mapped, or parked: then it must be awake.
    fn mapUnused(self: Mapping, session: *Session) ?acl.Error {
        handles.mutex.lock();
        defer handles.mutex.unlock();
        const own = handles.get(@ptrFromInt(self.handle)) orelse return refusal.stale_handle;
        if (own.references == 0) return refusal.stale_handle;
        if (!self.is_free) return refusal.bad_range;
        return if (own.isSegment()) null else self.mapPhysical(session, own);
    }

    /// Inside the gate. Memory that is mapped already stays on the device from now on.
    pub fn run(self: Mapping, session: *Session) sharing.Attempt {
        handles.mutex.lock();
        defer handles.mutex.unlock();
        const own = handles.get(@ptrFromInt(self.handle)) orelse return .{ .done = refusal.stale_handle };
        if (own.isSegment()) {
            const segment = program_memory.claimAny(&session.registry, own.address, own.segment_id) catch
                return .{ .moving = .{ .address = own.address, .segment_id = own.segment_id } };
            const reason: memory.Pinned = if (own.isParked()) .none else .mapped_in_part;
            sharing.pin(session, own, segment, reason);
        }
        return .{ .done = self.mapPhysical(session, own) };
    }

    /// With the handles' mutex held.
    fn mapPhysical(self: Mapping, session: *Session, own: *handles.Handle) acl.Error {
        const block = memory.add(.{
            .start = self.address,
            .size_bytes = self.size_bytes,
            .device = own.prop.location.id,
            .kind = .mapping,
            .handle = self.handle,
            .borrowed = .{ .prop = own.prop, .no_access = self.no_access },
        }) catch return acl.code.bad_alloc;
        const code = self.call(@ptrFromInt(self.address), self.size_bytes, 0, own.physical, 0);
        if (code != acl.code.success) {
            if (memory.take(self.address, &.{.mapping})) |taken| memory.destroy(taken);
            return code;
        }
        own.mappings += 1;
        if (own.mappings > 1 or self.size_bytes != own.size_bytes) {
            if (own.pinned == .none) own.pinned = .mapped_in_part;
        } else if (own.pinned == .none) {
            handles.adopt(session, own, block) catch {
                own.pinned = .refused;
            };
        }
        block.pinned = own.pinned;
        written.noteNew(self.address);
        return code;
    }
};

pub fn aclrtUnmapMem(pointer: Pointer) callconv(.c) acl.Error {
    const call = real.function("aclrtUnmapMem", OfPointer) orelse return refusal.missing;
    const session = start.current() orelse return call(pointer);
    while (true) switch (parking.unmap(session, @intFromPtr(pointer), call)) {
        .foreign => return if (memory.isAllocation(pointer)) refusal.bad_range else call(pointer),
        .done => |code| return code,
        .moving => |segment| passage.waitWhileMoving(session, segment.address, segment.segment_id),
        // There is no room to keep the content elsewhere: it comes back first.
        .needs_memory => {
            if (!passage.enter()) return refusal.asleep;
            passage.leave();
        },
    };
}

pub fn aclrtMemRetainAllocationHandle(pointer: Pointer, handle: ?*acl.DrvMemHandle) callconv(.c) acl.Error {
    const Call = fn (Pointer, ?*acl.DrvMemHandle) callconv(.c) acl.Error;
    const call = real.function("aclrtMemRetainAllocationHandle", Call) orelse return refusal.missing;
    const out = handle orelse return call(pointer, handle);
    if (memory.isAllocation(pointer)) return refusal.bad_range;
    handles.mutex.lock();
    defer handles.mutex.unlock();
    const number = memory.handleOf(@intFromPtr(pointer)) orelse return call(pointer, handle);
    const own = handles.get(@ptrFromInt(number)) orelse return refusal.stale_handle;
    own.references += 1;
    out.* = @ptrFromInt(number);
    return acl.code.success;
}

/// The access of a segment is remembered, for the wake-ups to come.
pub fn aclrtMemSetAccess(
    pointer: Pointer,
    size: usize,
    access: ?[*]const acl.MemAccessDesc,
    count: usize,
) callconv(.c) acl.Error {
    const Call = fn (Pointer, usize, ?[*]const acl.MemAccessDesc, usize) callconv(.c) acl.Error;
    const call = real.function("aclrtMemSetAccess", Call) orelse return refusal.missing;
    if (!passage.enter()) return refusal.asleep;
    defer passage.leave();
    // AscendCL's checks of the access come first, and it knows no mapping of this size.
    if (memory.isAllocation(pointer)) return call(pointer, 1, access, count);
    handles.mutex.lock();
    defer handles.mutex.unlock();
    const borrowed = memory.borrowedOf(@intFromPtr(pointer));
    if (borrowed) |owner| owner.access.ensureUnusedCapacity(heap, count) catch return acl.code.bad_alloc;
    const code = call(pointer, size, access, count);
    const owner = borrowed orelse return code;
    const set = access orelse return code;
    if (code == acl.code.success) for (set[0..count]) |one| remember(owner, one);
    return code;
}

/// There is room. Repeated calls for one location are one.
fn remember(owner: *core.segments.Borrowed, access: acl.MemAccessDesc) void {
    for (owner.access.items) |*known| {
        if (!std.meta.eql(known.location, access.location)) continue;
        known.* = access;
        return;
    }
    owner.access.appendAssumeCapacity(access);
}

pub fn aclrtMemGetAccess(pointer: Pointer, location: ?*acl.MemLocation, flags: ?*u64) callconv(.c) acl.Error {
    const Call = fn (Pointer, ?*acl.MemLocation, ?*u64) callconv(.c) acl.Error;
    const call = real.function("aclrtMemGetAccess", Call) orelse return refusal.missing;
    if (!passage.enter()) return refusal.asleep;
    defer passage.leave();
    if (memory.isAllocation(pointer)) {
        var ignored: u64 = 0;
        const code = call(pointer, location, if (flags == null) null else &ignored);
        return if (code == acl.code.success) refusal.bad_range else code;
    }
    return call(pointer, location, flags);
}

//! The program's own virtual memory. It holds virtual handles, since a sleep replaces the physical one. Memory that is
//! mapped once and whole is a segment in the program's address range; all other memory stays on the device.
//!
//! The mutex is never held while a caller waits at the gate or for a segment that moves: a caller inside the gate may
//! need it.

const std = @import("std");
const acl = @import("acl");
const core = @import("core");
const memory = @import("memory.zig");
const real = @import("real.zig");
const heap = core.heap.allocator;
const Segment = core.segments.Segment;
const Session = core.session.Session;

pub const Handle = struct {
    /// What AscendCL gave. Where its memory is a segment, the segment has the physical handle.
    physical: acl.DrvMemHandle,
    size_bytes: u64,
    prop: acl.PhysicalMemProp,
    /// What AscendCL reports of it, asked when it became a segment.
    reported: acl.PhysicalMemProp = .{},
    references: u32 = 1,
    /// Of the program.
    mappings: u32 = 0,
    /// Where its memory is a segment; 0 while it is none.
    address: u64 = 0,
    segment_id: u64 = 0,
    pinned: memory.Pinned = .none,

    pub fn isSegment(self: *const Handle) bool {
        return self.address != 0;
    }

    /// Unmapped by the program while it slept: its content waits at an address of the library's.
    pub fn isParked(self: *const Handle) bool {
        return self.isSegment() and self.mappings == 0;
    }
};

/// No address and no handle of AscendCL's has these upper bits.
const mark: u64 = 0xca3e_0000_0000_0000;
const mark_mask: u64 = 0xffff_0000_0000_0000;

pub var mutex: core.sync.Mutex = .{};
var known: std.AutoHashMapUnmanaged(u64, *Handle) = .empty;
/// Handles are not reused, so that a stale one is recognised.
var last: u64 = 0;
/// Sizes of the program's reservations by address.
var reservations: std.AutoArrayHashMapUnmanaged(u64, u64) = .empty;

pub fn isVirtual(handle: acl.DrvMemHandle) bool {
    return @intFromPtr(handle) & mark_mask == mark;
}

/// With the mutex held.
pub fn get(handle: acl.DrvMemHandle) ?*Handle {
    return known.get(@intFromPtr(handle));
}

/// The number of a new virtual handle. With the mutex held.
pub fn add(handle: Handle) error{OutOfHostMemory}!u64 {
    known.ensureUnusedCapacity(heap, 1) catch return error.OutOfHostMemory;
    const own = heap.create(Handle) catch return error.OutOfHostMemory;
    own.* = handle;
    last += 1;
    const number = mark | last << 4;
    known.putAssumeCapacity(number, own);
    return number;
}

/// With the mutex held.
pub fn remove(number: u64) void {
    const entry = known.fetchRemove(number) orelse return;
    heap.destroy(entry.value);
}

/// Frees the physical memory of a handle that nothing refers to any more. With the mutex held.
pub fn freeIfUnused(session: *Session, number: u64) acl.Error {
    const handle = known.get(number) orelse return acl.code.success;
    if (handle.references > 0 or handle.mappings > 0) return acl.code.success;
    if (handle.physical != null) {
        const code = session.runtime.library.api.aclrtFreePhysical(handle.physical);
        if (code != acl.code.success) return code;
    }
    remove(number);
    return acl.code.success;
}

pub fn noteReservation(address: u64, size_bytes: u64) void {
    mutex.lock();
    defer mutex.unlock();
    // Without its record, only the check of a release lacks it.
    reservations.put(heap, address, size_bytes) catch return;
}

pub fn dropReservation(address: u64) void {
    mutex.lock();
    defer mutex.unlock();
    _ = reservations.swapRemove(address);
}

pub fn reservationBytes(address: u64) ?u64 {
    mutex.lock();
    defer mutex.unlock();
    return reservations.get(address);
}

/// Drops the handles of one device, or of all, whose memory is gone.
pub fn drop(device: ?u32) void {
    mutex.lock();
    defer mutex.unlock();
    var gone: std.ArrayList(u64) = .empty;
    defer gone.deinit(heap);
    var iterator = known.iterator();
    while (iterator.next()) |entry| {
        if (device) |one| if (entry.value_ptr.*.prop.location.id != one) continue;
        gone.append(heap, entry.key_ptr.*) catch return;
    }
    for (gone.items) |number| remove(number);
    if (device == null) reservations.clearRetainingCapacity();
}

/// In a child of fork().
pub fn forget() void {
    mutex = .{};
    known = .empty;
    reservations = .empty;
}

/// Makes a mapping of the program a segment. With the mutex held.
pub fn adopt(session: *Session, handle: *Handle, block: *memory.Block) core.status.Error!void {
    const registry = &session.registry;
    const segment = try registry.create(block.device, 0, block.size_bytes, block.size_bytes);
    segment.address = block.start;
    segment.handle = handle.physical;
    segment.mapped = true;
    segment.reserved = true;
    segment.borrowed = &block.borrowed;
    block.segment_id = registry.insert(segment) orelse {
        registry.destroy(segment);
        return error.DeviceLost;
    };
    handle.reported = handle.prop;
    const Query = fn (acl.DrvMemHandle, *acl.PhysicalMemProp) callconv(.c) acl.Error;
    if (real.function("aclrtMemGetAllocationPropertiesFromHandle", Query)) |query|
        _ = query(handle.physical, &handle.reported); // else the program's own words
    handle.physical = null;
    handle.address = block.start;
    handle.segment_id = block.segment_id;
}

/// Ends that a handle's memory, which is awake and claimed, is a segment: it is the program's alone again.
pub fn disown(session: *Session, handle: *Handle, segment: *Segment) void {
    const registry = &session.registry;
    if (registry.takeBackup(segment, .drop)) |backup| backup.drop(&session.stores);
    handle.physical = segment.handle;
    handle.address = 0;
    handle.segment_id = 0;
    _ = registry.unlist(segment);
    registry.destroy(segment);
}

//! aclrtMapMem and aclrtUnmapMem. The codes are those of the driver build for Atlas A2 and A3.

const std = @import("std");
const acl = @import("acl");
const block_module = @import("../block.zig");
const device = @import("../device.zig");
const errors = @import("../errors.zig");
const handles = @import("../handles.zig");
const lock = @import("../lock.zig");
const mapping = @import("../mapping.zig");
const physical_handle = @import("../physical_handle.zig");
const reservation_module = @import("../reservation.zig");
const PhysicalHandle = physical_handle.PhysicalHandle;
const Reservation = reservation_module.Reservation;

const invalid = acl.code.invalid_param;
const refused = acl.code.rt_param_invalid;
const misuse = acl.code.rt_drv_internal_error;

pub fn aclrtMapMem(pointer: ?*anyopaque, size: usize, offset: usize, handle: acl.DrvMemHandle, flags: u64) acl.Error {
    return mapWith(pointer, size, offset, handle, flags, true);
}

pub fn aclrtMemMapNoAccess(
    pointer: ?*anyopaque,
    size: usize,
    offset: usize,
    handle: acl.DrvMemHandle,
    flags: u64,
) acl.Error {
    return mapWith(pointer, size, offset, handle, flags, false);
}

fn mapWith(
    pointer: ?*anyopaque,
    size: usize,
    offset: usize,
    handle: acl.DrvMemHandle,
    flags: u64,
    accessible: bool,
) acl.Error {
    if (pointer == null or handle == null) return errors.fail(invalid, "virPtr or handle is NULL");
    if (size == 0) return errors.fail(invalid, "size is 0");
    if (flags != 0) return errors.fail(invalid, "flags must be 0");
    lock.enter();
    defer lock.leave();
    if (!device.ever_opened) return device.neverOpened();
    if (offset != 0) return errors.fail(refused, "offset must be 0");
    const mapped = physical_handle.registry.get(handle) orelse return physical_handle.stale();
    if (mapped.references == 0) return physical_handle.stale();
    const start = @intFromPtr(pointer);
    var reservation: *Reservation = undefined;
    const code = checkMapping(start, size, mapped, &reservation);
    if (code != acl.code.success) return code;
    return mapping.add(start, size, mapped, reservation, accessible);
}

fn checkMapping(start: u64, size: u64, mapped: *const PhysicalHandle, out: **Reservation) acl.Error {
    const outside = "the range does not lie inside one reservation";
    const end = std.math.add(u64, start, size) catch return errors.fail(misuse, outside);
    const entry = reservation_module.table.containing(start) orelse return errors.fail(misuse, outside);
    if (end > entry.end) return errors.fail(misuse, outside);
    const alignment = mapped.pageBytes();
    if (start % alignment != 0 or size % alignment != 0) return errors.fail(misuse, "address or size is misaligned");
    if (block_module.device_blocks.firstOverlap(start, end) != null)
        return errors.fail(misuse, "the range overlaps a mapping");
    if (size > mapped.memory.size)
        return errors.fail(acl.code.rt_memory_allocation, "the range is larger than the physical memory");
    if (entry.value.side) |side| {
        if (side.device != mapped.device) return errors.fail(misuse, "the reservation belongs to another device");
    }
    out.* = entry.value;
    return acl.code.success;
}

pub fn aclrtUnmapMem(pointer: ?*anyopaque) acl.Error {
    if (pointer == null) return errors.fail(invalid, "virPtr is NULL");
    lock.enter();
    defer lock.leave();
    if (!device.ever_opened) return device.neverOpened();
    const block = mapping.at(@intFromPtr(pointer)) orelse return errors.fail(misuse, "not the start of a mapping");
    if (block.pins > 0) return errors.fail(misuse, "the memory is in use by a copy");
    if (!mapping.remove(block)) return errors.fail(misuse, "the host could not unmap the memory");
    return acl.code.success;
}

pub fn aclrtMemRetainAllocationHandle(pointer: ?*anyopaque, handle: ?*acl.DrvMemHandle) acl.Error {
    const out = handle orelse return errors.fail(invalid, "handle is NULL");
    if (pointer == null) return errors.fail(invalid, "virPtr is NULL");
    lock.enter();
    defer lock.leave();
    if (!device.ever_opened) return device.neverOpened();
    const block = mapping.at(@intFromPtr(pointer)) orelse return errors.fail(misuse, "not the start of a mapping");
    const mapped = block.handle orelse return errors.fail(misuse, "not the start of a mapping");
    mapped.references += 1;
    out.* = handles.toPointer(mapped.number);
    return acl.code.success;
}

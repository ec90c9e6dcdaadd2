//! aclrtReserveMemAddress and aclrtReleaseMemAddress.

const std = @import("std");
const acl = @import("acl");
const address_window = @import("../address_window.zig");
const device = @import("../device.zig");
const errors = @import("../errors.zig");
const lock = @import("../lock.zig");
const physical = @import("../physical.zig");
const reservation = @import("../reservation.zig");
const giant_page_bytes = physical.giant_page_bytes;
const huge_page_bytes = physical.huge_page_bytes;

const invalid = acl.code.invalid_param;
const refused = acl.code.rt_param_invalid;

pub fn aclrtReserveMemAddress(
    pointer: ?*?*anyopaque,
    size: usize,
    alignment: usize,
    expected: ?*anyopaque,
    flags: u64,
) acl.Error {
    const out = pointer orelse return errors.fail(invalid, "virPtr is NULL");
    if (size == 0) return errors.fail(invalid, "size is 0");
    if (flags > 1) return errors.fail(invalid, "flags must be 0 or 1");
    lock.enter();
    defer lock.leave();
    if (!device.ever_opened) return device.neverOpened();
    if (alignment != 0) return errors.fail(refused, "alignment must be 0");
    if (size > address_window.max_range_bytes)
        return errors.fail(acl.code.rt_memory_allocation, "a reservation has at most 128 GiB");
    const length = std.mem.alignForward(u64, size, huge_page_bytes);
    var start: u64 = 0;
    const code = chooseAddress(@intFromPtr(expected), size, length, &start);
    if (code != acl.code.success) return code;
    reservation.add(start, length) catch return errors.outOfHostMemory();
    out.* = @ptrFromInt(start);
    return acl.code.success;
}

fn chooseAddress(expected: u64, size: u64, length: u64, out: *u64) acl.Error {
    if (expected == 0) {
        const alignment = if (length >= giant_page_bytes) giant_page_bytes else huge_page_bytes;
        out.* = address_window.take(length, alignment) orelse return noAddress();
        return acl.code.success;
    }
    if (expected % expectedAlignment(size) != 0) return errors.fail(refused, "expectPtr is misaligned for its size");
    if (expected < address_window.start_address or expected > address_window.end_address - length)
        return errors.fail(refused, "expectPtr lies outside 16 to 24 TiB");
    if (!address_window.takeAt(expected, length)) return noAddress();
    out.* = expected;
    return acl.code.success;
}

fn noAddress() acl.Error {
    return errors.fail(acl.code.rt_memory_allocation, "the address range is not free");
}

fn expectedAlignment(size: u64) u64 {
    if (size > 512 << 20) return giant_page_bytes;
    return @max(huge_page_bytes, std.math.ceilPowerOfTwoAssert(u64, size));
}

pub fn aclrtReleaseMemAddress(pointer: ?*anyopaque) acl.Error {
    if (pointer == null) return errors.fail(invalid, "virPtr is NULL");
    lock.enter();
    defer lock.leave();
    if (!device.ever_opened) return device.neverOpened();
    const entry = reservation.table.at(@intFromPtr(pointer)) orelse
        return errors.fail(refused, "not the start of a reservation");
    if (entry.value.mappings > 0)
        return errors.fail(acl.code.rt_drv_internal_error, "the reservation still has a mapping");
    reservation.remove(entry.value);
    return acl.code.success;
}

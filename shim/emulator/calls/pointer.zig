//! Queries about an address.

const acl = @import("acl");
const address_window = @import("../address_window.zig");
const block = @import("../block.zig");
const errors = @import("../errors.zig");
const lock = @import("../lock.zig");
const physical = @import("../physical.zig");
const reservation = @import("../reservation.zig");

pub fn aclrtPointerGetAttributes(pointer: ?*const anyopaque, attributes: ?*acl.PtrAttributes) acl.Error {
    const out = attributes orelse return errors.fail(acl.code.invalid_param, "attributes is NULL");
    if (pointer == null) return errors.fail(acl.code.invalid_param, "ptr is NULL");
    const address = @intFromPtr(pointer);
    lock.enter();
    defer lock.leave();
    var result: acl.PtrAttributes = .{ .page_size = physical.normal_page_bytes };
    result.location.type = acl.MemLocationType.unregistered;
    if (block.deviceBlock(address)) |found| {
        const on = found.device;
        result.location = .{
            .id = on orelse 0,
            .type = if (on == null) acl.MemLocationType.host else acl.MemLocationType.device,
        };
        result.page_size = found.page_bytes;
    } else if (block.host_blocks.containing(address) != null) {
        result.location.type = acl.MemLocationType.host;
    } else if (reservation.table.containing(address) != null) {
        return errors.fail(acl.code.rt_invalid_handle, "the address is reserved but not mapped");
    } else if (address_window.isUnallocated(address, address +| 1)) {
        return errors.fail(acl.code.rt_drv_internal_error, "a device address that was never allocated");
    }
    out.* = result;
    return acl.code.success;
}

pub fn aclrtMemGetAddressRange(pointer: ?*anyopaque, base: ?*?*anyopaque, size: ?*usize) acl.Error {
    if (pointer == null) return errors.fail(acl.code.invalid_param, "ptr is NULL");
    if (base == null and size == null) return errors.fail(acl.code.rt_param_invalid, "pbase and psize are both NULL");
    const address = @intFromPtr(pointer);
    lock.enter();
    defer lock.leave();
    const found = block.deviceBlock(address) orelse {
        const reserved = reservation.table.containing(address) != null;
        if (reserved or address_window.isUnallocated(address, address +| 1))
            return errors.fail(acl.code.rt_drv_internal_error, "nothing is mapped at the address");
        return errors.fail(acl.code.rt_param_invalid, "not a device address");
    };
    if (base) |out| out.* = @ptrFromInt(found.start);
    if (size) |out| out.* = found.size;
    return acl.code.success;
}

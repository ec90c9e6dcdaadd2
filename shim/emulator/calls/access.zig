//! Access to mapped memory: aclrtMemSetAccess and aclrtMemGetAccess.

const std = @import("std");
const acl = @import("acl");
const block_module = @import("../block.zig");
const device = @import("../device.zig");
const errors = @import("../errors.zig");
const lock = @import("../lock.zig");
const mapping = @import("../mapping.zig");
const Block = block_module.Block;

const invalid = acl.code.invalid_param;
const refused = acl.code.rt_param_invalid;
const misuse = acl.code.rt_drv_internal_error;
const unsupported = acl.code.rt_feature_not_supported;

/// The driver reads 20 bytes per element, where AscendCL's own struct has 24. So only the first element lines up.
const DriverAccess = extern struct { flags: c_int, location: acl.MemLocation, rsv: [8]u8 };
comptime {
    std.debug.assert(@sizeOf(DriverAccess) == 20);
}

pub fn aclrtMemSetAccess(
    pointer: ?*anyopaque,
    size: usize,
    descriptors: ?*const acl.MemAccessDesc,
    count: usize,
) acl.Error {
    const described = descriptors orelse return errors.fail(refused, "desc is NULL");
    if (pointer == null) return errors.fail(refused, "virPtr is NULL");
    if (count == 0) return errors.fail(refused, "count is 0");
    lock.enter();
    defer lock.leave();
    if (!device.ever_opened) return device.neverOpened();
    const elements: [*]const DriverAccess = @ptrCast(described);
    for (elements[0..count]) |*element| {
        const code = checkAccess(element);
        if (code != acl.code.success) return code;
    }
    const block = mapping.at(@intFromPtr(pointer)) orelse return errors.fail(misuse, "not the start of a mapping");
    if (block.size != size) return errors.fail(misuse, "the size is not the one that was mapped");
    for (elements[0..count]) |*element| {
        const code = grant(block, element.location);
        if (code != acl.code.success) return code;
    }
    return acl.code.success;
}

fn checkAccess(element: *const DriverAccess) acl.Error {
    switch (element.flags) {
        acl.MemAccess.read_write => {},
        acl.MemAccess.none, acl.MemAccess.read => return errors.fail(unsupported, "only READWRITE can be granted"),
        else => return errors.fail(refused, "unknown access flag"),
    }
    return checkLocation(element.location);
}

/// Access locations carry driver ids, which the list of visible devices does not renumber.
fn checkLocation(location: acl.MemLocation) acl.Error {
    switch (location.type) {
        acl.MemLocationType.host => if (location.id == 0) return acl.code.success,
        acl.MemLocationType.device => for (device.all()) |*candidate| {
            if (candidate.driver_id == location.id) return acl.code.success;
        },
        else => {},
    }
    return errors.fail(refused, "no such location");
}

fn isOwner(block: *const Block, location: acl.MemLocation) bool {
    const on = block.device orelse return location.type == acl.MemLocationType.host;
    return location.type == acl.MemLocationType.device and device.driverId(on) == location.id;
}

fn grant(block: *Block, location: acl.MemLocation) acl.Error {
    if (isOwner(block, location)) {
        if (block.accessible) return acl.code.success;
        block.accessible = true;
        block.pins += 1;
        defer block.unpin();
        if (block.map()) return acl.code.success;
        // The bare mapping stays.
        block.accessible = false;
        block.is_ready = true;
        return errors.fail(misuse, "the host refused access");
    }
    if (block.device == null) return errors.fail(unsupported, "devices cannot reach host memory");
    if (location.type == acl.MemLocationType.host) {
        block.host_access = true;
    } else {
        block.device_access |= @as(u16, 1) << @intCast(location.id);
    }
    return acl.code.success;
}

pub fn aclrtMemGetAccess(pointer: ?*anyopaque, location: ?*const acl.MemLocation, flags: ?*u64) acl.Error {
    const where = location orelse return errors.fail(invalid, "location is NULL");
    const out = flags orelse return errors.fail(invalid, "flag is NULL");
    if (pointer == null) return errors.fail(invalid, "virPtr is NULL");
    lock.enter();
    defer lock.leave();
    if (!device.ever_opened) return device.neverOpened();
    const code = checkLocation(where.*);
    if (code != acl.code.success) return code;
    const block = block_module.deviceBlock(@intFromPtr(pointer)) orelse
        return errors.fail(misuse, "nothing is mapped at the address");
    if (block.kind != .mapping) return errors.fail(misuse, "nothing is mapped at the address");
    const granted = if (isOwner(block, where.*))
        block.accessible
    else if (where.type == acl.MemLocationType.host)
        block.host_access
    else
        block.device_access & (@as(u16, 1) << @intCast(where.id)) != 0;
    out.* = @intCast(if (granted) acl.MemAccess.read_write else acl.MemAccess.none);
    return acl.code.success;
}

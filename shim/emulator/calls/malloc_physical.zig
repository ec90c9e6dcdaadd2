//! aclrtMallocPhysical, aclrtFreePhysical, and queries about physical memory. The codes are those of the
//! driver build for Atlas A2 and A3.

const std = @import("std");
const acl = @import("acl");
const context = @import("../context.zig");
const device = @import("../device.zig");
const errors = @import("../errors.zig");
const handles = @import("../handles.zig");
const lock = @import("../lock.zig");
const physical = @import("../physical.zig");
const physical_handle = @import("../physical_handle.zig");
const PhysicalHandle = physical_handle.PhysicalHandle;
const giant_page_bytes = physical.giant_page_bytes;
const huge_page_bytes = physical.huge_page_bytes;

const invalid = acl.code.invalid_param;
const refused = acl.code.rt_param_invalid;
const misuse = acl.code.rt_drv_internal_error;
const unsupported = acl.code.rt_feature_not_supported;

/// Memory on the host, which has no budget but the host's own.
var host_pool: physical.Pool = .{ .budget_bytes = std.math.maxInt(u64) };

/// The ACL layer's checks that the granularity query makes too.
fn checkAttribute(prop: *const acl.PhysicalMemProp) acl.Error {
    switch (prop.mem_attr) {
        acl.MemAttr.ddr_huge, acl.MemAttr.ddr_normal, acl.MemAttr.ddr_p2p_huge, acl.MemAttr.ddr_p2p_normal => {
            if (prop.location.type == acl.MemLocationType.device) return errors.fail(invalid, "a device has no DDR");
        },
        acl.MemAttr.hbm_huge, acl.MemAttr.hbm_normal, acl.MemAttr.hbm_huge1g => {},
        acl.MemAttr.mem_normal...acl.MemAttr.mem_p2p_huge1g => {},
        else => return errors.fail(invalid, "memAttr cannot be used for physical memory"),
    }
    return acl.code.success;
}

fn isGiant(attr: c_int) bool {
    return attr == acl.MemAttr.hbm_huge1g or attr == acl.MemAttr.mem_huge1g or attr == acl.MemAttr.mem_p2p_huge1g;
}

pub fn aclrtMemGetAllocationGranularity(
    prop: ?*const acl.PhysicalMemProp,
    option: c_int,
    granularity: ?*usize,
) acl.Error {
    const properties = prop orelse return errors.fail(invalid, "prop is NULL");
    const out = granularity orelse return errors.fail(invalid, "granularity is NULL");
    const code = checkAttribute(properties);
    if (code != acl.code.success) return code;
    if (option != acl.MemGranularity.minimum and option != acl.MemGranularity.recommended)
        return errors.fail(unsupported, "unknown granularity option");
    out.* = if (isGiant(properties.mem_attr)) giant_page_bytes else huge_page_bytes;
    return acl.code.success;
}

pub fn aclrtMallocPhysical(
    handle: ?*acl.DrvMemHandle,
    size: usize,
    prop: ?*const acl.PhysicalMemProp,
    flags: u64,
) acl.Error {
    const out = handle orelse return errors.fail(invalid, "handle is NULL");
    const properties = prop orelse return errors.fail(invalid, "prop is NULL");
    var code = checkArguments(size, properties, flags);
    if (code != acl.code.success) return code;
    lock.enter();
    defer lock.leave();
    var request: Request = .{};
    code = locate(size, properties, &request);
    if (code != acl.code.success) return code;
    const created = allocate(&request, properties.mem_attr) catch
        return physical.outOfMemory();
    out.* = handles.toPointer(created.number);
    return acl.code.success;
}

fn checkArguments(size: usize, prop: *const acl.PhysicalMemProp, flags: u64) acl.Error {
    if (size == 0) return errors.fail(invalid, "size is 0");
    if (flags != 0) return errors.fail(invalid, "flags must be 0");
    if (prop.handle_type != acl.MemHandleType.none) return errors.fail(invalid, "handleType must be NONE");
    if (prop.allocation_type != acl.MemAllocationType.pinned)
        return errors.fail(invalid, "allocationType must be PINNED");
    switch (prop.location.type) {
        acl.MemLocationType.host, acl.MemLocationType.device, acl.MemLocationType.host_numa => {},
        else => return errors.fail(invalid, "location must be a device, the host or a NUMA node"),
    }
    return checkAttribute(prop);
}

const Request = struct { device: ?u8 = null, pool: *physical.Pool = &host_pool, size: u64 = 0 };

/// The checks of runtime and driver: where the memory lies, and how much it takes.
fn locate(size: u64, prop: *const acl.PhysicalMemProp, request: *Request) acl.Error {
    const giant = isGiant(prop.mem_attr);
    if (prop.location.type == acl.MemLocationType.device) {
        const on = device.byUserId(prop.location.id) orelse
            return device.unknownDevice();
        if (!on.isOpen()) return errors.fail(acl.code.rt_invalid_handle, "the device is not open in this process");
        if (prop.mem_attr == acl.MemAttr.mem_p2p_huge1g) return errors.fail(unsupported, "no 1 GiB P2P pages");
        request.* = .{ .device = on.user_id, .pool = &on.pool };
    } else {
        if (prop.location.type == acl.MemLocationType.host_numa) {
            _ = context.current() orelse return context.noContext();
            return errors.fail(unsupported, "no memory on NUMA nodes");
        }
        if (!device.ever_opened) return device.neverOpened();
        if (giant) return errors.fail(unsupported, "the host has no 1 GiB pages");
        if (prop.location.id != 0) return errors.fail(unsupported, "the host has id 0");
        if (prop.mem_attr == acl.MemAttr.hbm_huge or prop.mem_attr == acl.MemAttr.hbm_normal)
            return errors.fail(refused, "the host has no HBM");
    }
    if (prop.reserve != 0) return errors.fail(refused, "reserve must be 0");
    if (!giant and size % huge_page_bytes != 0) return errors.fail(misuse, "size is not a multiple of 2 MiB");
    if (size > std.math.maxInt(u48)) return physical.outOfMemory();
    request.size = if (giant) std.mem.alignForward(u64, size, giant_page_bytes) else size;
    return acl.code.success;
}

fn allocate(request: *const Request, attr: c_int) error{OutOfMemory}!*PhysicalHandle {
    const memory = try physical.Memory.create(request.pool, request.size, .physical);
    return physical_handle.add(.{
        .memory = memory,
        .device = request.device,
        .mem_attr = readBackAttribute(attr, request.device != null),
        .giant_pages = isGiant(attr),
    });
}

/// The driver remembers page size and kind, not the name of the attribute in the request.
fn readBackAttribute(attr: c_int, on_device: bool) c_int {
    const name = acl.MemAttr;
    return switch (attr) {
        name.ddr_normal, name.mem_normal, name.hbm_normal => if (on_device) name.hbm_normal else name.mem_normal,
        name.ddr_huge, name.mem_huge, name.hbm_huge => if (on_device) name.hbm_huge else name.mem_huge,
        name.hbm_huge1g, name.mem_huge1g => if (on_device) name.hbm_huge1g else name.mem_huge1g,
        name.ddr_p2p_normal, name.mem_p2p_normal => if (on_device) name.mem_p2p_normal else name.ddr_p2p_normal,
        name.ddr_p2p_huge => name.mem_p2p_huge,
        else => attr,
    };
}

pub fn aclrtFreePhysical(handle: acl.DrvMemHandle) acl.Error {
    if (handle == null) return errors.fail(invalid, "handle is NULL");
    lock.enter();
    defer lock.leave();
    const entry = physical_handle.registry.get(handle) orelse return physical_handle.stale();
    if (entry.references == 0) return errors.fail(refused, "freed already, and still mapped");
    entry.dropReference();
    return acl.code.success;
}

pub fn aclrtMemGetAllocationPropertiesFromHandle(handle: acl.DrvMemHandle, prop: ?*acl.PhysicalMemProp) acl.Error {
    const out = prop orelse return errors.fail(invalid, "prop is NULL");
    if (handle == null) return errors.fail(invalid, "handle is NULL");
    lock.enter();
    defer lock.leave();
    const entry = physical_handle.registry.get(handle) orelse return physical_handle.stale();
    out.* = .{
        .mem_attr = entry.mem_attr,
        .location = if (entry.device) |id|
            .{ .id = device.driverId(id), .type = acl.MemLocationType.device }
        else
            .{ .id = 0, .type = acl.MemLocationType.host },
    };
    return acl.code.success;
}

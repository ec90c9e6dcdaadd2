//! Virtual memory management: reservations, physical memory and the mappings between them, with the codes of the driver
//! build for Atlas A2 and A3.

const std = @import("std");
const acl = @import("acl");
const state = @import("state.zig");
const errors = @import("errors.zig");
const handles = @import("handles.zig");
const device = @import("device.zig");
const backing = @import("backing.zig");
const address_space = @import("address_space.zig");
const physical_memory = @import("physical.zig");
const memory = @import("memory.zig");
const Physical = physical_memory.Physical;
const Block = address_space.Block;

const granule = backing.granule;
const giant_granule: u64 = 1 << 30;
const invalid = acl.code.invalid_param;
const refused = acl.code.rt_param_invalid;
const misuse = acl.code.rt_drv_internal_error;
const unsupported = acl.code.rt_feature_not_supported;

pub const Reservation = struct {
    start: u64,
    size: u64,
    mappings: u32 = 0,
    /// Where the first mapping put it, for good: the device's user id, or null for the host.
    side: ?Side = null,

    const Side = struct { device: ?u8 };
};

/// Memory on the host, which has no budget but the host's own.
var host_pool: backing.Pool = .{ .budget_bytes = std.math.maxInt(u64) };

/// The driver's address space manager appears with the first device that the process opens.
fn managerMissing() bool {
    return !device.ever_opened;
}

fn noManager() acl.Error {
    return errors.fail(acl.code.rt_invalid_handle, "no device was opened in this process yet");
}

pub fn reserve(pointer: ?*?*anyopaque, size: usize, alignment: usize, expected: ?*anyopaque, flags: u64) acl.Error {
    const out = pointer orelse return errors.fail(invalid, "virPtr is NULL");
    if (size == 0) return errors.fail(invalid, "size is 0");
    if (flags > 1) return errors.fail(invalid, "flags must be 0 or 1");
    state.enter();
    defer state.leave();
    if (managerMissing()) return noManager();
    if (alignment != 0) return errors.fail(refused, "alignment must be 0");
    if (size > memory.max_range) return errors.fail(acl.code.rt_memory_allocation, "reservations end at 128 GiB");
    const length = std.mem.alignForward(u64, size, granule);
    var start: u64 = 0;
    const code = chooseAddress(@intFromPtr(expected), size, length, &start);
    if (code != acl.code.success) return code;
    addReservation(start, length) catch {
        address_space.giveBack(start, length);
        return errors.fail(acl.code.rt_memory_allocation, "out of host memory");
    };
    out.* = @ptrFromInt(start);
    return acl.code.success;
}

fn chooseAddress(expected: u64, size: u64, length: u64, out: *u64) acl.Error {
    if (expected == 0) {
        const alignment = if (length >= giant_granule) giant_granule else granule;
        out.* = address_space.take(length, alignment) orelse return noAddress();
        return acl.code.success;
    }
    if (expected % expectedAlignment(size) != 0) return errors.fail(refused, "expectPtr is misaligned for its size");
    if (expected < address_space.window_start or expected > address_space.window_end - length)
        return errors.fail(refused, "expectPtr lies outside 16 to 24 TiB");
    if (!address_space.takeAt(expected, length)) return noAddress();
    out.* = expected;
    return acl.code.success;
}

fn noAddress() acl.Error {
    return errors.fail(acl.code.rt_memory_allocation, "the address range is not free");
}

fn expectedAlignment(size: u64) u64 {
    if (size > 512 << 20) return giant_granule;
    return @max(granule, std.math.ceilPowerOfTwoAssert(u64, size));
}

fn addReservation(start: u64, size: u64) error{OutOfMemory}!void {
    const reservation = try state.allocator.create(Reservation);
    errdefer state.allocator.destroy(reservation);
    reservation.* = .{ .start = start, .size = size };
    try address_space.reservations.insert(start, start + size, reservation);
}

pub fn releaseAddress(pointer: ?*anyopaque) acl.Error {
    if (pointer == null) return errors.fail(invalid, "virPtr is NULL");
    state.enter();
    defer state.leave();
    if (managerMissing()) return noManager();
    const entry = address_space.reservations.at(@intFromPtr(pointer)) orelse
        return errors.fail(refused, "not the start of a reservation");
    if (entry.value.mappings > 0) return errors.fail(misuse, "something is still mapped in the reservation");
    address_space.reservations.remove(entry.start);
    address_space.giveBack(entry.start, entry.end - entry.start);
    state.allocator.destroy(entry.value);
    return acl.code.success;
}

const host_giant = "no 1 GiB pages there";

/// The ACL layer's checks that the granularity query makes as well.
fn checkAttribute(prop: *const acl.PhysicalMemProp) acl.Error {
    switch (prop.mem_attr) {
        acl.MemAttr.ddr_huge, acl.MemAttr.ddr_normal, acl.MemAttr.ddr_p2p_huge, acl.MemAttr.ddr_p2p_normal => {
            if (prop.location.type == acl.MemLocationType.device) return errors.fail(invalid, "DDR on a device");
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

pub fn getGranularity(prop: ?*const acl.PhysicalMemProp, option: c_int, granularity: ?*usize) acl.Error {
    const properties = prop orelse return errors.fail(invalid, "prop is NULL");
    const out = granularity orelse return errors.fail(invalid, "granularity is NULL");
    const code = checkAttribute(properties);
    if (code != acl.code.success) return code;
    if (option != acl.MemGranularity.minimum and option != acl.MemGranularity.recommended)
        return errors.fail(unsupported, "unknown granularity option");
    state.enter();
    defer state.leave();
    if (managerMissing()) return noManager();
    out.* = if (isGiant(properties.mem_attr)) giant_granule else granule;
    return acl.code.success;
}

pub fn mallocPhysical(
    handle: ?*acl.DrvMemHandle,
    size: usize,
    prop: ?*const acl.PhysicalMemProp,
    flags: u64,
) acl.Error {
    const out = handle orelse return errors.fail(invalid, "handle is NULL");
    const properties = prop orelse return errors.fail(invalid, "prop is NULL");
    var code = checkPhysicalArguments(size, properties, flags);
    if (code != acl.code.success) return code;
    state.enter();
    defer state.leave();
    var request: Request = .{};
    code = locate(size, properties, &request);
    if (code != acl.code.success) return code;
    const created = allocatePhysical(&request, properties.mem_attr) catch
        return errors.fail(acl.code.rt_memory_allocation, "out of memory");
    out.* = handles.toPointer(created.handle);
    return acl.code.success;
}

fn checkPhysicalArguments(size: usize, prop: *const acl.PhysicalMemProp, flags: u64) acl.Error {
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

const Request = struct { device: ?u8 = null, pool: *backing.Pool = &host_pool, size: u64 = 0 };

/// The runtime's and the driver's checks: where the memory is to lie, and how much it really is.
fn locate(size: u64, prop: *const acl.PhysicalMemProp, request: *Request) acl.Error {
    const giant = isGiant(prop.mem_attr);
    if (prop.location.type == acl.MemLocationType.device) {
        const on = device.byUserId(prop.location.id) orelse
            return errors.fail(acl.code.rt_invalid_device_id, "no such device");
        if (!on.isOpen()) return errors.fail(acl.code.rt_invalid_handle, "the device is not open in this process");
        if (prop.mem_attr == acl.MemAttr.mem_p2p_huge1g) return errors.fail(unsupported, "no 1 GiB P2P pages");
        request.* = .{ .device = on.user_id, .pool = &on.pool };
    } else {
        if (prop.location.type == acl.MemLocationType.host_numa) {
            _ = device.current() orelse return device.noContext();
            return errors.fail(unsupported, "no memory on NUMA nodes");
        }
        if (managerMissing()) return noManager();
        if (giant) return errors.fail(unsupported, host_giant);
        if (prop.location.id != 0) return errors.fail(unsupported, "the host has id 0");
        if (prop.mem_attr == acl.MemAttr.hbm_huge or prop.mem_attr == acl.MemAttr.hbm_normal)
            return errors.fail(refused, "HBM on the host");
    }
    if (prop.reserve != 0) return errors.fail(refused, "reserve must be 0");
    if (!giant and size % granule != 0) return errors.fail(misuse, "size is no multiple of 2 MiB");
    if (size > std.math.maxInt(u48)) return errors.fail(acl.code.rt_memory_allocation, "out of memory");
    request.size = if (giant) std.mem.alignForward(u64, size, giant_granule) else size;
    return acl.code.success;
}

fn allocatePhysical(request: *const Request, attr: c_int) error{OutOfMemory}!*Physical {
    const storage = try backing.Backing.create(request.pool, request.size, .physical);
    return physical_memory.add(.{
        .backing = storage,
        .device = request.device,
        .mem_attr = readBackAttribute(attr, request.device != null),
        .giant_pages = isGiant(attr),
    });
}

/// The driver remembers page size and kind, not the name that was asked for.
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

fn staleHandle() acl.Error {
    return errors.fail(acl.code.rt_invalid_handle, "no such physical memory handle, or freed already");
}

pub fn freePhysical(handle: acl.DrvMemHandle) acl.Error {
    if (handle == null) return errors.fail(invalid, "handle is NULL");
    state.enter();
    defer state.leave();
    const physical = physical_memory.registry.get(handle) orelse return staleHandle();
    if (physical.references == 0) return errors.fail(refused, "freed already, and still mapped");
    physical.dropReference();
    return acl.code.success;
}

pub fn map(pointer: ?*anyopaque, size: usize, offset: usize, handle: acl.DrvMemHandle, flags: u64) acl.Error {
    return mapWith(pointer, size, offset, handle, flags, true);
}

pub fn mapNoAccess(pointer: ?*anyopaque, size: usize, offset: usize, handle: acl.DrvMemHandle, flags: u64) acl.Error {
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
    state.enter();
    defer state.leave();
    if (managerMissing()) return noManager();
    if (offset != 0) return errors.fail(refused, "offset must be 0");
    const physical = physical_memory.registry.get(handle) orelse return staleHandle();
    if (physical.references == 0) return staleHandle();
    const start = @intFromPtr(pointer);
    var reservation: *Reservation = undefined;
    const code = checkMapping(start, size, physical, &reservation);
    if (code != acl.code.success) return code;
    return addMapping(start, size, physical, reservation, accessible);
}

fn checkMapping(start: u64, size: u64, physical: *const Physical, out: **Reservation) acl.Error {
    const outside = "the range does not lie inside one reservation";
    const end = std.math.add(u64, start, size) catch return errors.fail(misuse, outside);
    const entry = address_space.reservations.containing(start) orelse return errors.fail(misuse, outside);
    if (end > entry.end) return errors.fail(misuse, outside);
    const alignment = if (physical.giant_pages) giant_granule else granule;
    if (start % alignment != 0 or size % alignment != 0) return errors.fail(misuse, "address or size is misaligned");
    if (address_space.device_blocks.firstOverlap(start, end) != null)
        return errors.fail(misuse, "the range overlaps a mapping");
    if (size > physical.backing.size)
        return errors.fail(acl.code.rt_memory_allocation, "the range is larger than the physical memory");
    if (entry.value.side) |side| {
        if (side.device != physical.device) return errors.fail(misuse, "the reservation belongs to another device");
    }
    out.* = entry.value;
    return acl.code.success;
}

fn addMapping(start: u64, size: u64, physical: *Physical, reservation: *Reservation, accessible: bool) acl.Error {
    const failed = "the host could not map the memory";
    const block = address_space.addBlock(.{
        .kind = .mapping,
        .start = start,
        .size = size,
        .page_bytes = @intCast(if (physical.giant_pages) giant_granule else granule),
        .device = physical.device,
        .backing = physical.backing,
        .physical = physical,
        .reservation = reservation,
        .accessible = accessible,
    }) catch return errors.fail(acl.code.rt_memory_allocation, failed);
    // The block's own reference, which it drops when it goes away.
    physical.backing.retain();
    physical.mappings += 1;
    reservation.mappings += 1;
    block.pins += 1;
    defer address_space.unpinBlock(block);
    if (!address_space.establish(block)) {
        _ = removeMapping(block);
        return errors.fail(acl.code.rt_memory_allocation, failed);
    }
    reservation.side = .{ .device = physical.device };
    return acl.code.success;
}

pub fn unmap(pointer: ?*anyopaque) acl.Error {
    if (pointer == null) return errors.fail(invalid, "virPtr is NULL");
    state.enter();
    defer state.leave();
    if (managerMissing()) return noManager();
    const block = mappingAt(@intFromPtr(pointer)) orelse return errors.fail(misuse, "not the start of a mapping");
    if (block.pins > 0) return errors.fail(misuse, "the memory is in use by a copy");
    if (!removeMapping(block)) return errors.fail(misuse, "the host could not unmap the memory");
    return acl.code.success;
}

fn mappingAt(start: u64) ?*Block {
    const entry = address_space.device_blocks.at(start) orelse return null;
    return if (entry.value.kind == .mapping) entry.value else null;
}

fn removeMapping(block: *Block) bool {
    if (!address_space.unmap(block.start, block.size)) return false;
    const physical = block.physical;
    if (block.reservation) |reservation| reservation.mappings -= 1;
    address_space.removeBlock(block);
    if (physical) |mapped| mapped.dropMapping();
    return true;
}

/// The device is being closed: its mappings go, the bare reservations stay until they are released.
pub fn dropDevice(id: u8) void {
    var address: u64 = 0;
    while (address_space.device_blocks.from(address)) |entry| {
        const block = entry.value;
        if (block.kind == .mapping and block.device == id) {
            // Copies that are running end by themselves.
            if (block.pins > 0) {
                block.awaited = true;
                state.wait();
                continue;
            }
            if (!removeMapping(block)) return;
        }
        address = entry.end;
    }
}

/// What the driver reads: 20 bytes per element, where AscendCL's own struct has 24. Only the first one lines up.
const DriverAccess = extern struct { flags: c_int, location: acl.MemLocation, rsv: [8]u8 };
comptime {
    std.debug.assert(@sizeOf(DriverAccess) == 20);
}

pub fn setAccess(pointer: ?*anyopaque, size: usize, descriptors: ?*const acl.MemAccessDesc, count: usize) acl.Error {
    const described = descriptors orelse return errors.fail(refused, "desc is NULL");
    if (pointer == null) return errors.fail(refused, "virPtr is NULL");
    if (count == 0) return errors.fail(refused, "count is 0");
    state.enter();
    defer state.leave();
    if (managerMissing()) return noManager();
    const elements: [*]const DriverAccess = @ptrCast(described);
    for (elements[0..count]) |*element| {
        const code = checkAccess(element);
        if (code != acl.code.success) return code;
    }
    const block = mappingAt(@intFromPtr(pointer)) orelse return errors.fail(misuse, "not the start of a mapping");
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

/// Access locations carry driver ids, which the visible device list does not renumber.
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
    return location.type == acl.MemLocationType.device and device.devices[on].driver_id == location.id;
}

fn grant(block: *Block, location: acl.MemLocation) acl.Error {
    if (isOwner(block, location)) {
        if (block.accessible) return acl.code.success;
        block.accessible = true;
        block.pins += 1;
        defer address_space.unpinBlock(block);
        return if (address_space.establish(block)) acl.code.success else errors.fail(misuse, "the host refused access");
    }
    if (block.device == null) return errors.fail(unsupported, "devices cannot reach host memory");
    if (location.type == acl.MemLocationType.host) {
        block.host_access = true;
    } else {
        block.device_access |= @as(u16, 1) << @intCast(location.id);
    }
    return acl.code.success;
}

pub fn getAccess(pointer: ?*anyopaque, location: ?*const acl.MemLocation, flags: ?*u64) acl.Error {
    const where = location orelse return errors.fail(invalid, "location is NULL");
    const out = flags orelse return errors.fail(invalid, "flag is NULL");
    if (pointer == null) return errors.fail(invalid, "virPtr is NULL");
    state.enter();
    defer state.leave();
    if (managerMissing()) return noManager();
    const code = checkLocation(where.*);
    if (code != acl.code.success) return code;
    const entry = address_space.device_blocks.containing(@intFromPtr(pointer)) orelse
        return errors.fail(misuse, "nothing is mapped at the address");
    const block = entry.value;
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

pub fn retainHandle(pointer: ?*anyopaque, handle: ?*acl.DrvMemHandle) acl.Error {
    const out = handle orelse return errors.fail(invalid, "handle is NULL");
    if (pointer == null) return errors.fail(invalid, "virPtr is NULL");
    state.enter();
    defer state.leave();
    if (managerMissing()) return noManager();
    const block = mappingAt(@intFromPtr(pointer)) orelse return errors.fail(misuse, "not the start of a mapping");
    const physical = block.physical orelse return errors.fail(misuse, "not the start of a mapping");
    physical.references += 1;
    out.* = handles.toPointer(physical.handle);
    return acl.code.success;
}

pub fn getProperties(handle: acl.DrvMemHandle, prop: ?*acl.PhysicalMemProp) acl.Error {
    const out = prop orelse return errors.fail(invalid, "prop is NULL");
    if (handle == null) return errors.fail(invalid, "handle is NULL");
    state.enter();
    defer state.leave();
    const physical = physical_memory.registry.get(handle) orelse return staleHandle();
    out.* = .{
        .mem_attr = physical.mem_attr,
        .location = if (physical.device) |id|
            .{ .id = device.devices[id].driver_id, .type = acl.MemLocationType.device }
        else
            .{ .id = 0, .type = acl.MemLocationType.host },
    };
    return acl.code.success;
}

const streams = @import("stream.zig");
const system = @import("system.zig");
const transfer = @import("transfer.zig");
const testing = @import("testing.zig");
const expectCode = testing.expectCode;
const device_prop: acl.PhysicalMemProp = .{
    .mem_attr = acl.MemAttr.hbm_huge,
    .location = .{ .id = 0, .type = acl.MemLocationType.device },
};

fn expectReserve(size: usize) !*anyopaque {
    var pointer: ?*anyopaque = null;
    try expectCode(0, reserve(&pointer, size, 0, null, 0));
    return pointer orelse error.TestUnexpectedResult;
}

fn expectPhysical(size: usize) !*anyopaque {
    var handle: acl.DrvMemHandle = null;
    try expectCode(0, mallocPhysical(&handle, size, &device_prop, 0));
    return handle orelse error.TestUnexpectedResult;
}

fn offsetBy(pointer: *anyopaque, bytes: usize) ?*anyopaque {
    return @ptrFromInt(@intFromPtr(pointer) + bytes);
}

test "nothing works before a device was opened" {
    defer testing.cleanUp();
    var pointer: ?*anyopaque = null;
    var handle: acl.DrvMemHandle = null;
    var size: usize = 0;
    try expectCode(107017, reserve(&pointer, granule, 0, null, 0));
    try expectCode(107017, mallocPhysical(&handle, granule, &device_prop, 0));
    try expectCode(107017, getGranularity(&device_prop, 0, &size));
    try expectCode(107017, unmap(@ptrFromInt(address_space.window_start)));
    try expectCode(107017, map(@ptrFromInt(address_space.window_start), granule, 0, @ptrFromInt(64), 0));
}

test "reservations" {
    defer testing.cleanUp();
    var pointer: ?*anyopaque = null;
    try expectCode(0, device.set(0));
    try expectCode(100000, reserve(null, granule, 0, null, 0));
    try expectCode(100000, reserve(&pointer, 0, 0, null, 0));
    try expectCode(100000, reserve(&pointer, granule, 0, null, 2));
    try expectCode(107000, reserve(&pointer, granule, granule, null, 0));
    try expectCode(207001, reserve(&pointer, 129 << 30, 0, null, 0));
    try expectCode(107000, reserve(&pointer, granule, 0, @ptrFromInt(address_space.window_start + 4096), 0));
    try expectCode(107000, reserve(&pointer, granule, 0, @ptrFromInt(address_space.window_end), 0));
    const fixed: *anyopaque = @ptrFromInt(address_space.window_end - (1 << 30));
    try expectCode(0, reserve(&pointer, 1 << 30, 0, fixed, 1));
    try std.testing.expectEqual(fixed, pointer);
    try expectCode(207001, reserve(&pointer, 1 << 30, 0, fixed, 0));
    try expectCode(107000, releaseAddress(offsetBy(fixed, granule)));
    try expectCode(0, releaseAddress(fixed));
    try expectCode(107000, releaseAddress(fixed));
    try expectCode(100000, releaseAddress(null));
    const small = try expectReserve(100);
    try std.testing.expectEqual(0, @intFromPtr(small) % granule);
    try std.testing.expectEqual(granule, testing.held().reserved_bytes);
    try expectCode(0, releaseAddress(small));
}

test "physical memory: arguments, budget, handles" {
    defer testing.cleanUp();
    var handle: acl.DrvMemHandle = null;
    var prop = device_prop;
    try expectCode(0, device.set(0));
    try expectCode(100000, mallocPhysical(null, granule, &prop, 0));
    try expectCode(100000, mallocPhysical(&handle, granule, null, 0));
    try expectCode(100000, mallocPhysical(&handle, 0, &prop, 0));
    try expectCode(100000, mallocPhysical(&handle, granule, &prop, 1));
    try expectCode(507899, mallocPhysical(&handle, granule + 1, &prop, 0));
    try expectCode(207001, mallocPhysical(&handle, 65 << 30, &prop, 0));
    prop.reserve = 1;
    try expectCode(107000, mallocPhysical(&handle, granule, &prop, 0));
    prop = device_prop;
    for ([_]c_int{ 0, 1, 2, 3, 6, 7, 8, 9, 11, 18, -1 }) |attr| {
        prop.mem_attr = attr;
        try expectCode(100000, mallocPhysical(&handle, granule, &prop, 0));
    }
    prop = device_prop;
    prop.location.id = 3;
    try expectCode(107001, mallocPhysical(&handle, granule, &prop, 0));
    prop.location = .{ .id = 0, .type = acl.MemLocationType.managed };
    try expectCode(100000, mallocPhysical(&handle, granule, &prop, 0));
    prop.location = .{ .id = 0, .type = acl.MemLocationType.host_numa };
    prop.mem_attr = acl.MemAttr.mem_huge;
    try expectCode(207000, mallocPhysical(&handle, granule, &prop, 0));
    prop.location = .{ .id = 1, .type = acl.MemLocationType.host };
    try expectCode(207000, mallocPhysical(&handle, granule, &prop, 0));
    const first = try expectPhysical(3 * granule);
    try std.testing.expectEqual(3 * granule, testing.held().physical_bytes);
    try expectCode(0, freePhysical(first));
    try expectCode(107017, freePhysical(first));
    try expectCode(100000, freePhysical(null));
    try expectCode(107017, getProperties(first, &prop));
}

test "granularity and properties" {
    defer testing.cleanUp();
    var size: usize = 0;
    var prop = device_prop;
    var handle: acl.DrvMemHandle = null;
    try expectCode(0, device.set(0));
    try expectCode(0, getGranularity(&prop, acl.MemGranularity.minimum, &size));
    try std.testing.expectEqual(granule, size);
    try expectCode(207000, getGranularity(&prop, 7, &size));
    try expectCode(100000, getGranularity(null, 0, &size));
    prop.mem_attr = acl.MemAttr.mem_huge1g;
    try expectCode(0, getGranularity(&prop, acl.MemGranularity.recommended, &size));
    try std.testing.expectEqual(giant_granule, size);
    try expectCode(0, mallocPhysical(&handle, granule, &prop, 0));
    try std.testing.expectEqual(giant_granule, testing.held().physical_bytes);
    try expectCode(0, freePhysical(handle));
    prop.mem_attr = acl.MemAttr.mem_huge;
    try expectCode(0, mallocPhysical(&handle, granule, &prop, 0));
    try expectCode(0, getProperties(handle, &prop));
    try std.testing.expectEqual(acl.MemAttr.hbm_huge, prop.mem_attr);
    try std.testing.expectEqual(acl.MemLocationType.device, prop.location.type);
    try expectCode(0, freePhysical(handle));
}

test "mapping rules" {
    defer testing.cleanUp();
    try expectCode(0, device.set(0));
    const start = try expectReserve(4 * granule);
    const handle = try expectPhysical(2 * granule);
    try expectCode(100000, map(null, granule, 0, handle, 0));
    try expectCode(100000, map(start, granule, 0, null, 0));
    try expectCode(100000, map(start, 0, 0, handle, 0));
    try expectCode(100000, map(start, granule, 0, handle, 1));
    try expectCode(107000, map(start, granule, granule, handle, 0));
    try expectCode(507899, map(offsetBy(start, 3 * granule), 2 * granule, 0, handle, 0));
    try expectCode(507899, map(@ptrFromInt(granule), granule, 0, handle, 0));
    try expectCode(507899, map(offsetBy(start, 4096), granule, 0, handle, 0));
    try expectCode(507899, map(start, granule + 4096, 0, handle, 0));
    try expectCode(207001, map(start, 3 * granule, 0, handle, 0));
    try expectCode(0, map(start, 2 * granule, 0, handle, 0));
    try expectCode(507899, map(offsetBy(start, granule), granule, 0, handle, 0));
    // The same memory at a second address, and only its beginning.
    try expectCode(0, map(offsetBy(start, 2 * granule), granule, 0, handle, 0));
    const words: [*]volatile u64 = @ptrCast(@alignCast(start));
    words[5] = 77;
    try std.testing.expectEqual(77, words[2 * granule / 8 + 5]);
    try expectCode(507899, releaseAddress(start));
    try expectCode(507899, unmap(offsetBy(start, granule)));
    try expectCode(0, freePhysical(handle));
    try expectCode(107000, freePhysical(handle));
    try std.testing.expectEqual(0, testing.held().physical_handles);
    try std.testing.expectEqual(2 * granule, testing.held().physical_bytes);
    try expectCode(0, unmap(start));
    try expectCode(507899, unmap(start));
    try expectCode(100000, unmap(null));
    try expectCode(0, unmap(offsetBy(start, 2 * granule)));
    try expectCode(107017, freePhysical(handle));
    try std.testing.expectEqual(0, testing.held().physical_bytes);
    try expectCode(0, releaseAddress(start));
}

test "freed memory comes back mapped as a whole, with a scribble over what it held" {
    defer testing.cleanUp();
    const size = 2 * granule;
    const pages = size / std.heap.pageSize();
    try expectCode(0, device.set(0));
    const start = try expectReserve(2 * size);
    const bytes: [*]u8 = @ptrCast(start);
    for (0..2) |round| {
        const handle = try expectPhysical(size);
        try std.testing.expectEqual(0, testing.held().kept_bytes);
        try expectCode(0, map(start, size, 0, handle, 0));
        try std.testing.expectEqual(pages, try testing.presentPages(start, size));
        var offset: usize = 0;
        while (offset < size) : (offset += address_space.scribble_stride)
            try std.testing.expect(std.mem.allEqual(u8, bytes[offset..][0..address_space.scribble_bytes], 0xff));
        @memset(bytes[0..size], 7);
        // The same memory at another address, and again at the first, is what it was.
        try expectCode(0, map(offsetBy(start, size), size, 0, handle, 0));
        try std.testing.expectEqual(pages, try testing.presentPages(offsetBy(start, size), size));
        try expectCode(0, unmap(start));
        try expectCode(0, map(start, size, 0, handle, 0));
        try std.testing.expect(std.mem.allEqual(u8, bytes[0..size], 7));
        try expectCode(0, unmap(offsetBy(start, size)));
        // On the second round it is the device that takes everything away.
        if (round == 1) break;
        try expectCode(0, unmap(start));
        try expectCode(0, freePhysical(handle));
        try std.testing.expectEqual(size, testing.held().kept_bytes);
    }
    try expectCode(0, device.resetForce(0));
    try std.testing.expectEqual(0, testing.held().kept_bytes);
    try expectCode(0, releaseAddress(start));
}

test "memory without access is not touched before access is granted" {
    defer testing.cleanUp();
    try expectCode(0, device.set(0));
    const start = try expectReserve(granule);
    const handle = try expectPhysical(granule);
    try expectCode(0, mapNoAccess(start, granule, 0, handle, 0));
    try std.testing.expectEqual(0, try testing.presentPages(start, granule));
    const owner: acl.MemLocation = .{ .id = 0, .type = acl.MemLocationType.device };
    const descriptor: acl.MemAccessDesc = .{ .flags = acl.MemAccess.read_write, .location = owner };
    try expectCode(0, setAccess(start, granule, &descriptor, 1));
    try std.testing.expectEqual(granule / std.heap.pageSize(), try testing.presentPages(start, granule));
    try expectCode(0, unmap(start));
    try expectCode(0, freePhysical(handle));
    try expectCode(0, releaseAddress(start));
}

test "finalizing gives kept memory back" {
    defer testing.cleanUp();
    try expectCode(0, system.init(null));
    try expectCode(0, device.set(0));
    const start = try expectReserve(granule);
    const handle = try expectPhysical(granule);
    try expectCode(0, map(start, granule, 0, handle, 0));
    try expectCode(0, unmap(start));
    try expectCode(0, freePhysical(handle));
    try std.testing.expectEqual(granule, testing.held().kept_bytes);
    try expectCode(0, system.finalize());
    try std.testing.expectEqual(0, testing.held().kept_bytes);
    try expectCode(0, releaseAddress(start));
}

test "access" {
    defer testing.cleanUp();
    try expectCode(0, device.set(0));
    const start = try expectReserve(2 * granule);
    const handle = try expectPhysical(granule);
    var flags: u64 = 9;
    const owner: acl.MemLocation = .{ .id = 0, .type = acl.MemLocationType.device };
    const host: acl.MemLocation = .{ .id = 0, .type = acl.MemLocationType.host };
    var descriptors: [2]acl.MemAccessDesc = @splat(.{ .flags = acl.MemAccess.read_write, .location = owner });
    try expectCode(507899, setAccess(start, granule, &descriptors[0], 1));
    try expectCode(0, map(start, granule, 0, handle, 0));
    try expectCode(0, setAccess(start, granule, &descriptors[0], 1));
    try expectCode(507899, setAccess(start, 2 * granule, &descriptors[0], 1));
    try expectCode(107000, setAccess(null, granule, &descriptors[0], 1));
    try expectCode(107000, setAccess(start, granule, null, 1));
    try expectCode(107000, setAccess(start, granule, &descriptors[0], 0));
    try expectCode(207000, setAccess(start, granule, &descriptors[0], 2));
    descriptors[0].flags = acl.MemAccess.read;
    try expectCode(207000, setAccess(start, granule, &descriptors[0], 1));
    descriptors[0].flags = 2;
    try expectCode(107000, setAccess(start, granule, &descriptors[0], 1));
    descriptors[0] = .{ .flags = acl.MemAccess.read_write, .location = .{ .id = 1, .type = acl.MemLocationType.host } };
    try expectCode(107000, setAccess(start, granule, &descriptors[0], 1));
    try expectCode(0, getAccess(offsetBy(start, 4096), &owner, &flags));
    try std.testing.expectEqual(3, flags);
    try expectCode(0, getAccess(start, &host, &flags));
    try std.testing.expectEqual(0, flags);
    descriptors[0].location = host;
    try expectCode(0, setAccess(start, granule, &descriptors[0], 1));
    try expectCode(0, getAccess(start, &host, &flags));
    try std.testing.expectEqual(3, flags);
    try expectCode(507899, getAccess(offsetBy(start, granule), &owner, &flags));
    try expectCode(0, unmap(start));
    try expectCode(0, mapNoAccess(start, granule, 0, handle, 0));
    var local: u64 = 0;
    try expectCode(507899, transfer.copySync(&local, 8, start, 8, acl.MemcpyKind.device_to_host));
    descriptors[0].location = owner;
    try expectCode(0, setAccess(start, granule, &descriptors[0], 1));
    try expectCode(0, transfer.copySync(&local, 8, start, 8, acl.MemcpyKind.device_to_host));
    var retained: acl.DrvMemHandle = null;
    try expectCode(507899, retainHandle(offsetBy(start, 4096), &retained));
    try expectCode(0, retainHandle(start, &retained));
    try std.testing.expectEqual(@as(acl.DrvMemHandle, handle), retained);
    try expectCode(0, freePhysical(handle));
    try expectCode(0, unmap(start));
    try expectCode(0, freePhysical(retained));
    try expectCode(107017, freePhysical(retained));
    try expectCode(0, releaseAddress(start));
}

test "copies on mapped, unmapped and busy ranges" {
    defer testing.cleanUp();
    var gate: testing.Gate = .{};
    var stream: acl.Stream = null;
    var host: ?*anyopaque = null;
    var attributes: acl.PtrAttributes = .{};
    try expectCode(0, device.set(0));
    try expectCode(0, streams.create(&stream));
    try expectCode(0, memory.mallocHost(&host, 2 * granule));
    const start = try expectReserve(3 * granule);
    const first = try expectPhysical(granule);
    const second = try expectPhysical(granule);
    try expectCode(507899, transfer.copySync(start, 64, host, 64, acl.MemcpyKind.host_to_device));
    try expectCode(107017, memory.getAttributes(start, &attributes));
    try expectCode(107000, memory.free(start));
    try expectCode(0, map(start, granule, 0, first, 0));
    try expectCode(0, map(offsetBy(start, granule), granule, 0, second, 0));
    try expectCode(0, memory.getAttributes(start, &attributes));
    try std.testing.expectEqual(granule, attributes.page_size);
    // One copy over two adjacent mappings; not one byte further.
    try expectCode(0, transfer.copySync(start, 2 * granule, host, 2 * granule, acl.MemcpyKind.host_to_device));
    try expectCode(507899, transfer.fillSync(start, 3 * granule, 1, 2 * granule + 1));
    try expectCode(0, streams.launchHostFunction(stream, testing.Gate.pass, &gate));
    try expectCode(0, transfer.copyAsync(start, granule, host, granule, acl.MemcpyKind.host_to_device, stream));
    try expectCode(507899, unmap(start));
    gate.open();
    try expectCode(0, streams.synchronize(stream));
    try expectCode(0, unmap(start));
    try expectCode(507899, transfer.copyAsync(start, granule, host, granule, acl.MemcpyKind.host_to_device, stream));
    // Closing the device takes mappings and physical memory away, and leaves the address range.
    try expectCode(0, device.resetForce(0));
    try std.testing.expectEqual(0, testing.held().mappings);
    try std.testing.expectEqual(0, testing.held().physical_bytes);
    try expectCode(107017, freePhysical(second));
    try expectCode(0, releaseAddress(start));
    try expectCode(0, memory.freeHost(host));
}

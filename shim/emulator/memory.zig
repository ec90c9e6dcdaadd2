//! aclrtMalloc and its family, page-locked host memory, and the questions one can ask about an address.
//!
//! What aclrtMalloc takes from the budget: round-up-to-32(size) plus 32 bytes of padding (none for MallocAlign32 and for
//! 1 GiB pages), rounded up to whole pages: 2 MiB for HUGE_ONLY and for HUGE_FIRST above 1 MiB (which falls back to 4 KiB
//! pages when huge ones no longer fit), 4 KiB otherwise, 1 GiB for HUGE1G.

const std = @import("std");
const acl = @import("acl");
const state = @import("state.zig");
const errors = @import("errors.zig");
const device = @import("device.zig");
const share = @import("share.zig");
const address_space = @import("address_space.zig");
const backing = @import("backing.zig");
const Block = address_space.Block;

const small_page: u64 = 4096;
const huge_page: u64 = 2 << 20;
const giant_page: u64 = 1 << 30;
const padding: u64 = 32;
/// The driver's limit for one allocation and one reservation on A2 and A3.
pub const max_range: u64 = 128 << 30;

pub fn malloc(pointer: ?*?*anyopaque, size: usize, policy: c_int) acl.Error {
    const giant = isGiant(policy);
    return allocate(pointer, size, if (giant) 0 else padding, policy);
}

pub fn mallocAlign32(pointer: ?*?*anyopaque, size: usize, policy: c_int) acl.Error {
    return allocate(pointer, size, 0, policy);
}

pub fn mallocCached(pointer: ?*?*anyopaque, size: usize, policy: c_int) acl.Error {
    const supported = policy == acl.MallocPolicy.normal_only;
    return allocateIf(supported, pointer, size, padding, policy);
}

fn allocate(pointer: ?*?*anyopaque, size: usize, pad: u64, policy: c_int) acl.Error {
    return allocateIf(true, pointer, size, pad, policy);
}

fn allocateIf(supported: bool, pointer: ?*?*anyopaque, size: usize, pad: u64, policy: c_int) acl.Error {
    const out = pointer orelse return errors.fail(acl.code.invalid_param, "devPtr is NULL");
    if (size == 0) return errors.fail(acl.code.invalid_param, "size is 0");
    const padded = std.math.add(u64, size, 31 + pad) catch
        return errors.fail(acl.code.invalid_param, "size overflows");
    const bytes = (padded - pad) / 32 * 32 + pad;
    state.enter();
    defer state.leave();
    const context = device.current() orelse return device.noContext();
    if (!supported) return errors.fail(acl.code.rt_feature_not_supported, "cached memory has normal pages only");
    const start = takePages(context.device, bytes, policy) catch return outOfMemory();
    out.* = @ptrFromInt(start);
    return acl.code.success;
}

fn outOfMemory() acl.Error {
    return errors.fail(acl.code.rt_memory_allocation, "out of memory");
}

fn isGiant(policy: c_int) bool {
    const base = policy & 0xff;
    return base == acl.MallocPolicy.huge1g_only or base == acl.MallocPolicy.huge1g_only_p2p;
}

fn takePages(on: *device.Device, bytes: u64, policy: c_int) error{OutOfMemory}!u64 {
    if (bytes > max_range) return error.OutOfMemory;
    if (isGiant(policy)) return place(on, bytes, giant_page);
    switch (policy & 0xff) {
        acl.MallocPolicy.huge_only, acl.MallocPolicy.huge_only_p2p => return place(on, bytes, huge_page),
        acl.MallocPolicy.normal_only, acl.MallocPolicy.normal_only_p2p => return place(on, bytes, small_page),
        else => {
            if (bytes <= 1 << 20) return place(on, bytes, small_page);
            return place(on, bytes, huge_page) catch place(on, bytes, small_page);
        },
    }
}

fn place(on: *device.Device, bytes: u64, page: u64) error{OutOfMemory}!u64 {
    const size = std.mem.alignForward(u64, bytes, page);
    const memory = try backing.Backing.create(&on.pool, size, .allocation);
    return address_space.place(.{
        .kind = .allocation,
        .size = size,
        .page_bytes = @intCast(page),
        .device = on.user_id,
    }, memory, @max(page, huge_page));
}

pub fn free(pointer: ?*anyopaque) acl.Error {
    if (pointer == null) return errors.fail(acl.code.invalid_param, "devPtr is NULL");
    state.enter();
    defer state.leave();
    if (!device.ever_opened) return errors.fail(acl.code.rt_invalid_handle, "no device was opened yet");
    const entry = address_space.device_blocks.at(@intFromPtr(pointer)) orelse return notAllocated();
    const block = entry.value;
    if (block.kind != .allocation) return notAllocated();
    if (block.backing) |memory| share.closeAllOf(memory);
    address_space.removeBlock(block);
    return acl.code.success;
}

fn notAllocated() acl.Error {
    return errors.fail(acl.code.rt_param_invalid, "not returned by aclrtMalloc, or freed already");
}

pub fn mallocHost(pointer: ?*?*anyopaque, size: usize) acl.Error {
    const out = pointer orelse return errors.fail(acl.code.invalid_param, "hostPtr is NULL");
    if (size == 0) return errors.fail(acl.code.invalid_param, "size is 0");
    state.enter();
    defer state.leave();
    _ = device.current() orelse return device.noContext();
    if (size > address_space.window_start) return outOfMemory();
    const length = std.mem.alignForward(u64, size, std.heap.pageSize());
    state.leave();
    const mapped = address_space.mapHost(length);
    state.enter();
    const start = mapped orelse return outOfMemory();
    _ = address_space.addBlock(.{ .kind = .host_allocation, .start = start, .size = length }) catch {
        _ = std.os.linux.munmap(@ptrFromInt(start), length);
        return outOfMemory();
    };
    out.* = @ptrFromInt(start);
    return acl.code.success;
}

pub fn freeHost(pointer: ?*anyopaque) acl.Error {
    if (pointer == null) return errors.fail(acl.code.invalid_param, "hostPtr is NULL");
    state.enter();
    defer state.leave();
    if (address_space.host_blocks.at(@intFromPtr(pointer))) |entry| {
        if (entry.value.kind == .host_allocation) {
            address_space.removeBlock(entry.value);
            return acl.code.success;
        }
    }
    return errors.fail(acl.code.rt_param_invalid, "not returned by aclrtMallocHost, or freed already");
}

pub fn hostRegister(pointer: ?*anyopaque, size: u64, kind: c_int, device_pointer: ?*?*anyopaque) acl.Error {
    const out = device_pointer orelse return errors.fail(acl.code.invalid_param, "devPtr is NULL");
    if (pointer == null or size == 0) return errors.fail(acl.code.invalid_param, "ptr is NULL or size is 0");
    const known = acl.HostRegisterType.io_memory | acl.HostRegisterType.read_only;
    if (kind & ~known != 0) return errors.fail(acl.code.rt_feature_not_supported, "unknown register type");
    const code = register(@intFromPtr(pointer), size);
    if (code == acl.code.success) out.* = pointer;
    return code;
}

pub fn hostRegisterV2(pointer: ?*anyopaque, size: u64, flags: u32) acl.Error {
    if (pointer == null or size == 0) return errors.fail(acl.code.invalid_param, "ptr is NULL or size is 0");
    const known = acl.HostRegisterFlag;
    const mask = known.mapped | known.io_memory | known.read_only | known.pinned;
    if (flags == 0 or flags & ~mask != 0) return errors.fail(acl.code.rt_param_invalid, "invalid flags");
    return register(@intFromPtr(pointer), size);
}

fn register(start: u64, size: u64) acl.Error {
    state.enter();
    defer state.leave();
    _ = device.current() orelse return device.noContext();
    const end = std.math.add(u64, start, size) catch
        return errors.fail(acl.code.rt_param_invalid, "the range ends beyond the address space");
    if (start % small_page != 0) return errors.fail(acl.code.rt_param_invalid, "ptr is not 4 KiB aligned");
    if (address_space.host_blocks.firstOverlap(start, end) != null)
        return errors.fail(acl.code.host_memory_already_registered, "page-locked already");
    if (address_space.device_blocks.firstOverlap(start, end) != null or
        address_space.reservations.firstOverlap(start, end) != null or
        address_space.isUnallocatedWindow(start, end))
        return errors.fail(acl.code.rt_param_invalid, "not host memory");
    _ = address_space.addBlock(.{ .kind = .host_registration, .start = start, .size = size }) catch
        return outOfMemory();
    return acl.code.success;
}

pub fn hostUnregister(pointer: ?*anyopaque) acl.Error {
    if (pointer == null) return errors.fail(acl.code.invalid_param, "ptr is NULL");
    state.enter();
    defer state.leave();
    _ = device.current() orelse return device.noContext();
    if (address_space.host_blocks.at(@intFromPtr(pointer))) |entry| {
        if (entry.value.kind == .host_registration) {
            address_space.removeBlock(entry.value);
            return acl.code.success;
        }
    }
    return errors.fail(acl.code.host_memory_not_registered, "not registered");
}

/// "All" is huge pages plus normal ones. One pool serves every page size here and counts as huge pages, so there are no
/// normal ones to report (they are taken from the huge ones), and no DDR.
pub fn getInfo(attr: c_int, free_bytes: ?*usize, total_bytes: ?*usize) acl.Error {
    const free_out = free_bytes orelse return errors.fail(acl.code.invalid_param, "free is NULL");
    const total_out = total_bytes orelse return errors.fail(acl.code.invalid_param, "total is NULL");
    const name = acl.MemAttr;
    if (attr < 0 or attr > name.mem_p2p_huge1g)
        return errors.fail(acl.code.rt_invalid_memory_type, "no such memory attribute");
    state.enter();
    defer state.leave();
    const context = device.current() orelse return device.noContext();
    const pool = &context.device.pool;
    switch (attr) {
        name.hbm_p2p_huge1g, name.mem_p2p_huge1g => {
            return errors.fail(acl.code.rt_feature_not_supported, "no 1 GiB P2P pages");
        },
        name.hbm_mem, name.hbm_huge, name.hbm_p2p_huge, name.hbm_huge1g, name.mem_huge, name.mem_huge1g, name.mem_p2p_huge => {
            free_out.* = pool.budget_bytes - pool.used_bytes;
            total_out.* = pool.budget_bytes;
        },
        else => {
            free_out.* = 0;
            total_out.* = 0;
        },
    }
    return acl.code.success;
}

pub fn getAttributes(pointer: ?*const anyopaque, attributes: ?*acl.PtrAttributes) acl.Error {
    const out = attributes orelse return errors.fail(acl.code.invalid_param, "attributes is NULL");
    if (pointer == null) return errors.fail(acl.code.invalid_param, "ptr is NULL");
    const address = @intFromPtr(pointer);
    state.enter();
    defer state.leave();
    var result: acl.PtrAttributes = .{ .page_size = small_page };
    result.location.type = acl.MemLocationType.unregistered;
    if (address_space.device_blocks.containing(address)) |entry| {
        const on = entry.value.device;
        result.location = .{
            .id = on orelse 0,
            .type = if (on == null) acl.MemLocationType.host else acl.MemLocationType.device,
        };
        result.page_size = entry.value.page_bytes;
    } else if (address_space.host_blocks.containing(address) != null) {
        result.location.type = acl.MemLocationType.host;
    } else if (address_space.reservations.containing(address) != null) {
        return errors.fail(acl.code.rt_invalid_handle, "the address is reserved but not mapped");
    } else if (address_space.isUnallocatedWindow(address, address +| 1)) {
        return errors.fail(acl.code.rt_drv_internal_error, "a device address that was never allocated");
    }
    out.* = result;
    return acl.code.success;
}

pub fn getAddressRange(pointer: ?*anyopaque, base: ?*?*anyopaque, size: ?*usize) acl.Error {
    if (pointer == null) return errors.fail(acl.code.invalid_param, "ptr is NULL");
    if (base == null and size == null) return errors.fail(acl.code.rt_param_invalid, "pbase and psize are both NULL");
    const address = @intFromPtr(pointer);
    state.enter();
    defer state.leave();
    const entry = address_space.device_blocks.containing(address) orelse {
        const reserved = address_space.reservations.containing(address) != null;
        if (reserved or address_space.isUnallocatedWindow(address, address +| 1))
            return errors.fail(acl.code.rt_drv_internal_error, "nothing is mapped at the address");
        return errors.fail(acl.code.rt_param_invalid, "not a device address");
    };
    if (base) |out| out.* = @ptrFromInt(entry.start);
    if (size) |out| out.* = entry.end - entry.start;
    return acl.code.success;
}

const testing = @import("testing.zig");
const expectCode = testing.expectCode;

fn freeBytes() !usize {
    var free_now: usize = 0;
    var total: usize = 0;
    try expectCode(0, getInfo(acl.MemAttr.hbm_mem, &free_now, &total));
    return free_now;
}

test "aclrtMalloc accounts by pages and refuses what does not fit" {
    defer testing.cleanUp();
    var pointer: ?*anyopaque = null;
    try expectCode(107002, malloc(&pointer, 1, 0));
    try expectCode(0, device.set(0));
    try expectCode(100000, malloc(null, 1, 0));
    try expectCode(100000, malloc(&pointer, 0, 0));
    try expectCode(100000, malloc(&pointer, std.math.maxInt(usize), 0));
    try expectCode(207001, malloc(&pointer, 65 << 30, 0));
    try expectCode(207001, malloc(&pointer, 1 << 60, 0));
    try expectCode(207000, mallocCached(&pointer, 100, acl.MallocPolicy.huge_first));
    const before = try freeBytes();
    for ([_]struct { size: usize, policy: c_int, taken: usize }{
        .{ .size = 1, .policy = acl.MallocPolicy.huge_first, .taken = 4096 },
        .{ .size = 1, .policy = acl.MallocPolicy.huge_only, .taken = 2 << 20 },
        .{ .size = 2 << 20, .policy = acl.MallocPolicy.huge_first, .taken = 4 << 20 },
        .{ .size = 4096, .policy = acl.MallocPolicy.normal_only, .taken = 8192 },
        .{ .size = 4096, .policy = 0x1234, .taken = 8192 },
    }) |case| {
        try expectCode(0, malloc(&pointer, case.size, case.policy));
        try std.testing.expectEqual(0, @intFromPtr(pointer) % 64);
        try std.testing.expectEqual(case.taken, before - try freeBytes());
        try expectCode(0, free(pointer));
        try std.testing.expectEqual(before, try freeBytes());
    }
    try expectCode(0, mallocAlign32(&pointer, 2 << 20, 0));
    try std.testing.expectEqual(2 << 20, before - try freeBytes());
    try expectCode(0, free(pointer));
}

test "aclrtFree takes only what aclrtMalloc gave" {
    defer testing.cleanUp();
    var pointer: ?*anyopaque = null;
    var local: u64 = 0;
    try expectCode(100000, free(null));
    try expectCode(107017, free(&local));
    try expectCode(0, device.set(0));
    try expectCode(107000, free(&local));
    try expectCode(0, malloc(&pointer, 100, 0));
    try expectCode(107000, free(@ptrFromInt(@intFromPtr(pointer) + 64)));
    try expectCode(0, free(pointer));
    try expectCode(107000, free(pointer));
}

test "host memory and registration" {
    defer testing.cleanUp();
    var pointer: ?*anyopaque = null;
    var other: ?*anyopaque = null;
    try expectCode(107002, mallocHost(&pointer, 100));
    try expectCode(0, device.set(0));
    try expectCode(100000, mallocHost(null, 1));
    try expectCode(100000, mallocHost(&pointer, 0));
    try expectCode(207001, mallocHost(&pointer, std.math.maxInt(usize)));
    try expectCode(0, mallocHost(&pointer, 100));
    try expectCode(507910, hostRegister(pointer, 4096, 0, &other));
    try expectCode(507911, hostUnregister(pointer));
    try expectCode(0, freeHost(pointer));
    try expectCode(107000, freeHost(pointer));
    try expectCode(100000, freeHost(null));
    var page: [8192]u8 align(4096) = undefined;
    try expectCode(207000, hostRegister(&page, 4096, 1, &other));
    try expectCode(100000, hostRegister(&page, 0, 0, &other));
    try expectCode(107000, hostRegisterV2(&page, 4096, 0));
    try expectCode(107000, hostRegisterV2(&page, 4096, 1));
    try expectCode(0, hostRegisterV2(&page, 4096, 0x10000000));
    try expectCode(507910, hostRegisterV2(&page, 4096, 2));
    try expectCode(107000, freeHost(&page));
    try expectCode(0, hostUnregister(&page));
    try expectCode(507911, hostUnregister(&page));
    try expectCode(100000, hostUnregister(null));
}

test "page-locked memory is there as a whole, and not kept" {
    defer testing.cleanUp();
    const size = 6 << 20;
    var pointer: ?*anyopaque = null;
    try expectCode(0, device.set(0));
    try expectCode(0, mallocHost(&pointer, size));
    try std.testing.expectEqual(size / std.heap.pageSize(), try testing.presentPages(pointer, size));
    try std.testing.expectEqual(size, testing.held().host_allocation_bytes);
    try expectCode(0, freeHost(pointer));
    try std.testing.expectEqual(0, testing.held().kept_bytes);
}

test "addresses are told apart" {
    defer testing.cleanUp();
    var attributes: acl.PtrAttributes = .{};
    var local: u64 = 0;
    try expectCode(0, device.set(0));
    try expectCode(100000, getAttributes(null, &attributes));
    try expectCode(0, getAttributes(&local, &attributes));
    try std.testing.expectEqual(acl.MemLocationType.unregistered, attributes.location.type);
    try expectCode(507899, getAttributes(@ptrFromInt(address_space.window_end - 64), &attributes));
    var pointer: ?*anyopaque = null;
    try expectCode(0, malloc(&pointer, 3 << 20, 0));
    try expectCode(0, getAttributes(@ptrFromInt(@intFromPtr(pointer) + 77), &attributes));
    try std.testing.expectEqual(acl.MemLocationType.device, attributes.location.type);
    try std.testing.expectEqual(2 << 20, attributes.page_size);
    var base: ?*anyopaque = null;
    var size: usize = 0;
    try expectCode(107000, getAddressRange(pointer, null, null));
    try expectCode(100000, getAddressRange(null, &base, &size));
    try expectCode(0, getAddressRange(@ptrFromInt(@intFromPtr(pointer) + 77), &base, &size));
    try std.testing.expectEqual(pointer, base);
    try expectCode(0, free(pointer));
    var free_now: usize = 0;
    try expectCode(107016, getInfo(18, &free_now, &size));
    try expectCode(107016, getInfo(-1, &free_now, &size));
    try expectCode(100000, getInfo(1, null, &size));
}

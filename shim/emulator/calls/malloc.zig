//! aclrtMalloc and its family, and how much device memory is free.
//!
//! aclrtMalloc takes more from the budget than was asked for: the size rounded up to 32 bytes, plus 32 bytes of
//! padding (none for aclrtMallocAlign32 and for 1 GiB pages), rounded up to whole pages. A page has 2 MiB for
//! HUGE_ONLY and for HUGE_FIRST above 1 MiB, which falls back to 4 KiB pages when huge ones no longer fit. It has
//! 1 GiB for HUGE1G, and 4 KiB otherwise.

const std = @import("std");
const acl = @import("acl");
const address_window = @import("../address_window.zig");
const block_module = @import("../block.zig");
const context_module = @import("../context.zig");
const device_module = @import("../device.zig");
const errors = @import("../errors.zig");
const lock = @import("../lock.zig");
const physical = @import("../physical.zig");
const stream = @import("stream.zig");

const normal_page_bytes = physical.normal_page_bytes;
const huge_page_bytes = physical.huge_page_bytes;

const padding: u64 = 32;

pub fn aclrtMalloc(pointer: ?*?*anyopaque, size: usize, policy: c_int) acl.Error {
    const giant = isGiant(policy);
    return allocate(pointer, size, if (giant) 0 else padding, policy);
}

pub fn aclrtMallocAlign32(pointer: ?*?*anyopaque, size: usize, policy: c_int) acl.Error {
    return allocate(pointer, size, 0, policy);
}

pub fn aclrtMallocCached(pointer: ?*?*anyopaque, size: usize, policy: c_int) acl.Error {
    return aclrtMalloc(pointer, size, policy);
}

const MallocAttribute = extern struct { name: c_int, value: [2]u32 };
const MallocConfiguration = extern struct { attributes: ?[*]const MallocAttribute, count: usize };

/// Its attributes say who asks for the memory, and on which device; here only the current device has any.
pub fn aclrtMallocWithCfg(
    pointer: ?*?*anyopaque,
    size: usize,
    policy: c_int,
    configuration: ?*const MallocConfiguration,
) acl.Error {
    if (configuration) |given| {
        if (given.attributes == null and given.count > 0) return errors.fail(acl.code.invalid_param, "attrs is NULL");
    }
    return aclrtMalloc(pointer, size, policy);
}

fn allocate(pointer: ?*?*anyopaque, size: usize, pad: u64, policy: c_int) acl.Error {
    const out = pointer orelse return errors.fail(acl.code.invalid_param, "devPtr is NULL");
    if (size == 0) return errors.fail(acl.code.invalid_param, "size is 0");
    const padded = std.math.add(u64, size, 31 + pad) catch
        return errors.fail(acl.code.invalid_param, "size overflows");
    const bytes = (padded - pad) / 32 * 32 + pad;
    lock.enter();
    defer lock.leave();
    const context = context_module.current() orelse return context_module.noContext();
    const start = takePages(context.device, bytes, policy) catch return physical.outOfMemory();
    out.* = @ptrFromInt(start);
    return acl.code.success;
}

fn isGiant(policy: c_int) bool {
    const base = policy & 0xff;
    return base == acl.MallocPolicy.huge1g_only or base == acl.MallocPolicy.huge1g_only_p2p;
}

fn takePages(on: *device_module.Device, bytes: u64, policy: c_int) error{OutOfMemory}!u64 {
    if (bytes > address_window.max_range_bytes) return error.OutOfMemory;
    if (isGiant(policy)) return place(on, bytes, physical.giant_page_bytes);
    switch (policy & 0xff) {
        acl.MallocPolicy.huge_only, acl.MallocPolicy.huge_only_p2p => return place(on, bytes, huge_page_bytes),
        acl.MallocPolicy.normal_only, acl.MallocPolicy.normal_only_p2p => return place(on, bytes, normal_page_bytes),
        else => {
            if (bytes <= 1 << 20) return place(on, bytes, normal_page_bytes);
            return place(on, bytes, huge_page_bytes) catch place(on, bytes, normal_page_bytes);
        },
    }
}

fn place(on: *device_module.Device, bytes: u64, page: u64) error{OutOfMemory}!u64 {
    const size = std.mem.alignForward(u64, bytes, page);
    const memory = try physical.Memory.create(&on.pool, size, .allocation);
    return block_module.place(.{
        .kind = .allocation,
        .size = size,
        .page_bytes = @intCast(page),
        .device = on.user_id,
    }, memory, @max(page, huge_page_bytes));
}

pub fn aclrtFree(pointer: ?*anyopaque) acl.Error {
    if (pointer == null) return errors.fail(acl.code.invalid_param, "devPtr is NULL");
    lock.enter();
    defer lock.leave();
    if (!device_module.ever_opened) return device_module.neverOpened();
    const entry = block_module.device_blocks.at(@intFromPtr(pointer)) orelse return notAllocated();
    const block = entry.value;
    if (block.kind != .allocation) return notAllocated();
    block.remove();
    return acl.code.success;
}

pub fn aclrtFreeWithDevSync(pointer: ?*anyopaque) acl.Error {
    if (pointer == null) return errors.fail(acl.code.invalid_param, "devPtr is NULL");
    const code = stream.aclrtSynchronizeDevice();
    return if (code == acl.code.success) aclrtFree(pointer) else code;
}

fn notAllocated() acl.Error {
    return errors.fail(acl.code.rt_param_invalid, "not returned by aclrtMalloc, or freed already");
}

/// "All" is huge pages plus normal ones. One pool serves every page size here and counts as huge pages. So there are no
/// normal ones to report, which would be taken from the huge ones, and no DDR.
pub fn aclrtGetMemInfo(attr: c_int, free_bytes: ?*usize, total_bytes: ?*usize) acl.Error {
    const free_out = free_bytes orelse return errors.fail(acl.code.invalid_param, "free is NULL");
    const total_out = total_bytes orelse return errors.fail(acl.code.invalid_param, "total is NULL");
    const name = acl.MemAttr;
    if (attr < 0 or attr > name.mem_p2p_huge1g)
        return errors.fail(acl.code.rt_invalid_memory_type, "no such memory attribute");
    lock.enter();
    defer lock.leave();
    const context = context_module.current() orelse return context_module.noContext();
    const pool = &context.device.pool;
    switch (attr) {
        name.hbm_p2p_huge1g, name.mem_p2p_huge1g => {
            return errors.fail(acl.code.rt_feature_not_supported, "no 1 GiB P2P pages");
        },
        name.hbm_mem,
        name.hbm_huge,
        name.hbm_p2p_huge,
        name.hbm_huge1g,
        name.mem_huge,
        name.mem_huge1g,
        name.mem_p2p_huge,
        => {
            free_out.* = pool.freeBytes();
            total_out.* = pool.budget_bytes;
        },
        else => {
            free_out.* = 0;
            total_out.* = 0;
        },
    }
    return acl.code.success;
}

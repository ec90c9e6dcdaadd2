//! Page-locked host memory: aclrtMallocHost, and the registration of memory that the caller owns.

const std = @import("std");
const acl = @import("acl");
const address_window = @import("../address_window.zig");
const block = @import("../block.zig");
const context = @import("../context.zig");
const errors = @import("../errors.zig");
const lock = @import("../lock.zig");
const page_mapping = @import("../page_mapping.zig");
const physical = @import("../physical.zig");
const reservation = @import("../reservation.zig");

pub fn aclrtMallocHost(pointer: ?*?*anyopaque, size: usize) acl.Error {
    const out = pointer orelse return errors.fail(acl.code.invalid_param, "hostPtr is NULL");
    if (size == 0) return errors.fail(acl.code.invalid_param, "size is 0");
    lock.enter();
    defer lock.leave();
    _ = context.current() orelse return context.noContext();
    if (size > address_window.start_address) return physical.outOfMemory();
    const length = std.mem.alignForward(u64, size, std.heap.pageSize());
    lock.leave();
    const mapped = page_mapping.mapHost(length);
    lock.enter();
    const start = mapped orelse return physical.outOfMemory();
    _ = block.add(.{ .kind = .host_allocation, .start = start, .size = length }) catch {
        _ = std.os.linux.munmap(@ptrFromInt(start), length);
        return physical.outOfMemory();
    };
    out.* = @ptrFromInt(start);
    return acl.code.success;
}

pub fn aclrtFreeHost(pointer: ?*anyopaque) acl.Error {
    if (pointer == null) return errors.fail(acl.code.invalid_param, "hostPtr is NULL");
    lock.enter();
    defer lock.leave();
    if (block.host_blocks.at(@intFromPtr(pointer))) |entry| {
        if (entry.value.kind == .host_allocation) {
            entry.value.remove();
            return acl.code.success;
        }
    }
    return errors.fail(acl.code.rt_param_invalid, "not returned by aclrtMallocHost, or freed already");
}

pub fn aclrtHostRegister(pointer: ?*anyopaque, size: u64, kind: c_int, device_pointer: ?*?*anyopaque) acl.Error {
    const out = device_pointer orelse return errors.fail(acl.code.invalid_param, "devPtr is NULL");
    if (pointer == null or size == 0) return errors.fail(acl.code.invalid_param, "ptr is NULL or size is 0");
    const known = acl.HostRegisterType.io_memory | acl.HostRegisterType.read_only;
    if (kind & ~known != 0) return errors.fail(acl.code.rt_feature_not_supported, "unknown register type");
    const code = register(@intFromPtr(pointer), size, true);
    if (code == acl.code.success) out.* = pointer;
    return code;
}

pub fn aclrtHostRegisterV2(pointer: ?*anyopaque, size: u64, flags: u32) acl.Error {
    if (pointer == null or size == 0) return errors.fail(acl.code.invalid_param, "ptr is NULL or size is 0");
    const known = acl.HostRegisterFlag;
    const mask = known.mapped | known.io_memory | known.read_only | known.pinned;
    if (flags == 0 or flags & ~mask != 0) return errors.fail(acl.code.rt_param_invalid, "invalid flags");
    const is_mapped = flags & known.mapped != 0;
    if (is_mapped and flags & known.pinned == 0 and mapAllocation(@intFromPtr(pointer), size)) return acl.code.success;
    return register(@intFromPtr(pointer), size, is_mapped);
}

/// Memory of aclrtMallocHost is page-locked already and can still be mapped for devices.
fn mapAllocation(start: u64, size: u64) bool {
    lock.enter();
    defer lock.leave();
    if (context.current() == null) return false;
    const entry = block.host_blocks.at(start) orelse return false;
    if (entry.value.kind != .host_allocation or entry.value.is_mapped or size > entry.value.size) return false;
    entry.value.is_mapped = true;
    return true;
}

fn register(start: u64, size: u64, is_mapped: bool) acl.Error {
    lock.enter();
    defer lock.leave();
    _ = context.current() orelse return context.noContext();
    const end = std.math.add(u64, start, size) catch
        return errors.fail(acl.code.rt_param_invalid, "the range ends beyond the address space");
    if (start % physical.normal_page_bytes != 0)
        return errors.fail(acl.code.rt_param_invalid, "ptr is not 4 KiB aligned");
    if (block.host_blocks.firstOverlap(start, end) != null)
        return errors.fail(acl.code.host_memory_already_registered, "page-locked already");
    if (block.device_blocks.firstOverlap(start, end) != null or
        reservation.table.firstOverlap(start, end) != null or
        address_window.isUnallocated(start, end))
        return errors.fail(acl.code.rt_param_invalid, "not host memory");
    _ = block.add(.{ .kind = .host_registration, .start = start, .size = size, .is_mapped = is_mapped }) catch
        return physical.outOfMemory();
    return acl.code.success;
}

pub fn aclrtHostUnregister(pointer: ?*anyopaque) acl.Error {
    if (pointer == null) return errors.fail(acl.code.invalid_param, "ptr is NULL");
    lock.enter();
    defer lock.leave();
    _ = context.current() orelse return context.noContext();
    if (block.host_blocks.at(@intFromPtr(pointer))) |entry| {
        if (entry.value.kind == .host_registration) {
            entry.value.remove();
            return acl.code.success;
        }
        if (entry.value.is_mapped) {
            entry.value.is_mapped = false;
            return acl.code.success;
        }
    }
    return errors.fail(acl.code.host_memory_not_registered, "not registered");
}

/// Devices and the host share their addresses here.
pub fn aclrtHostGetDevicePointer(pointer: ?*anyopaque, device_pointer: ?*?*anyopaque, flag: u32) acl.Error {
    const host_pointer = pointer orelse return errors.fail(acl.code.invalid_param, "pHost is NULL");
    const out = device_pointer orelse return errors.fail(acl.code.invalid_param, "pDevice is NULL");
    if (flag != 0) return errors.fail(acl.code.invalid_param, "flag must be 0");
    lock.enter();
    defer lock.leave();
    _ = context.current() orelse return context.noContext();
    const entry = block.host_blocks.containing(@intFromPtr(host_pointer));
    if (entry == null or !entry.?.value.is_mapped)
        return errors.fail(acl.code.rt_param_invalid, "not registered to be reached from devices");
    out.* = host_pointer;
    return acl.code.success;
}

/// Ascend 910B has no unified memory.
pub fn aclrtMemAllocManaged(pointer: ?*?*anyopaque, size: u64, flag: u32) acl.Error {
    const attach_global = 1;
    if (pointer == null) return errors.fail(acl.code.invalid_param, "ptr is NULL");
    if (flag != attach_global) return errors.fail(acl.code.invalid_param, "flag must be ACL_RT_MEM_ATTACH_GLOBAL");
    _ = size;
    return errors.fail(acl.code.rt_feature_not_supported, "no unified memory");
}

//! Shareable handles: physical memory that other processes import.
//!
//! A shareable handle is device << 32 | id. The vendor does not support importing one's own export; here it is 507899.

const std = @import("std");
const acl = @import("acl");
const context_module = @import("../context.zig");
const device = @import("../device.zig");
const errors = @import("../errors.zig");
const handles = @import("../handles.zig");
const lock = @import("../lock.zig");
const memory_export = @import("../memory_export.zig");
const physical_handle = @import("../physical_handle.zig");

const invalid = acl.code.invalid_param;
const refused = acl.code.rt_param_invalid;
const misuse = acl.code.rt_drv_internal_error;

const Shareable = packed struct(u64) { id: u32, device: u8, zero: u24 = 0 };

pub fn aclrtMemExportToShareableHandle(
    handle: acl.DrvMemHandle,
    handle_type: c_int,
    flags: u64,
    out: ?*u64,
) acl.Error {
    const value = out orelse return errors.fail(invalid, "shareableHandle is NULL");
    if (handle == null) return errors.fail(invalid, "handle is NULL");
    if (handle_type != acl.MemHandleType.none) return errors.fail(invalid, "handleType must be NONE");
    if (flags > 1) return errors.fail(refused, "unknown flags");
    lock.enter();
    defer lock.leave();
    return exportLocked(handle, flags == 1, value);
}

fn exportLocked(handle: acl.DrvMemHandle, any_pid: bool, out: *u64) acl.Error {
    const entry = physical_handle.registry.get(handle) orelse
        return physical_handle.stale();
    if (entry.exported) return errors.fail(misuse, "exported already");
    if (entry.import_key != 0) return errors.fail(misuse, "imported memory cannot be exported");
    const on = entry.device orelse
        return errors.fail(acl.code.rt_feature_not_supported, "host memory cannot be exported");
    const driver_id = device.driverId(on);
    const id = memory_export.create(entry.memory, entry.mem_attr, any_pid) catch
        return errors.fail(acl.code.rt_resource_alloc_fail, "no socket or thread to share with");
    entry.exported = true;
    out.* = @bitCast(Shareable{ .id = id, .device = driver_id });
    return acl.code.success;
}

const fabric_magic: u64 = 0x6361_6d65_6d66_6162;
const Fabric = extern struct { magic: u64, shareable: u64, zero: [112]u8 = @splat(0) };

pub fn aclrtMemExportToShareableHandleV2(
    handle: acl.DrvMemHandle,
    flags: u64,
    share_type: c_int,
    out: ?*anyopaque,
) acl.Error {
    const target = out orelse return errors.fail(invalid, "shareableHandle is NULL");
    if (handle == null) return errors.fail(invalid, "handle is NULL");
    if (!isShareType(share_type) or flags > 1) return errors.fail(refused, "unknown share type or flags");
    lock.enter();
    defer lock.leave();
    const is_fabric = share_type == acl.MemSharedHandleType.fabric;
    if (is_fabric and context_module.current() == null) return context_module.noContext();
    var shareable: u64 = 0;
    const code = exportLocked(handle, flags == 1, &shareable);
    if (code != acl.code.success) return code;
    const bytes: [*]u8 = @ptrCast(target);
    const fabric: Fabric = .{ .magic = fabric_magic, .shareable = shareable };
    if (is_fabric) @memcpy(bytes, std.mem.asBytes(&fabric)) else @memcpy(bytes, std.mem.asBytes(&shareable));
    return acl.code.success;
}

fn isShareType(share_type: c_int) bool {
    return share_type == acl.MemSharedHandleType.default or share_type == acl.MemSharedHandleType.fabric;
}

fn readShareable(pointer: *anyopaque, share_type: c_int, out: *u64) acl.Error {
    const bytes: [*]const u8 = @ptrCast(pointer);
    if (share_type == acl.MemSharedHandleType.default) {
        @memcpy(std.mem.asBytes(out), bytes[0..8]);
        return acl.code.success;
    }
    var fabric: Fabric = undefined;
    @memcpy(std.mem.asBytes(&fabric), bytes[0..@sizeOf(Fabric)]);
    if (fabric.magic != fabric_magic) return errors.fail(refused, "not a fabric handle");
    out.* = fabric.shareable;
    return acl.code.success;
}

pub fn aclrtMemSetPidToShareableHandle(shareable: u64, pids: ?[*]const i32, count: usize) acl.Error {
    const list = pids orelse return errors.fail(invalid, "pid is NULL");
    if (count == 0) return errors.fail(invalid, "pidNum is 0");
    if (count > memory_export.max_pids) return errors.fail(refused, "too many pids");
    lock.enter();
    defer lock.leave();
    const parts: Shareable = @bitCast(shareable);
    return memory_export.allow(parts.id, list[0..count]);
}

pub fn aclrtMemSetPidToShareableHandleV2(
    pointer: ?*anyopaque,
    share_type: c_int,
    pids: ?[*]const i32,
    count: usize,
) acl.Error {
    const source = pointer orelse return errors.fail(invalid, "shareableHandle is NULL");
    if (pids == null or count == 0) return errors.fail(invalid, "pid is NULL or pidNum is 0");
    if (!isShareType(share_type)) return errors.fail(refused, "unknown share type");
    var shareable: u64 = 0;
    const code = readShareable(source, share_type, &shareable);
    return if (code == acl.code.success) aclrtMemSetPidToShareableHandle(shareable, pids, count) else code;
}

pub fn aclrtMemImportFromShareableHandle(shareable: u64, device_id: i32, out: ?*acl.DrvMemHandle) acl.Error {
    const target = out orelse return errors.fail(invalid, "handle is NULL");
    lock.enter();
    defer lock.leave();
    if (device.byUserId(device_id) == null) return device.unknownDevice();
    if (context_module.current() == null) return context_module.noContext();
    return importLocked(shareable, @intCast(device_id), target);
}

pub fn aclrtMemImportFromShareableHandleV2(
    pointer: ?*anyopaque,
    share_type: c_int,
    flags: u64,
    out: ?*acl.DrvMemHandle,
) acl.Error {
    const target = out orelse return errors.fail(invalid, "handle is NULL");
    const source = pointer orelse return errors.fail(invalid, "shareableHandle is NULL");
    if (flags != 0) return errors.fail(invalid, "flags must be 0");
    lock.enter();
    defer lock.leave();
    const context = context_module.current() orelse return context_module.noContext();
    if (!isShareType(share_type)) return errors.fail(refused, "unknown share type");
    var shareable: u64 = 0;
    const code = readShareable(source, share_type, &shareable);
    if (code != acl.code.success) return code;
    return importLocked(shareable, context.device.user_id, target);
}

fn importLocked(shareable: u64, on: u8, out: *acl.DrvMemHandle) acl.Error {
    const parts: Shareable = @bitCast(shareable);
    if (parts.zero != 0 or parts.id == 0) return errors.fail(refused, "not a shareable handle");
    if (memory_export.isOwn(parts.id)) return errors.fail(misuse, "a process cannot import what it exported itself");
    if (reuseImport(shareable, out)) return acl.code.success;
    var imported: memory_export.Imported = undefined;
    lock.leave();
    const code = memory_export.fetch(parts.id, &imported);
    lock.enter();
    if (code != acl.code.success) return code;
    if (reuseImport(shareable, out)) {
        imported.discard();
        return acl.code.success;
    }
    const memory = imported.adopt() catch return errors.outOfHostMemory();
    const entry = physical_handle.add(.{
        .memory = memory,
        .device = on,
        .mem_attr = imported.reply.mem_attr,
        .giant_pages = imported.reply.mem_attr == acl.MemAttr.hbm_huge1g,
        .import_key = shareable,
    }) catch return errors.outOfHostMemory();
    out.* = handles.toPointer(entry.number);
    return acl.code.success;
}

/// Importing twice returns the same handle again.
fn reuseImport(shareable: u64, out: *acl.DrvMemHandle) bool {
    const entry = physical_handle.findImport(shareable) orelse return false;
    entry.references += 1;
    out.* = handles.toPointer(entry.number);
    return true;
}

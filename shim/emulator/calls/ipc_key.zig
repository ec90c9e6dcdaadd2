//! Keys of aclrtMalloc memory, by which other processes import it.

const std = @import("std");
const acl = @import("acl");
const block = @import("../block.zig");
const context_module = @import("../context.zig");
const errors = @import("../errors.zig");
const lock = @import("../lock.zig");
const memory_export = @import("../memory_export.zig");
const physical = @import("../physical.zig");

const invalid = acl.code.invalid_param;
const refused = acl.code.rt_param_invalid;
const misuse = acl.code.rt_drv_internal_error;

const key_prefix = "camem-ipc-";
const key_length = key_prefix.len + 8;

pub fn aclrtIpcMemGetExportKey(pointer: ?*anyopaque, size: usize, key: ?[*]u8, length: usize, flags: u64) acl.Error {
    const out = key orelse return errors.fail(invalid, "key is NULL");
    if (pointer == null) return errors.fail(invalid, "devPtr is NULL");
    if (size == 0 or flags > 1) return errors.fail(refused, "size is 0 or unknown flags");
    if (length < key_length + 1) return errors.fail(refused, "the key does not fit");
    lock.enter();
    defer lock.leave();
    if (context_module.current() == null) return context_module.noContext();
    const entry = block.device_blocks.at(@intFromPtr(pointer)) orelse return notShareable();
    const memory = entry.value.memory orelse return notShareable();
    if (entry.value.kind != .allocation or size > entry.value.size) return notShareable();
    const id = memory_export.create(memory, acl.MemAttr.hbm_normal, flags == 1) catch
        return errors.fail(acl.code.rt_resource_alloc_fail, "no socket or thread to share with");
    @memcpy(out[0..key_prefix.len], key_prefix);
    @memcpy(out[key_prefix.len..key_length], &std.fmt.hex(id));
    out[key_length] = 0;
    return acl.code.success;
}

fn notShareable() acl.Error {
    return errors.fail(refused, "not memory that aclrtMalloc returned");
}

fn parseKey(key: [*:0]const u8) ?u32 {
    const text = std.mem.span(key);
    if (text.len != key_length or !std.mem.startsWith(u8, text, key_prefix)) return null;
    var bytes: [4]u8 = undefined;
    _ = std.fmt.hexToBytes(&bytes, text[key_prefix.len..]) catch return null;
    // std.fmt.hex writes the bytes in memory order.
    return @bitCast(bytes);
}

fn badKey() acl.Error {
    return errors.fail(refused, "not a key of aclrtIpcMemGetExportKey");
}

pub fn aclrtIpcMemSetImportPid(key: ?[*:0]const u8, pids: ?[*]const i32, count: usize) acl.Error {
    const text = key orelse return errors.fail(invalid, "key is NULL");
    const list = pids orelse return errors.fail(invalid, "pid is NULL");
    if (count == 0 or count > memory_export.max_pids) return errors.fail(refused, "num must be 1 to 65535");
    lock.enter();
    defer lock.leave();
    return memory_export.allow(parseKey(text) orelse return badKey(), list[0..count]);
}

pub fn aclrtIpcMemImportByKey(out: ?*?*anyopaque, key: ?[*:0]const u8, flags: u64) acl.Error {
    const target = out orelse return errors.fail(invalid, "devPtr is NULL");
    const text = key orelse return errors.fail(invalid, "key is NULL");
    if (flags > 1) return errors.fail(refused, "unknown flags");
    lock.enter();
    defer lock.leave();
    const context = context_module.current() orelse return context_module.noContext();
    const on = context.device.user_id;
    const id = parseKey(text) orelse return badKey();
    if (memory_export.isOwn(id)) return errors.fail(misuse, "a process cannot import what it exported itself");
    var imported: memory_export.Imported = undefined;
    lock.leave();
    const code = memory_export.fetch(id, &imported);
    lock.enter();
    if (code != acl.code.success) return code;
    const memory = imported.adopt() catch return errors.outOfHostMemory();
    const template: block.Block = .{ .kind = .ipc_import, .size = memory.size, .device = on, .export_id = id };
    const start = block.place(template, memory, physical.huge_page_bytes) catch return errors.outOfHostMemory();
    target.* = @ptrFromInt(start);
    return acl.code.success;
}

/// The importer's close unmaps the memory. The exporter's close ends the sharing.
pub fn aclrtIpcMemClose(key: ?[*:0]const u8) acl.Error {
    const text = key orelse return errors.fail(invalid, "key is NULL");
    lock.enter();
    defer lock.leave();
    const id = parseKey(text) orelse return badKey();
    if (block.importOf(id)) |imported| {
        imported.remove();
        return acl.code.success;
    }
    if (memory_export.close(id)) return acl.code.success;
    return errors.fail(refused, "the key is not in use");
}

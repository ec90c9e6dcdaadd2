//! The sharing calls of AscendCL: shareable handles of physical memory, and keys of aclrtMalloc memory.
//!
//! A shareable handle is device << 32 | id. Importing one's own export is not supported by the vendor; here it is 507899.

const std = @import("std");
const acl = @import("acl");
const state = @import("state.zig");
const errors = @import("errors.zig");
const handles = @import("handles.zig");
const device = @import("device.zig");
const backing = @import("backing.zig");
const share = @import("share.zig");
const address_space = @import("address_space.zig");
const physical_memory = @import("physical.zig");
const Physical = physical_memory.Physical;

const invalid = acl.code.invalid_param;
const refused = acl.code.rt_param_invalid;
const misuse = acl.code.rt_drv_internal_error;

const Shareable = packed struct(u64) { id: u32, device: u8, zero: u24 = 0 };

pub fn exportHandle(handle: acl.DrvMemHandle, handle_type: c_int, flags: u64, out: ?*u64) acl.Error {
    const value = out orelse return errors.fail(invalid, "shareableHandle is NULL");
    if (handle == null) return errors.fail(invalid, "handle is NULL");
    if (handle_type != acl.MemHandleType.none) return errors.fail(invalid, "handleType must be NONE");
    if (flags > 1) return errors.fail(refused, "unknown flags");
    state.enter();
    defer state.leave();
    return exportLocked(handle, flags == 1, value);
}

fn exportLocked(handle: acl.DrvMemHandle, any_pid: bool, out: *u64) acl.Error {
    const physical = physical_memory.registry.get(handle) orelse
        return errors.fail(acl.code.rt_invalid_handle, "no such physical memory handle, or freed already");
    if (physical.exported) return errors.fail(misuse, "exported already");
    if (physical.import_key != 0) return errors.fail(misuse, "imported memory cannot be exported");
    const on = physical.device orelse
        return errors.fail(acl.code.rt_feature_not_supported, "host memory cannot be exported");
    const driver_id = device.devices[on].driver_id;
    const id = share.create(physical.backing, driver_id, physical.mem_attr, any_pid) catch
        return errors.fail(acl.code.rt_resource_alloc_fail, "no socket or thread to share with");
    physical.exported = true;
    out.* = @bitCast(Shareable{ .id = id, .device = driver_id });
    return acl.code.success;
}

const fabric_magic: u64 = 0x6361_6d65_6d66_6162;
const Fabric = extern struct { magic: u64, shareable: u64, zero: [112]u8 = @splat(0) };

pub fn exportHandleV2(handle: acl.DrvMemHandle, flags: u64, share_type: c_int, out: ?*anyopaque) acl.Error {
    const target = out orelse return errors.fail(invalid, "shareableHandle is NULL");
    if (handle == null) return errors.fail(invalid, "handle is NULL");
    if (!isShareType(share_type) or flags > 1) return errors.fail(refused, "unknown share type or flags");
    state.enter();
    defer state.leave();
    const is_fabric = share_type == acl.MemSharedHandleType.fabric;
    if (is_fabric and device.current() == null) return device.noContext();
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

pub fn setPids(shareable: u64, pids: ?[*]const i32, count: usize) acl.Error {
    const list = pids orelse return errors.fail(invalid, "pid is NULL");
    if (count == 0) return errors.fail(invalid, "pidNum is 0");
    if (count > share.max_pids) return errors.fail(refused, "too many pids");
    state.enter();
    defer state.leave();
    const parts: Shareable = @bitCast(shareable);
    return share.allow(parts.id, list[0..count]);
}

pub fn setPidsV2(pointer: ?*anyopaque, share_type: c_int, pids: ?[*]const i32, count: usize) acl.Error {
    const source = pointer orelse return errors.fail(invalid, "shareableHandle is NULL");
    if (pids == null or count == 0) return errors.fail(invalid, "pid is NULL or pidNum is 0");
    if (!isShareType(share_type)) return errors.fail(refused, "unknown share type");
    var shareable: u64 = 0;
    const code = readShareable(source, share_type, &shareable);
    return if (code == acl.code.success) setPids(shareable, pids, count) else code;
}

pub fn importHandle(shareable: u64, device_id: i32, out: ?*acl.DrvMemHandle) acl.Error {
    const target = out orelse return errors.fail(invalid, "handle is NULL");
    state.enter();
    defer state.leave();
    if (device.byUserId(device_id) == null) return errors.fail(acl.code.rt_invalid_device_id, "no such device");
    if (device.current() == null) return device.noContext();
    return importLocked(shareable, @intCast(device_id), target);
}

pub fn importHandleV2(pointer: ?*anyopaque, share_type: c_int, flags: u64, out: ?*acl.DrvMemHandle) acl.Error {
    const target = out orelse return errors.fail(invalid, "handle is NULL");
    const source = pointer orelse return errors.fail(invalid, "shareableHandle is NULL");
    if (flags != 0) return errors.fail(invalid, "flags must be 0");
    state.enter();
    defer state.leave();
    const context = device.current() orelse return device.noContext();
    if (!isShareType(share_type)) return errors.fail(refused, "unknown share type");
    var shareable: u64 = 0;
    const code = readShareable(source, share_type, &shareable);
    if (code != acl.code.success) return code;
    return importLocked(shareable, context.device.user_id, target);
}

fn importLocked(shareable: u64, on: u8, out: *acl.DrvMemHandle) acl.Error {
    const parts: Shareable = @bitCast(shareable);
    if (parts.zero != 0 or parts.id == 0) return errors.fail(refused, "not a shareable handle");
    if (share.isOwn(parts.id)) return errors.fail(misuse, "a process cannot import what it exported itself");
    if (reuseImport(shareable, out)) return acl.code.success;
    var imported: share.Imported = undefined;
    state.leave();
    const code = share.fetch(parts.id, &imported);
    state.enter();
    if (code != acl.code.success) return code;
    if (reuseImport(shareable, out)) {
        discardImport(&imported);
        return acl.code.success;
    }
    const storage = adopt(&imported) catch return noMemory();
    const physical = physical_memory.add(.{
        .backing = storage,
        .device = on,
        .mem_attr = imported.reply.mem_attr,
        .giant_pages = imported.reply.mem_attr == acl.MemAttr.hbm_huge1g,
        .import_key = shareable,
    }) catch return noMemory();
    out.* = handles.toPointer(physical.handle);
    return acl.code.success;
}

/// Importing twice gives the same handle once more.
fn reuseImport(shareable: u64, out: *acl.DrvMemHandle) bool {
    const physical = physical_memory.findImport(shareable) orelse return false;
    physical.references += 1;
    out.* = handles.toPointer(physical.handle);
    return true;
}

fn noMemory() acl.Error {
    return errors.fail(acl.code.rt_memory_allocation, "out of host memory");
}

fn discardImport(imported: *const share.Imported) void {
    _ = std.os.linux.close(imported.fd);
    _ = std.os.linux.close(imported.connection);
}

fn adopt(imported: *const share.Imported) error{OutOfMemory}!*backing.Backing {
    errdefer discardImport(imported);
    return backing.Backing.adopt(imported.fd, imported.connection, imported.reply.offset, imported.reply.size);
}

const key_prefix = "camem-ipc-";
const key_length = key_prefix.len + 8;

pub fn getKey(pointer: ?*anyopaque, size: usize, key: ?[*]u8, length: usize, flags: u64) acl.Error {
    const out = key orelse return errors.fail(invalid, "key is NULL");
    if (pointer == null) return errors.fail(invalid, "devPtr is NULL");
    if (size == 0 or flags > 1) return errors.fail(refused, "size is 0 or unknown flags");
    if (length < key_length + 1) return errors.fail(refused, "the key does not fit");
    state.enter();
    defer state.leave();
    if (device.current() == null) return device.noContext();
    const entry = address_space.device_blocks.at(@intFromPtr(pointer)) orelse return notShareable();
    const on = entry.value.device orelse return notShareable();
    const storage = entry.value.backing orelse return notShareable();
    if (entry.value.kind != .allocation or size > entry.value.size) return notShareable();
    const id = share.create(storage, device.devices[on].driver_id, acl.MemAttr.hbm_normal, flags == 1) catch
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

pub fn setKeyPids(key: ?[*:0]const u8, pids: ?[*]const i32, count: usize) acl.Error {
    const text = key orelse return errors.fail(invalid, "key is NULL");
    const list = pids orelse return errors.fail(invalid, "pid is NULL");
    if (count == 0 or count > share.max_pids) return errors.fail(refused, "num must be 1 to 65535");
    state.enter();
    defer state.leave();
    return share.allow(parseKey(text) orelse return badKey(), list[0..count]);
}

const KeyImport = struct { id: u32, start: u64 };
var key_imports: std.ArrayList(KeyImport) = .empty;

pub fn importKey(out: ?*?*anyopaque, key: ?[*:0]const u8, flags: u64) acl.Error {
    const target = out orelse return errors.fail(invalid, "devPtr is NULL");
    const text = key orelse return errors.fail(invalid, "key is NULL");
    if (flags > 1) return errors.fail(refused, "unknown flags");
    state.enter();
    defer state.leave();
    const context = device.current() orelse return device.noContext();
    const on = context.device.user_id;
    const id = parseKey(text) orelse return badKey();
    if (share.isOwn(id)) return errors.fail(misuse, "a process cannot import what it exported itself");
    var imported: share.Imported = undefined;
    state.leave();
    const code = share.fetch(id, &imported);
    state.enter();
    if (code != acl.code.success) return code;
    const storage = adopt(&imported) catch return noMemory();
    const start = placeImport(storage, on, id) catch return noMemory();
    target.* = @ptrFromInt(start);
    return acl.code.success;
}

fn placeImport(storage: *backing.Backing, on: u8, id: u32) error{OutOfMemory}!u64 {
    const template: address_space.Block = .{ .kind = .ipc_import, .size = storage.size, .device = on };
    const start = try address_space.place(template, storage, backing.granule);
    key_imports.append(state.allocator, .{ .id = id, .start = start }) catch |failure| {
        closeImport(start);
        return failure;
    };
    return start;
}

fn closeImport(start: u64) void {
    const found = address_space.device_blocks.at(start) orelse return;
    if (found.value.kind == .ipc_import) address_space.removeBlock(found.value);
}

/// The importer's close unmaps, the exporter's ends the sharing.
pub fn closeKey(key: ?[*:0]const u8) acl.Error {
    const text = key orelse return errors.fail(invalid, "key is NULL");
    state.enter();
    defer state.leave();
    const id = parseKey(text) orelse return badKey();
    for (key_imports.items, 0..) |entry, index| {
        if (entry.id != id) continue;
        _ = key_imports.swapRemove(index);
        closeImport(entry.start);
        return acl.code.success;
    }
    if (share.isOwn(id) and share.close(id)) return acl.code.success;
    return errors.fail(refused, "the key is not in use");
}

const vmm = @import("vmm.zig");
const memory = @import("memory.zig");
const transfer = @import("transfer.zig");
const sync = @import("sync.zig");
const testing = @import("testing.zig");
const expectCode = testing.expectCode;
const linux = std.os.linux;
const shared_bytes = backing.granule;
const device_prop: acl.PhysicalMemProp = .{
    .mem_attr = acl.MemAttr.hbm_normal,
    .location = .{ .id = 0, .type = acl.MemLocationType.device },
};

/// A second process with a pipe in each direction; it runs `body` and exits with whether that succeeded.
const Peer = struct {
    pid: i32,
    input: i32,
    output: i32,

    fn start(comptime body: fn (Peer) anyerror!void) !Peer {
        var down: [2]i32 = undefined;
        var up: [2]i32 = undefined;
        if (linux.errno(linux.pipe2(&down, .{ .CLOEXEC = true })) != .SUCCESS) return error.TestUnexpectedResult;
        if (linux.errno(linux.pipe2(&up, .{ .CLOEXEC = true })) != .SUCCESS) return error.TestUnexpectedResult;
        // No other thread may hold the lock when the process is copied.
        state.enter();
        const pid = std.c.fork();
        state.leave();
        if (pid == 0) {
            body(.{ .pid = 0, .input = down[0], .output = up[1] }) catch std.c._exit(1);
            std.c._exit(0);
        }
        _ = linux.close(down[0]);
        _ = linux.close(up[1]);
        return .{ .pid = pid, .input = up[0], .output = down[1] };
    }

    fn send(peer: Peer, comptime T: type, value: T) !void {
        const written = linux.write(peer.output, std.mem.asBytes(&value), @sizeOf(T));
        if (written != @sizeOf(T)) return error.TestUnexpectedResult;
    }

    fn receive(peer: Peer, comptime T: type) !T {
        var value: T = undefined;
        const count = linux.read(peer.input, std.mem.asBytes(&value), @sizeOf(T));
        if (count != @sizeOf(T)) return error.TestUnexpectedResult;
        return value;
    }

    fn expectSuccess(peer: Peer) !void {
        var status: c_int = -1;
        _ = std.c.waitpid(peer.pid, &status, 0);
        _ = linux.close(peer.input);
        _ = linux.close(peer.output);
        try std.testing.expectEqual(0, status);
    }
};

fn importAndCheck(peer: Peer) !void {
    var handle: acl.DrvMemHandle = null;
    var again: acl.DrvMemHandle = null;
    var start: ?*anyopaque = null;
    var value: u64 = 0;
    const shareable = try peer.receive(u64);
    try expectCode(107001, importHandle(shareable, 5, &handle));
    // Not on the list yet.
    try expectCode(207006, importHandle(shareable, 0, &handle));
    try peer.send(i32, linux.getpid());
    _ = try peer.receive(u8);
    try expectCode(0, importHandle(shareable, 0, &handle));
    try expectCode(0, importHandle(shareable, 0, &again));
    try std.testing.expectEqual(handle, again);
    try expectCode(0, vmm.freePhysical(again));
    try expectCode(0, vmm.reserve(&start, shared_bytes, 0, null, 0));
    try expectCode(0, vmm.map(start, shared_bytes, 0, handle, 0));
    try expectCode(0, transfer.copySync(&value, 8, start, 8, acl.MemcpyKind.device_to_host));
    try std.testing.expectEqual(123, value);
    try peer.send(u8, 1);
    _ = try peer.receive(u8);
    try expectCode(0, vmm.unmap(start));
    try expectCode(0, vmm.freePhysical(handle));
    try expectCode(507899, importHandle(shareable, 0, &handle));
    try peer.send(u8, 1);
    _ = try peer.receive(u8);
}

test "physical memory is shared with the processes on its list, and lives until all gave it back" {
    defer testing.cleanUp();
    var handle: acl.DrvMemHandle = null;
    var start: ?*anyopaque = null;
    var shareable: u64 = 0;
    var value: u64 = 123;
    try expectCode(0, device.set(0));
    const peer = try Peer.start(importAndCheck);
    try expectCode(0, vmm.mallocPhysical(&handle, shared_bytes, &device_prop, 0));
    try expectCode(0, vmm.reserve(&start, shared_bytes, 0, null, 0));
    try expectCode(0, vmm.map(start, shared_bytes, 0, handle, 0));
    try expectCode(0, transfer.copySync(start, 8, &value, 8, acl.MemcpyKind.host_to_device));
    try expectCode(100000, exportHandle(handle, 2, 0, &shareable));
    try expectCode(107000, exportHandle(handle, 0, 2, &shareable));
    try expectCode(0, exportHandle(handle, 0, 0, &shareable));
    try expectCode(507899, exportHandle(handle, 0, 0, &shareable));
    var own: acl.DrvMemHandle = null;
    try expectCode(507899, importHandle(shareable, 0, &own));
    try peer.send(u64, shareable);
    const pid = try peer.receive(i32);
    try expectCode(100000, setPids(shareable, null, 1));
    try expectCode(100000, setPids(shareable, @ptrCast(&pid), 0));
    try expectCode(107000, setPids(shareable, @ptrCast(&pid), 65536));
    try expectCode(207006, setPids(shareable +% 1, @ptrCast(&pid), 1));
    try expectCode(0, setPids(shareable, @ptrCast(&pid), 1));
    try peer.send(u8, 1);
    _ = try peer.receive(u8);
    try expectCode(0, vmm.unmap(start));
    try expectCode(0, vmm.freePhysical(handle));
    // The peer still holds it.
    try std.testing.expectEqual(shared_bytes, testing.held().physical_bytes);
    try peer.send(u8, 1);
    _ = try peer.receive(u8);
    var waited: u32 = 0;
    while (testing.held().physical_bytes > 0 and waited < 1000) : (waited += 1) sync.sleepMilliseconds(1);
    try std.testing.expectEqual(0, testing.held().physical_bytes);
    try peer.send(u8, 1);
    try peer.expectSuccess();
    try expectCode(0, vmm.releaseAddress(start));
}

const Key = [65]u8;

fn importKeyAndFabric(peer: Peer) !void {
    var pointer: ?*anyopaque = null;
    var value: u64 = 0;
    const key = try peer.receive(Key);
    const text: [*:0]const u8 = @ptrCast(&key);
    try expectCode(0, importKey(&pointer, text, 0));
    try expectCode(0, transfer.copySync(&value, 8, pointer, 8, acl.MemcpyKind.device_to_host));
    try std.testing.expectEqual(321, value);
    try expectCode(107000, memory.free(pointer));
    try expectCode(0, closeKey(text));
    try expectCode(507899, transfer.copySync(&value, 8, pointer, 8, acl.MemcpyKind.device_to_host));
    var handle: acl.DrvMemHandle = null;
    var fabric = try peer.receive(acl.MemFabricHandle);
    try expectCode(100000, importHandleV2(&fabric, 2, 1, &handle));
    try expectCode(0, importHandleV2(&fabric, 2, 0, &handle));
    try expectCode(0, vmm.freePhysical(handle));
    try peer.send(u8, 1);
}

test "keys and fabric handles without a list" {
    defer testing.cleanUp();
    var pointer: ?*anyopaque = null;
    var handle: acl.DrvMemHandle = null;
    var key: Key = @splat(0);
    var fabric: acl.MemFabricHandle = .{};
    var value: u64 = 321;
    const pid: i32 = 1;
    try expectCode(0, device.set(0));
    const peer = try Peer.start(importKeyAndFabric);
    try expectCode(0, memory.malloc(&pointer, 1 << 20, 0));
    try expectCode(0, transfer.copySync(pointer, 8, &value, 8, acl.MemcpyKind.host_to_device));
    try expectCode(100000, getKey(null, 1, &key, 65, 1));
    try expectCode(107000, getKey(pointer, 0, &key, 65, 1));
    try expectCode(107000, getKey(pointer, 1, &key, 0, 1));
    try expectCode(107000, getKey(pointer, 1, &key, 65, 2));
    try expectCode(0, getKey(pointer, 1 << 20, &key, 65, 1));
    try expectCode(207006, setKeyPids(@ptrCast(&key), @ptrCast(&pid), 1));
    try peer.send(Key, key);
    try expectCode(0, vmm.mallocPhysical(&handle, shared_bytes, &device_prop, 0));
    try expectCode(107000, exportHandleV2(handle, 1, 3, &fabric));
    try expectCode(0, exportHandleV2(handle, 1, 2, &fabric));
    try expectCode(207006, setPidsV2(&fabric, 2, @ptrCast(&pid), 1));
    try peer.send(acl.MemFabricHandle, fabric);
    _ = try peer.receive(u8);
    try peer.expectSuccess();
    try expectCode(0, closeKey(@ptrCast(&key)));
    try expectCode(107000, closeKey(@ptrCast(&key)));
    try expectCode(0, vmm.freePhysical(handle));
    try expectCode(0, memory.free(pointer));
}

fn writeImported(peer: Peer) !void {
    var handle: acl.DrvMemHandle = null;
    var start: ?*anyopaque = null;
    const value: u64 = 55;
    const shareable = try peer.receive(u64);
    try expectCode(0, importHandle(shareable, 0, &handle));
    try expectCode(0, vmm.reserve(&start, shared_bytes, 0, null, 0));
    try expectCode(0, vmm.map(start, shared_bytes, 0, handle, 0));
    try expectCode(0, transfer.copySync(start, 8, &value, 8, acl.MemcpyKind.host_to_device));
    try peer.send(u8, 1);
}

test "what another process wrote before the first mapping of one's own is there" {
    defer testing.cleanUp();
    var handle: acl.DrvMemHandle = null;
    var start: ?*anyopaque = null;
    var shareable: u64 = 0;
    var value: u64 = 0;
    try expectCode(0, device.set(0));
    const peer = try Peer.start(writeImported);
    try expectCode(0, vmm.mallocPhysical(&handle, shared_bytes, &device_prop, 0));
    try expectCode(0, exportHandle(handle, 0, 1, &shareable));
    try peer.send(u64, shareable);
    _ = try peer.receive(u8);
    try peer.expectSuccess();
    try expectCode(0, vmm.reserve(&start, shared_bytes, 0, null, 0));
    try expectCode(0, vmm.map(start, shared_bytes, 0, handle, 0));
    try expectCode(0, transfer.copySync(&value, 8, start, 8, acl.MemcpyKind.device_to_host));
    try std.testing.expectEqual(55, value);
    try expectCode(0, vmm.unmap(start));
    try expectCode(0, vmm.freePhysical(handle));
    try expectCode(0, vmm.releaseAddress(start));
}

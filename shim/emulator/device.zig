//! Devices and contexts. A device is open while a primary context (aclrtSetDevice) or an explicit one holds it; the
//! current context is each thread's own, remembered by handle so that a destroyed one is recognised as gone.

const std = @import("std");
const acl = @import("acl");
const state = @import("state.zig");
const config = @import("config.zig");
const errors = @import("errors.zig");
const handles = @import("handles.zig");
const backing = @import("backing.zig");
const address_space = @import("address_space.zig");
const physical = @import("physical.zig");
const streams = @import("stream.zig");
const system = @import("system.zig");
const timing = @import("timing.zig");
const vmm = @import("vmm.zig");

pub const Device = struct {
    user_id: u8,
    driver_id: u8,
    pool: backing.Pool,
    engines: timing.Engines = .initFill(0),
    set_references: u64 = 0,
    explicit_contexts: u64 = 0,
    primary: ?*Context = null,

    pub fn isOpen(device: *const Device) bool {
        return device.set_references > 0 or device.explicit_contexts > 0;
    }
};

pub const Context = struct {
    handle: u64 = 0,
    device: *Device,
    primary: bool,
    default_stream: ?*streams.Stream = null,
};

pub var devices: [config.max_devices]Device = undefined;
var device_count: ?u8 = null;
pub var contexts: handles.Registry(Context, .context) = .{};
/// The driver's address space manager comes up with the first device and stays.
pub var ever_opened = false;
threadlocal var current_handle: u64 = 0;

pub fn all() []Device {
    if (device_count == null) {
        const settings = config.get();
        for (settings.visible[0..settings.visible_count], 0..) |driver_id, index| {
            devices[index] = .{
                .user_id = @intCast(index),
                .driver_id = driver_id,
                .pool = .{ .budget_bytes = settings.hbm_bytes },
            };
        }
        device_count = settings.visible_count;
    }
    return devices[0..device_count.?];
}

pub fn byUserId(id: i64) ?*Device {
    if (id < 0 or id >= all().len) return null;
    return &devices[@intCast(id)];
}

/// The current thread's context, or null. A thread without one gets the configured default device.
pub fn current() ?*Context {
    if (contexts.items.get(current_handle)) |context| return context;
    const default = byUserId(system.default_device orelse return null) orelse return null;
    return open(default) catch null; // a thread that cannot get the default device has no context, and says so
}

pub fn noContext() acl.Error {
    return errors.fail(acl.code.rt_context_null, "the thread has no current context");
}

fn badDevice() acl.Error {
    return errors.fail(acl.code.rt_invalid_device_id, "no such device");
}

fn newContext(device: *Device, primary: bool) error{OutOfMemory}!*Context {
    const context = try state.allocator.create(Context);
    errdefer state.allocator.destroy(context);
    context.* = .{ .device = device, .primary = primary };
    context.handle = try contexts.add(context);
    device.pool.keep(config.get().pool_bytes);
    ever_opened = true;
    current_handle = context.handle;
    return context;
}

fn open(device: *Device) error{OutOfMemory}!*Context {
    const context = device.primary orelse try newContext(device, true);
    device.primary = context;
    device.set_references += 1;
    current_handle = context.handle;
    return context;
}

pub fn getCount(count: ?*u32) acl.Error {
    const out = count orelse return errors.fail(acl.code.invalid_param, "count is NULL");
    const problem = config.check();
    if (problem != acl.code.success) return problem;
    if (config.get().visible_list_invalid)
        return errors.fail(acl.code.rt_no_device, "ASCEND_RT_VISIBLE_DEVICES names no device or is out of order");
    state.enter();
    defer state.leave();
    out.* = @intCast(all().len);
    return acl.code.success;
}

pub fn set(id: i32) acl.Error {
    state.enter();
    defer state.leave();
    const device = byUserId(id) orelse return badDevice();
    _ = open(device) catch return errors.fail(acl.code.rt_dev_setup_error, "out of host memory");
    return acl.code.success;
}

pub fn get(id: ?*i32) acl.Error {
    const out = id orelse return errors.fail(acl.code.invalid_param, "deviceId is NULL");
    state.enter();
    defer state.leave();
    const context = current() orelse return noContext();
    out.* = context.device.user_id;
    return acl.code.success;
}

pub fn reset(id: i32) acl.Error {
    return releaseReferences(id, false);
}

pub fn resetForce(id: i32) acl.Error {
    return releaseReferences(id, true);
}

fn releaseReferences(id: i32, force: bool) acl.Error {
    state.enter();
    defer state.leave();
    const device = byUserId(id) orelse return badDevice();
    const primary = device.primary orelse
        return errors.fail(acl.code.rt_context_release_error, "the device is not set or was released already");
    device.set_references = if (force) 0 else device.set_references - 1;
    if (device.set_references > 0) return acl.code.success;
    device.primary = null;
    destroy(primary, force);
    return acl.code.success;
}

/// Ends the context's streams and, with the last context, everything that the process had on the device.
fn destroy(context: *Context, force: bool) void {
    const device = context.device;
    contexts.remove(context.handle);
    streams.destroyContext(context.handle, force);
    state.allocator.destroy(context);
    if (device.isOpen()) return;
    vmm.dropDevice(device.user_id);
    dropAllocations(device.user_id);
    physical.dropDevice(device.user_id);
    device.pool.keep(0);
}

fn dropAllocations(id: u8) void {
    var address: u64 = 0;
    while (address_space.device_blocks.from(address)) |entry| : (address = entry.end) {
        const block = entry.value;
        if (block.device == id and block.kind != .mapping) address_space.removeBlock(block);
    }
}

pub fn createContext(context: ?*acl.Context, id: i32) acl.Error {
    const out = context orelse return errors.fail(acl.code.invalid_param, "context is NULL");
    state.enter();
    defer state.leave();
    const device = byUserId(id) orelse return badDevice();
    const created = newContext(device, false) catch
        return errors.fail(acl.code.rt_resource_alloc_fail, "out of host memory");
    device.explicit_contexts += 1;
    out.* = handles.toPointer(created.handle);
    return acl.code.success;
}

pub fn destroyContext(handle: acl.Context) acl.Error {
    if (handle == null) return errors.fail(acl.code.invalid_param, "context is NULL");
    state.enter();
    defer state.leave();
    const context = contexts.get(handle) orelse
        return errors.fail(acl.code.rt_context_null, "no such context, or destroyed already");
    if (context.primary) return errors.fail(acl.code.rt_context_null, "the primary context belongs to aclrtSetDevice");
    context.device.explicit_contexts -= 1;
    destroy(context, false);
    return acl.code.success;
}

pub fn setCurrentContext(handle: acl.Context) acl.Error {
    if (handle == null) return errors.fail(acl.code.invalid_param, "context is NULL");
    state.enter();
    defer state.leave();
    const context = contexts.get(handle) orelse return errors.fail(acl.code.rt_param_invalid, "the context is stale");
    current_handle = context.handle;
    return acl.code.success;
}

pub fn getCurrentContext(handle: ?*acl.Context) acl.Error {
    const out = handle orelse return errors.fail(acl.code.invalid_param, "context is NULL");
    state.enter();
    defer state.leave();
    const context = current() orelse return noContext();
    out.* = handles.toPointer(context.handle);
    return acl.code.success;
}

pub fn canAccessPeer(can: ?*i32, id: i32, peer: i32) acl.Error {
    if (id == peer) return errors.fail(acl.code.invalid_param, "a device is no peer of its own");
    state.enter();
    defer state.leave();
    if (byUserId(peer) == null) return badDevice();
    if (byUserId(id) == null) return errors.fail(acl.code.rt_param_invalid, "no such device");
    const out = can orelse return errors.fail(acl.code.rt_param_invalid, "canAccessPeer is NULL");
    out.* = 1;
    return acl.code.success;
}

pub fn enablePeerAccess(peer: i32, flags: u32) acl.Error {
    if (flags != 0) return errors.fail(acl.code.feature_unsupported, "flags must be 0");
    state.enter();
    defer state.leave();
    const context = current() orelse return noContext();
    if (context.device.user_id == peer) return errors.fail(acl.code.invalid_param, "a device is no peer of its own");
    if (byUserId(peer) == null) return badDevice();
    return acl.code.success;
}

pub fn getBareTgid(pid: ?*i32) acl.Error {
    const out = pid orelse return errors.fail(acl.code.invalid_param, "pid is NULL");
    out.* = std.os.linux.getpid();
    return acl.code.success;
}

/// Gives back what the devices keep for the next allocation.
pub fn shrinkPools() void {
    for (all()) |*device| device.pool.shrink(0);
}

pub fn keptBytes() u64 {
    var sum: u64 = 0;
    for (all()) |device| sum += device.pool.kept.bytes;
    return sum;
}

/// What is open right now, for the accounting.
pub fn openReferences() u64 {
    var sum: u64 = 0;
    for (all()) |device| sum += device.set_references;
    return sum;
}

pub fn explicitContexts() u64 {
    var sum: u64 = 0;
    for (all()) |device| sum += device.explicit_contexts;
    return sum;
}

const expectCode = @import("testing.zig").expectCode;
const testing = @import("testing.zig");

test "set and reset are counted; a reset too many is 507007" {
    defer testing.cleanUp();
    try expectCode(107001, set(-1));
    try expectCode(107001, set(1));
    try expectCode(507007, reset(0));
    try expectCode(0, set(0));
    try expectCode(0, set(0));
    try expectCode(0, reset(0));
    var id: i32 = -1;
    try expectCode(0, get(&id));
    try std.testing.expectEqual(0, id);
    try expectCode(0, reset(0));
    try expectCode(107002, get(&id));
    try expectCode(507007, reset(0));
    try expectCode(507007, resetForce(0));
    try expectCode(107001, resetForce(7));
    try expectCode(0, set(0));
    try expectCode(0, set(0));
    try expectCode(0, resetForce(0));
    try expectCode(507007, resetForce(0));
    try expectCode(507007, reset(0));
}

test "contexts" {
    defer testing.cleanUp();
    var primary: acl.Context = null;
    var explicit: acl.Context = null;
    var seen: acl.Context = null;
    try expectCode(107002, getCurrentContext(&seen));
    try expectCode(100000, getCurrentContext(null));
    try expectCode(0, set(0));
    try expectCode(0, getCurrentContext(&primary));
    try expectCode(107002, destroyContext(primary));
    try expectCode(100000, createContext(null, 0));
    try expectCode(107001, createContext(&explicit, 9));
    try expectCode(0, createContext(&explicit, 0));
    try expectCode(0, getCurrentContext(&seen));
    try std.testing.expectEqual(explicit, seen);
    try expectCode(0, set(0));
    try expectCode(0, getCurrentContext(&seen));
    try std.testing.expectEqual(primary, seen);
    try expectCode(0, setCurrentContext(explicit));
    try expectCode(0, destroyContext(explicit));
    try expectCode(107002, getCurrentContext(&seen));
    try expectCode(107002, destroyContext(explicit));
    try expectCode(107000, setCurrentContext(explicit));
    try expectCode(100000, setCurrentContext(null));
}

test "peers" {
    defer testing.cleanUp();
    var can: i32 = 5;
    try expectCode(100000, canAccessPeer(&can, 0, 0));
    try expectCode(107001, canAccessPeer(&can, 0, 1));
    try expectCode(200006, enablePeerAccess(1, 1));
    try expectCode(107002, enablePeerAccess(1, 0));
    try expectCode(0, set(0));
    try expectCode(100000, enablePeerAccess(0, 0));
}

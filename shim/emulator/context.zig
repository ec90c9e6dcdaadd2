//! Contexts. Each thread has a current context, remembered by handle, so that a destroyed one is recognised as gone.

const std = @import("std");
const acl = @import("acl");
const block = @import("block.zig");
const config = @import("config.zig");
const device_module = @import("device.zig");
const errors = @import("errors.zig");
const graph = @import("graph.zig");
const handles = @import("handles.zig");
const mapping = @import("mapping.zig");
const physical_handle = @import("physical_handle.zig");
const stream_module = @import("stream.zig");
const Device = device_module.Device;
const Stream = stream_module.Stream;
const allocator = std.heap.c_allocator;

pub const Context = struct {
    handle: u64 = 0,
    device: *Device,
    is_primary: bool,
    default_stream: ?*Stream = null,
};

pub var registry: handles.Registry(Context, .context) = .{};
/// User id of the device for threads that never chose one. The configuration file of aclInit sets it.
pub var default_device: ?i32 = null;
threadlocal var current_handle: u64 = 0;

/// The thread's context, or null. A thread without one gets the default device, if that is configured and can be
/// opened.
pub fn current() ?*Context {
    if (registry.items.get(current_handle)) |context| return context;
    const default = device_module.byUserId(default_device orelse return null) orelse return null;
    return openPrimary(default) catch null; // then the thread has no context, and its call says so
}

pub fn makeCurrent(context: *const Context) void {
    current_handle = context.handle;
}

pub fn noContext() acl.Error {
    return errors.fail(acl.code.rt_context_null, "the thread has no current context");
}

/// Adds a reference of aclrtSetDevice.
pub fn openPrimary(device: *Device) error{OutOfMemory}!*Context {
    const context = registry.items.get(device.primary_context) orelse try create(device, true);
    device.primary_context = context.handle;
    device.set_references += 1;
    makeCurrent(context);
    return context;
}

pub fn hasPrimary(device: *const Device) bool {
    return registry.items.get(device.primary_context) != null;
}

pub fn openExplicit(device: *Device) error{OutOfMemory}!*Context {
    const context = try create(device, false);
    device.explicit_contexts += 1;
    return context;
}

fn create(device: *Device, is_primary: bool) error{OutOfMemory}!*Context {
    const context = try allocator.create(Context);
    errdefer allocator.destroy(context);
    context.* = .{ .device = device, .is_primary = is_primary };
    context.handle = try registry.add(context);
    if (!device.isOpen()) device.pool.openRuntime(config.get().runtime_bytes);
    device.pool.keep(config.get().pool_bytes);
    device_module.ever_opened = true;
    makeCurrent(context);
    return context;
}

/// Ends the context's streams. The last context of a device takes everything with it that the process has on the
/// device. The caller has dropped the reference that held the context.
pub fn close(context: *Context, force: bool) void {
    const device = context.device;
    registry.remove(context.handle);
    stream_module.closeAllOf(context.handle, force);
    graph.dropContext(context.handle);
    allocator.destroy(context);
    if (device.isOpen()) return;
    mapping.dropDevice(device.user_id);
    block.dropDevice(device.user_id);
    physical_handle.dropDevice(device.user_id);
    device.pool.keep(0);
    device.pool.closeRuntime();
}

/// Finds the stream that a call means, and checks in the runtime's order: handle, then context. Null means the default
/// stream.
pub fn resolveStream(handle: acl.Stream, out: **Stream) acl.Error {
    if (stream_module.isStale(handle)) return stream_module.stale();
    const context = current() orelse return noContext();
    if (stream_module.registry.get(handle)) |stream| {
        out.* = stream;
        return acl.code.success;
    }
    const stream = context.default_stream orelse
        stream_module.create(context.handle, context.device.user_id, true) catch
        return errors.fail(acl.code.rt_no_stream_resource, "out of host memory");
    context.default_stream = stream;
    out.* = stream;
    return acl.code.success;
}

/// As `resolveStream`, for calls that accept streams of the current context only.
pub fn resolveOwnStream(handle: acl.Stream, out: **Stream) acl.Error {
    const code = resolveStream(handle, out);
    if (code != acl.code.success) return code;
    const context = current() orelse return noContext();
    if (out.*.context != context.handle)
        return errors.fail(acl.code.rt_stream_context, "the stream belongs to another context");
    return acl.code.success;
}

//! The program's contexts, so that a plan can wait for the work in each of them: AscendCL waits for one context at a
//! time. Also how often the program holds each device, to know when it lets go of it.

const std = @import("std");
const core = @import("core");
const acl = @import("acl");
const real = @import("real.zig");
const Failure = core.status.Failure;
const Runtime = core.runtime.Runtime;
const heap = core.heap.allocator;
const owed = @import("owed.zig");

const Known = struct { context: *anyopaque, device: u32, is_primary: bool };

/// Held while a context is in use here, so that the program cannot destroy it meanwhile.
var mutex: core.sync.Mutex = .{};
var known: std.ArrayList(Known) = .empty;
/// Of aclrtSetDevice, by device.
var holds: [core.runtime.max_devices]u32 = @splat(0);
/// Calls of the program that wait for `mutex`.
var waiting: std.atomic.Value(u32) = .init(0);

/// Graphs that are being captured.
var captures: std.atomic.Value(u32) = .init(0);

pub fn beginCapture() void {
    lock(); // no wait for a device is under way
    defer unlock();
    _ = captures.fetchAdd(1, .acq_rel);
}

pub fn endCapture() void {
    var seen = captures.load(.acquire);
    while (seen > 0) seen = captures.cmpxchgWeak(seen, seen - 1, .acq_rel, .acquire) orelse return;
}

pub fn isCapturing() bool {
    return captures.load(.acquire) > 0;
}

/// Waiting is cut into pieces, between which the program's calls get their turn.
const slice_ms = 10;

pub fn lock() void {
    _ = waiting.fetchAdd(1, .acq_rel);
    mutex.lock();
    _ = waiting.fetchSub(1, .acq_rel);
}

pub fn unlock() void {
    mutex.unlock();
}

/// Records the current context of this thread as the program's.
pub fn noteCurrent(device: u32, is_primary: bool) void {
    const getCurrent = real.function("aclrtGetCurrentContext", fn (*acl.Context) callconv(.c) acl.Error) orelse return;
    var context: acl.Context = null;
    if (getCurrent(&context) != acl.code.success) return;
    note(context orelse return, device, is_primary);
}

pub fn note(context: *anyopaque, device: u32, is_primary: bool) void {
    lock();
    defer unlock();
    for (known.items) |*entry| if (entry.context == context) {
        entry.is_primary = entry.is_primary or is_primary;
        return;
    };
    // Without its record, a plan waits for the other contexts only.
    known.append(heap, .{ .context = context, .device = device, .is_primary = is_primary }) catch return;
}

/// With the lock held.
pub fn remove(context: *anyopaque) void {
    for (known.items, 0..) |entry, index| if (entry.context == context) {
        _ = known.swapRemove(index);
        return;
    };
}

/// With the lock held.
pub fn hold(device: u32) void {
    if (device < holds.len) holds[device] += 1;
}

/// The program has given a hold on a device back, or all. True when nothing of the program's is left on it. With the
/// lock held.
pub fn letGo(device: u32, all: bool) bool {
    if (device >= holds.len) return false;
    holds[device] = if (all) 0 else holds[device] -| 1;
    if (holds[device] > 0) return false;
    var index: usize = 0;
    while (index < known.items.len) {
        const entry = known.items[index];
        if (entry.device == device and entry.is_primary) _ = known.swapRemove(index) else index += 1;
    }
    return isUnused(device);
}

/// With the lock held.
pub fn isUnused(device: u32) bool {
    if (device < holds.len and holds[device] > 0) return false;
    for (known.items) |entry| if (entry.device == device) return false;
    return true;
}

/// The device of a context, if it is known. With the lock held.
pub fn deviceOf(context: *anyopaque) ?u32 {
    for (known.items) |entry| if (entry.context == context) return entry.device;
    return null;
}

pub fn forget() void {
    mutex = .{};
    waiting.store(0, .monotonic);
    known = .empty;
    holds = @splat(0);
    captures.store(0, .monotonic);
}

/// The device of this thread's context.
pub fn currentDevice() ?u32 {
    const getDevice = real.function("aclrtGetDevice", fn (*i32) callconv(.c) acl.Error) orelse return null;
    var device: i32 = 0;
    if (getDevice(&device) != acl.code.success or device < 0) return null;
    return @intCast(device);
}

/// Waits for what the program has given to a device. For threads of the library: their current context changes.
pub fn synchronize(
    runtime: *Runtime,
    device: u32,
    interrupt: ?core.sync.Interrupt,
    failure: *Failure,
) core.status.Error!void {
    var index: usize = 0;
    while (true) {
        if (interrupt) |given| try given.check();
        while (waiting.load(.acquire) > 0 or captures.load(.acquire) > 0) {
            if (interrupt) |given| try given.check();
            core.sync.sleep(100 * std.time.ns_per_us);
        }
        mutex.lock();
        defer mutex.unlock();
        while (index < known.items.len and known.items[index].device != device) index += 1;
        if (index >= known.items.len) return;
        if (try isDone(runtime, device, known.items[index].context, failure)) index += 1;
    }
}

/// Waits for one context, for a moment. With the lock held.
fn isDone(runtime: *Runtime, device: u32, context: *anyopaque, failure: *Failure) core.status.Error!bool {
    const api = &runtime.library.api;
    const entered = api.aclrtSetCurrentContext(context);
    if (entered == acl.code.rt_param_invalid or entered == acl.code.rt_context_null) {
        remove(context); // the program has destroyed it past the library
        return false;
    }
    try runtime.check("aclrtSetCurrentContext", entered, 0, 0, failure);
    return waitForDevice(runtime, device, failure);
}

/// What this takes of the program's failures is owed to it.
fn waitForDevice(runtime: *Runtime, device: u32, failure: *Failure) core.status.Error!bool {
    const is_copying = runtime.device_waits[device].isCopying();
    return runtime.waitForDevice(device, slice_ms, failure) catch |err| {
        if (!is_copying) owed.note(device, failure.acl_code);
        return err;
    };
}

/// Whether the current context of this thread, which is one of the program's, has no work left, and no other context
/// could have. Waits for a moment at most, and leaves the thread's context as it is.
pub fn isIdle(runtime: *Runtime, device: u32) bool {
    if (runtime.library.api.aclrtSynchronizeDeviceWithTimeout == null) return false;
    var current: acl.Context = null;
    if (runtime.library.api.aclrtGetCurrentContext(&current) != acl.code.success) return false;
    lock();
    defer unlock();
    if (captures.load(.acquire) > 0) return false;
    var count: usize = 0;
    for (known.items) |entry| {
        if (entry.device != device) continue;
        if (entry.context != current) return false;
        count += 1;
    }
    var ignored: Failure = .{};
    return count == 1 and (waitForDevice(runtime, device, &ignored) catch false);
}

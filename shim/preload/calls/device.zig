//! The program's initialisation, devices and contexts. All of these calls do what they do without the library, with
//! the same results; the library looks on, and lets go of a device when the program does.

const acl = @import("acl");
const core = @import("core");
const contexts = @import("../contexts.zig");
const owed = @import("../owed.zig");
const real = @import("../real.zig");
const refusal = @import("../refusal.zig");
const reset = @import("../reset.zig");
const start = @import("../start.zig");

pub fn aclrtSetDevice(device: i32) callconv(.c) acl.Error {
    const call = real.function("aclrtSetDevice", fn (i32) callconv(.c) acl.Error) orelse return refusal.missing;
    const code = call(device);
    if (code != acl.code.success or device < 0) return code;
    contexts.noteCurrent(@intCast(device), true);
    contexts.lock();
    defer contexts.unlock();
    contexts.hold(@intCast(device));
    return code;
}

pub fn aclrtResetDevice(device: i32) callconv(.c) acl.Error {
    return letGo("aclrtResetDevice", device, false);
}

pub fn aclrtResetDeviceForce(device: i32) callconv(.c) acl.Error {
    return letGo("aclrtResetDeviceForce", device, true);
}

pub fn aclrtSynchronizeDevice() callconv(.c) acl.Error {
    const call = real.function("aclrtSynchronizeDevice", fn () callconv(.c) acl.Error) orelse return refusal.missing;
    return waitForDevice(call, .{});
}

pub fn aclrtSynchronizeDeviceWithTimeout(milliseconds: i32) callconv(.c) acl.Error {
    const Call = fn (i32) callconv(.c) acl.Error;
    const call = real.function("aclrtSynchronizeDeviceWithTimeout", Call) orelse return refusal.missing;
    return waitForDevice(call, .{milliseconds});
}

/// The wait may take the failure of one of our copies. While these run the device has no work of the program's: the
/// failure is ours alone, and the program waits again.
pub fn waitForDevice(call: anytype, arguments: anytype) acl.Error {
    const session = start.current() orelse return @call(.auto, call, arguments);
    const device = contexts.currentDevice() orelse return @call(.auto, call, arguments);
    if (device >= core.runtime.max_devices) return @call(.auto, call, arguments);
    const waits = &session.runtime.device_waits[device];
    var code: acl.Error = undefined;
    for (0..2) |_| {
        const side = waits.begin();
        const was_copying = waits.isCopying();
        code = @call(.auto, call, arguments);
        const has_failed = core.status.isFailedWait(code);
        const is_ours = has_failed and (was_copying or waits.isCopying());
        waits.end(side, if (has_failed) code else null);
        if (!is_ours) break;
    }
    return owed.resultOf(device, code);
}

pub fn aclrtSynchronizeStream(stream: acl.Stream) callconv(.c) acl.Error {
    const Call = fn (acl.Stream) callconv(.c) acl.Error;
    const call = real.function("aclrtSynchronizeStream", Call) orelse return refusal.missing;
    return withOwed(call(stream));
}

pub fn aclrtSynchronizeStreamWithTimeout(stream: acl.Stream, milliseconds: i32) callconv(.c) acl.Error {
    const Call = fn (acl.Stream, i32) callconv(.c) acl.Error;
    const call = real.function("aclrtSynchronizeStreamWithTimeout", Call) orelse return refusal.missing;
    return withOwed(call(stream, milliseconds));
}

fn withOwed(code: acl.Error) acl.Error {
    if (!owed.isAny()) return code;
    return owed.resultOf(contexts.currentDevice() orelse return code, code);
}

fn letGo(comptime name: [:0]const u8, device: i32, all: bool) acl.Error {
    const call = real.function(name, fn (i32) callconv(.c) acl.Error) orelse return refusal.missing;
    const is_last = blk: {
        contexts.lock(); // no plan uses a context that ends
        defer contexts.unlock();
        const code = call(device);
        if (code != acl.code.success or device < 0) return code;
        break :blk contexts.letGo(@intCast(device), all);
    };
    if (is_last) reset.letGoOf(@intCast(device));
    return acl.code.success;
}

pub fn aclrtCreateContext(context: ?*acl.Context, device: i32) callconv(.c) acl.Error {
    const Call = fn (?*acl.Context, i32) callconv(.c) acl.Error;
    const call = real.function("aclrtCreateContext", Call) orelse return refusal.missing;
    const code = call(context, device);
    if (code != acl.code.success or device < 0) return code;
    const created = (context orelse return code).* orelse return code;
    contexts.note(created, @intCast(device), false);
    return code;
}

pub fn aclrtDestroyContext(context: acl.Context) callconv(.c) acl.Error {
    const Call = fn (acl.Context) callconv(.c) acl.Error;
    const call = real.function("aclrtDestroyContext", Call) orelse return refusal.missing;
    const left = blk: {
        contexts.lock();
        defer contexts.unlock();
        const code = call(context);
        if (code != acl.code.success) return code;
        const destroyed = context orelse return code;
        const device = contexts.deviceOf(destroyed) orelse return code;
        contexts.remove(destroyed);
        break :blk if (contexts.isUnused(device)) device else null;
    };
    if (left) |device| reset.letGoOf(device);
    return acl.code.success;
}

pub fn aclInit(path: ?[*:0]const u8) callconv(.c) acl.Error {
    const call = real.function("aclInit", fn (?[*:0]const u8) callconv(.c) acl.Error) orelse return refusal.missing;
    const code = call(path);
    if (code == acl.code.success) reset.is_finalized.store(false, .release);
    return code;
}

/// Ends AscendCL however often it was initialised. What the library holds goes back before: afterwards no call works.
pub fn aclFinalize() callconv(.c) acl.Error {
    const call = real.function("aclFinalize", fn () callconv(.c) acl.Error) orelse return refusal.missing;
    if (!reset.is_finalized.load(.acquire)) reset.closeAll();
    const code = call();
    if (code == acl.code.success) reset.is_finalized.store(true, .release);
    return code;
}

/// Ends AscendCL with the last reference, which only AscendCL knows.
pub fn aclFinalizeReference(reference_count: ?*u64) callconv(.c) acl.Error {
    const Call = fn (?*u64) callconv(.c) acl.Error;
    const call = real.function("aclFinalizeReference", Call) orelse return refusal.missing;
    var left: u64 = 1;
    const code = call(&left);
    if (reference_count) |out| out.* = left;
    if (code == acl.code.success and left == 0) {
        reset.is_finalized.store(true, .release);
        reset.closeAll();
    }
    return code;
}

//! AscendCL's calls on devices.

const std = @import("std");
const acl = @import("acl");
const config = @import("../config.zig");
const context_module = @import("../context.zig");
const device_module = @import("../device.zig");
const errors = @import("../errors.zig");
const lock = @import("../lock.zig");

const soc_name = "Ascend910B-emulated";
const soc_name_modelled = soc_name ++ " (timing model)";

pub fn aclrtGetRunMode(mode: ?*c_int) acl.Error {
    const out = mode orelse return errors.fail(acl.code.invalid_param, "runMode is NULL");
    out.* = acl.RunMode.host;
    return acl.code.success;
}

pub fn aclrtGetSocName() ?[*:0]const u8 {
    return if (config.get().timing.is_on) soc_name_modelled else soc_name;
}

pub fn aclrtGetDeviceCount(count: ?*u32) acl.Error {
    const out = count orelse return errors.fail(acl.code.invalid_param, "count is NULL");
    const problem = config.check();
    if (problem != acl.code.success) return problem;
    if (config.get().visible_list_invalid)
        return errors.fail(acl.code.rt_no_device, "ASCEND_RT_VISIBLE_DEVICES names no device or is out of order");
    lock.enter();
    defer lock.leave();
    out.* = @intCast(device_module.all().len);
    return acl.code.success;
}

pub fn aclrtSetDevice(device_id: i32) acl.Error {
    lock.enter();
    defer lock.leave();
    const device = device_module.byUserId(device_id) orelse return device_module.unknownDevice();
    _ = context_module.openPrimary(device) catch
        return errors.fail(acl.code.rt_dev_setup_error, "out of host memory");
    return acl.code.success;
}

pub fn aclrtGetDevice(device_id: ?*i32) acl.Error {
    const out = device_id orelse return errors.fail(acl.code.invalid_param, "deviceId is NULL");
    lock.enter();
    defer lock.leave();
    const context = context_module.current() orelse return context_module.noContext();
    out.* = context.device.user_id;
    return acl.code.success;
}

pub fn aclrtResetDevice(device_id: i32) acl.Error {
    return releaseReferences(device_id, false);
}

pub fn aclrtResetDeviceForce(device_id: i32) acl.Error {
    return releaseReferences(device_id, true);
}

fn releaseReferences(device_id: i32, force: bool) acl.Error {
    lock.enter();
    defer lock.leave();
    const device = device_module.byUserId(device_id) orelse return device_module.unknownDevice();
    const primary = context_module.registry.items.get(device.primary_context) orelse
        return errors.fail(acl.code.rt_context_release_error, "the device is not set or was released already");
    device.set_references = if (force) 0 else device.set_references - 1;
    if (device.set_references > 0) return acl.code.success;
    device.primary_context = 0;
    context_module.close(primary, force);
    return acl.code.success;
}

pub fn aclrtDeviceCanAccessPeer(can: ?*i32, device_id: i32, peer: i32) acl.Error {
    if (device_id == peer) return ownPeer();
    lock.enter();
    defer lock.leave();
    if (device_module.byUserId(peer) == null) return device_module.unknownDevice();
    if (device_module.byUserId(device_id) == null) return errors.fail(acl.code.rt_param_invalid, "no such device");
    const out = can orelse return errors.fail(acl.code.rt_param_invalid, "canAccessPeer is NULL");
    out.* = 1;
    return acl.code.success;
}

pub fn aclrtDeviceEnablePeerAccess(peer: i32, flags: u32) acl.Error {
    if (flags != 0) return errors.fail(acl.code.feature_unsupported, "flags must be 0");
    lock.enter();
    defer lock.leave();
    const context = context_module.current() orelse return context_module.noContext();
    if (context.device.user_id == peer) return ownPeer();
    if (device_module.byUserId(peer) == null) return device_module.unknownDevice();
    return acl.code.success;
}

/// Peers need no enabling, so nothing changes.
pub fn aclrtDeviceDisablePeerAccess(peer: i32) acl.Error {
    return aclrtDeviceEnablePeerAccess(peer, 0);
}

fn ownPeer() acl.Error {
    return errors.fail(acl.code.invalid_param, "a device is not its own peer");
}

pub fn aclrtDeviceGetBareTgid(pid: ?*i32) acl.Error {
    const out = pid orelse return errors.fail(acl.code.invalid_param, "pid is NULL");
    out.* = std.os.linux.getpid();
    return acl.code.success;
}

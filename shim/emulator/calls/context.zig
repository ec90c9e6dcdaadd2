//! AscendCL's calls on contexts.

const acl = @import("acl");
const context_module = @import("../context.zig");
const device_module = @import("../device.zig");
const errors = @import("../errors.zig");
const handles = @import("../handles.zig");
const lock = @import("../lock.zig");
const Stream = @import("../stream.zig").Stream;

pub fn aclrtCreateContext(context: ?*acl.Context, device_id: i32) acl.Error {
    const out = context orelse return contextIsNull();
    lock.enter();
    defer lock.leave();
    const device = device_module.byUserId(device_id) orelse return device_module.unknownDevice();
    const created = context_module.openExplicit(device) catch
        return errors.fail(acl.code.rt_resource_alloc_fail, "out of host memory");
    out.* = handles.toPointer(created.handle);
    return acl.code.success;
}

pub fn aclrtDestroyContext(handle: acl.Context) acl.Error {
    if (handle == null) return contextIsNull();
    lock.enter();
    defer lock.leave();
    const context = context_module.registry.get(handle) orelse
        return errors.fail(acl.code.rt_context_null, "no such context, or destroyed already");
    if (context.is_primary)
        return errors.fail(acl.code.rt_context_null, "the primary context belongs to aclrtSetDevice");
    context.device.explicit_contexts -= 1;
    context_module.close(context, false);
    return acl.code.success;
}

pub fn aclrtSetCurrentContext(handle: acl.Context) acl.Error {
    if (handle == null) return contextIsNull();
    lock.enter();
    defer lock.leave();
    const context = context_module.registry.get(handle) orelse
        return errors.fail(acl.code.rt_param_invalid, "the context is stale");
    context_module.makeCurrent(context);
    return acl.code.success;
}

pub fn aclrtGetCurrentContext(handle: ?*acl.Context) acl.Error {
    const out = handle orelse return contextIsNull();
    lock.enter();
    defer lock.leave();
    const context = context_module.current() orelse return context_module.noContext();
    out.* = handles.toPointer(context.handle);
    return acl.code.success;
}

pub fn aclrtGetPrimaryCtxState(device_id: i32, flags: ?*u32, active: ?*i32) acl.Error {
    const out = active orelse return errors.fail(acl.code.invalid_param, "active is NULL");
    if (flags != null) return errors.fail(acl.code.invalid_param, "flags is reserved and must be NULL");
    lock.enter();
    defer lock.leave();
    const device = device_module.byUserId(device_id) orelse return device_module.unknownDevice();
    out.* = @intFromBool(context_module.hasPrimary(device));
    return acl.code.success;
}

pub fn aclrtCtxGetCurrentDefaultStream(handle: ?*acl.Stream) acl.Error {
    const out = handle orelse return errors.fail(acl.code.invalid_param, "stream is NULL");
    lock.enter();
    defer lock.leave();
    var stream: *Stream = undefined;
    const code = context_module.resolveStream(null, &stream);
    if (code != acl.code.success) return code;
    out.* = handles.toPointer(stream.handle);
    return acl.code.success;
}

fn contextIsNull() acl.Error {
    return errors.fail(acl.code.invalid_param, "context is NULL");
}

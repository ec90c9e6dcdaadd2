//! Physical memory of the program: virtual handles stand for it.

const acl = @import("acl");
const core = @import("core");
const handles = @import("../handles.zig");
const passage = @import("../passage.zig");
const real = @import("../real.zig");
const refusal = @import("../refusal.zig");
const release = @import("../release.zig");
const room = @import("../room.zig");
const sharing = @import("../sharing.zig");
const start = @import("../start.zig");
const gate = @import("../gate.zig");

const Property = ?*const acl.PhysicalMemProp;

pub fn aclrtMallocPhysical(handle: ?*acl.DrvMemHandle, size: usize, prop: Property, flags: u64) callconv(.c) acl.Error {
    const Call = fn (?*acl.DrvMemHandle, usize, Property, u64) callconv(.c) acl.Error;
    const call = real.function("aclrtMallocPhysical", Call) orelse return refusal.missing;
    const session = start.session();
    var code = call(handle, size, prop, flags);
    for (0..room.most_attempts) |_| {
        if (code != acl.code.rt_memory_allocation) break;
        if (!room.make(session orelse break)) break;
        code = call(handle, size, prop, flags);
    }
    if (code != acl.code.success or session == null) return code;
    const out = handle orelse return code;
    const wanted = prop orelse return code;
    if (wanted.location.type != acl.MemLocationType.device) return code;
    handles.mutex.lock();
    defer handles.mutex.unlock();
    // Without a record, the program has AscendCL's handle and its memory stays on the device.
    const number = handles.add(.{ .physical = out.*, .size_bytes = size, .prop = wanted.* }) catch return code;
    out.* = @ptrFromInt(number);
    return code;
}

pub fn aclrtFreePhysical(handle: acl.DrvMemHandle) callconv(.c) acl.Error {
    const call = real.function("aclrtFreePhysical", fn (acl.DrvMemHandle) callconv(.c) acl.Error) orelse
        return refusal.missing;
    if (!handles.isVirtual(handle)) return call(handle);
    const session = start.current() orelse return refusal.stale_handle;
    handles.mutex.lock();
    defer handles.mutex.unlock();
    const own = handles.get(handle) orelse return refusal.stale_handle;
    if (own.references == 0) return acl.code.rt_param_invalid;
    own.references -= 1;
    if (own.references > 0 or own.mappings > 0) return acl.code.success;
    if (own.isParked()) {
        const address, const segment_id = .{ own.address, own.segment_id };
        handles.remove(@intFromPtr(handle));
        release.release(session, address, segment_id);
        return acl.code.success;
    }
    const code = handles.freeIfUnused(session, @intFromPtr(handle));
    if (code != acl.code.success) own.references += 1;
    return code;
}

pub fn aclrtMemGetAllocationPropertiesFromHandle(
    handle: acl.DrvMemHandle,
    prop: ?*acl.PhysicalMemProp,
) callconv(.c) acl.Error {
    const Call = fn (acl.DrvMemHandle, ?*acl.PhysicalMemProp) callconv(.c) acl.Error;
    const call = real.function("aclrtMemGetAllocationPropertiesFromHandle", Call) orelse return refusal.missing;
    if (!handles.isVirtual(handle) or prop == null) return call(handle, prop);
    handles.mutex.lock();
    defer handles.mutex.unlock();
    const own = handles.get(handle) orelse return refusal.stale_handle;
    if (!own.isSegment()) return call(own.physical, prop);
    // A plan may take the physical memory away at any moment, so the answer does not depend on it.
    prop.?.* = own.reported;
    return acl.code.success;
}

pub fn aclrtMemExportToShareableHandle(
    handle: acl.DrvMemHandle,
    handle_type: c_int,
    flags: u64,
    shareable: ?*u64,
) callconv(.c) acl.Error {
    const Call = fn (acl.DrvMemHandle, c_int, u64, ?*u64) callconv(.c) acl.Error;
    const call = real.function("aclrtMemExportToShareableHandle", Call) orelse return refusal.missing;
    const Export = struct {
        call: *const Call,
        handle_type: c_int,
        flags: u64,
        shareable: ?*u64,

        pub fn run(self: @This(), physical: acl.DrvMemHandle) acl.Error {
            return self.call(physical, self.handle_type, self.flags, self.shareable);
        }
    };
    return sharing.shareHandle(handle, Export{
        .call = call,
        .handle_type = handle_type,
        .flags = flags,
        .shareable = shareable,
    });
}

pub fn aclrtMemExportToShareableHandleV2(
    handle: acl.DrvMemHandle,
    flags: u64,
    share_type: c_int,
    shareable: ?*anyopaque,
) callconv(.c) acl.Error {
    const Call = fn (acl.DrvMemHandle, u64, c_int, ?*anyopaque) callconv(.c) acl.Error;
    const call = real.function("aclrtMemExportToShareableHandleV2", Call) orelse return refusal.missing;
    const Export = struct {
        call: *const Call,
        flags: u64,
        share_type: c_int,
        shareable: ?*anyopaque,

        pub fn run(self: @This(), physical: acl.DrvMemHandle) acl.Error {
            return self.call(physical, self.flags, self.share_type, self.shareable);
        }
    };
    return sharing.shareHandle(handle, Export{
        .call = call,
        .flags = flags,
        .share_type = share_type,
        .shareable = shareable,
    });
}

//! Questions about addresses. They are answered while the memory is asleep as they are while it is awake.

const acl = @import("acl");
const memory = @import("../memory.zig");
const real = @import("../real.zig");
const refusal = @import("../refusal.zig");
const small = @import("../small.zig");

const asleep_page_bytes = 2 << 20;

pub fn aclrtPointerGetAttributes(pointer: ?*const anyopaque, attributes: ?*acl.PtrAttributes) callconv(.c) acl.Error {
    const Call = fn (?*const anyopaque, ?*acl.PtrAttributes) callconv(.c) acl.Error;
    const call = real.function("aclrtPointerGetAttributes", Call) orelse return refusal.missing;
    const code = call(pointer, attributes);
    if (code == acl.code.success or pointer == null) return code;
    const out = attributes orelse return code;
    const found = memory.find(@intFromPtr(pointer)) orelse return code;
    if (found.segment_id == 0) return code;
    out.* = .{
        .location = .{ .id = found.device, .type = acl.MemLocationType.device },
        .page_size = asleep_page_bytes,
    };
    return acl.code.success;
}

pub fn aclrtMemGetAddressRange(
    pointer: ?*anyopaque,
    base: ?*?*anyopaque,
    size: ?*usize,
) callconv(.c) acl.Error {
    const Call = fn (?*anyopaque, ?*?*anyopaque, ?*usize) callconv(.c) acl.Error;
    const call = real.function("aclrtMemGetAddressRange", Call) orelse return refusal.missing;
    const range = rangeOf(@intFromPtr(pointer)) orelse return call(pointer, base, size);
    if (base == null and size == null) return acl.code.rt_param_invalid;
    if (base) |out| out.* = @ptrFromInt(range.start);
    if (size) |out| out.* = range.size_bytes;
    return acl.code.success;
}

/// The allocation or mapping of the program that an address is in.
fn rangeOf(address: u64) ?small.Allocation {
    const found = memory.find(address) orelse return null;
    return switch (found.kind) {
        .unmanaged => null,
        .chunk => small.allocationAt(address),
        .segment, .mapping => .{ .start = found.start, .size_bytes = found.size_bytes },
    };
}

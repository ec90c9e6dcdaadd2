//! Copies and fills: they wait at the gate, and their targets are remembered.

const acl = @import("acl");
const passage = @import("../passage.zig");
const memory = @import("../memory.zig");
const real = @import("../real.zig");
const refusal = @import("../refusal.zig");
const written = @import("../written.zig");

const Pointer = ?*anyopaque;
const Source = ?*const anyopaque;
const kind = acl.MemcpyKind;

/// What a copy of a kind writes to device memory from. `default` says nothing: the source decides.
fn noteCopy(target: Pointer, source: Source, copy_kind: c_int) void {
    switch (copy_kind) {
        kind.host_to_device, kind.host_to_buf_to_device => written.note(target, .{ .host = true }),
        kind.device_to_device => written.note(target, .{ .device = true }),
        kind.default => if (memory.isKnown(source))
            written.note(target, .{ .device = true })
        else
            written.note(target, .{ .host = true }),
        else => {},
    }
}

pub fn aclrtMemcpy(target: Pointer, room: usize, source: Source, size: usize, copy_kind: c_int) callconv(.c) acl.Error {
    const Call = fn (Pointer, usize, Source, usize, c_int) callconv(.c) acl.Error;
    const call = real.function("aclrtMemcpy", Call) orelse return refusal.missing;
    if (!passage.enter()) return refusal.asleep;
    defer passage.leave();
    noteCopy(target, source, copy_kind);
    return call(target, room, source, size, copy_kind);
}

pub fn aclrtMemcpyAsync(
    target: Pointer,
    room: usize,
    source: Source,
    size: usize,
    copy_kind: c_int,
    stream: acl.Stream,
) callconv(.c) acl.Error {
    const Call = fn (Pointer, usize, Source, usize, c_int, acl.Stream) callconv(.c) acl.Error;
    const call = real.function("aclrtMemcpyAsync", Call) orelse return refusal.missing;
    if (!passage.enter()) return refusal.asleep;
    defer passage.leave();
    noteCopy(target, source, copy_kind);
    return call(target, room, source, size, copy_kind, stream);
}

pub fn aclrtMemset(target: Pointer, room: usize, value: i32, size: usize) callconv(.c) acl.Error {
    const Call = fn (Pointer, usize, i32, usize) callconv(.c) acl.Error;
    const call = real.function("aclrtMemset", Call) orelse return refusal.missing;
    if (!passage.enter()) return refusal.asleep;
    defer passage.leave();
    written.note(target, .{ .fill = true });
    return call(target, room, value, size);
}

pub fn aclrtMemsetAsync(
    target: Pointer,
    room: usize,
    value: i32,
    size: usize,
    stream: acl.Stream,
) callconv(.c) acl.Error {
    const Call = fn (Pointer, usize, i32, usize, acl.Stream) callconv(.c) acl.Error;
    const call = real.function("aclrtMemsetAsync", Call) orelse return refusal.missing;
    if (!passage.enter()) return refusal.asleep;
    defer passage.leave();
    written.note(target, .{ .fill = true });
    return call(target, room, value, size, stream);
}

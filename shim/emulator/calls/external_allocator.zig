//! Allocators that a program registers for the work of a stream. Only operators and models call them, so the emulator
//! keeps them and returns them.

const std = @import("std");
const acl = @import("acl");
const errors = @import("../errors.zig");
const handles = @import("../handles.zig");
const lock = @import("../lock.zig");
const allocator = std.heap.c_allocator;

const invalid = acl.code.invalid_param;

const AllocateFunction = *const fn (object: ?*anyopaque, size: usize) callconv(.c) ?*anyopaque;
const FreeFunction = *const fn (object: ?*anyopaque, block: ?*anyopaque) callconv(.c) void;
const AdviseFunction = *const fn (object: ?*anyopaque, size: usize, address: ?*anyopaque) callconv(.c) ?*anyopaque;
const AddressFunction = *const fn (block: ?*anyopaque) callconv(.c) ?*anyopaque;

const Description = struct {
    handle: u64 = 0,
    object: ?*anyopaque = null,
    allocate: ?AllocateFunction = null,
    free: ?FreeFunction = null,
    advise: ?AdviseFunction = null,
    address: ?AddressFunction = null,
};

var descriptions: handles.Registry(Description, .allocator_description) = .{};
/// By stream. A later change of the description does not reach what was registered.
var registered: std.AutoHashMapUnmanaged(u64, Description) = .empty;

/// NULL when the host has no memory. The caller frees it with aclrtAllocatorDestroyDesc.
pub fn aclrtAllocatorCreateDesc() ?*anyopaque {
    lock.enter();
    defer lock.leave();
    const description = allocator.create(Description) catch return null;
    description.* = .{};
    description.handle = descriptions.add(description) catch {
        allocator.destroy(description);
        return null;
    };
    return handles.toPointer(description.handle);
}

pub fn aclrtAllocatorDestroyDesc(handle: ?*anyopaque) acl.Error {
    lock.enter();
    defer lock.leave();
    const description = descriptions.get(handle) orelse return unknown();
    descriptions.remove(description.handle);
    allocator.destroy(description);
    return acl.code.success;
}

fn unknown() acl.Error {
    return errors.fail(invalid, "allocatorDesc is NULL, or no description");
}

fn set(handle: ?*anyopaque, comptime field: []const u8, value: @FieldType(Description, field)) acl.Error {
    lock.enter();
    defer lock.leave();
    const description = descriptions.get(handle) orelse return unknown();
    if (value == null) return errors.fail(invalid, "the value is NULL");
    @field(description, field) = value;
    return acl.code.success;
}

pub fn aclrtAllocatorSetObjToDesc(handle: ?*anyopaque, object: ?*anyopaque) acl.Error {
    return set(handle, "object", object);
}

pub fn aclrtAllocatorSetAllocFuncToDesc(handle: ?*anyopaque, function: ?AllocateFunction) acl.Error {
    return set(handle, "allocate", function);
}

pub fn aclrtAllocatorSetFreeFuncToDesc(handle: ?*anyopaque, function: ?FreeFunction) acl.Error {
    return set(handle, "free", function);
}

pub fn aclrtAllocatorSetAllocAdviseFuncToDesc(handle: ?*anyopaque, function: ?AdviseFunction) acl.Error {
    return set(handle, "advise", function);
}

pub fn aclrtAllocatorSetGetAddrFromBlockFuncToDesc(handle: ?*anyopaque, function: ?AddressFunction) acl.Error {
    return set(handle, "address", function);
}

pub fn aclrtAllocatorRegister(stream: acl.Stream, handle: ?*anyopaque) acl.Error {
    if (stream == null) return errors.fail(invalid, "stream is NULL");
    lock.enter();
    defer lock.leave();
    const description = descriptions.get(handle) orelse return unknown();
    if (description.object == null or description.allocate == null or description.free == null or
        description.address == null)
        return errors.fail(invalid, "the description lacks the object or a function");
    registered.put(allocator, @intFromPtr(stream), description.*) catch
        return errors.fail(acl.code.bad_alloc, "out of host memory");
    return acl.code.success;
}

/// Fills what is not NULL.
pub fn aclrtAllocatorGetByStream(
    stream: acl.Stream,
    handle: ?*?*anyopaque,
    object: ?*?*anyopaque,
    allocate: ?*?AllocateFunction,
    free: ?*?FreeFunction,
    advise: ?*?AdviseFunction,
    address: ?*?AddressFunction,
) acl.Error {
    const out = handle orelse return errors.fail(invalid, "allocatorDesc is NULL");
    if (stream == null) return errors.fail(invalid, "stream is NULL");
    lock.enter();
    defer lock.leave();
    const found = registered.get(@intFromPtr(stream)) orelse
        return errors.fail(invalid, "no allocator is registered for the stream");
    out.* = handles.toPointer(found.handle);
    if (object) |target| target.* = found.object;
    if (allocate) |target| target.* = found.allocate;
    if (free) |target| target.* = found.free;
    if (advise) |target| target.* = found.advise;
    if (address) |target| target.* = found.address;
    return acl.code.success;
}

pub fn aclrtAllocatorUnregister(stream: acl.Stream) acl.Error {
    if (stream == null) return errors.fail(invalid, "stream is NULL");
    lock.enter();
    defer lock.leave();
    _ = registered.remove(@intFromPtr(stream));
    return acl.code.success;
}

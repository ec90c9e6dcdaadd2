//! Calls after which others may use the memory: it is pinned.

const acl = @import("acl");
const core = @import("core");
const memory = @import("../memory.zig");
const real = @import("../real.zig");
const refusal = @import("../refusal.zig");
const sharing = @import("../sharing.zig");
const start = @import("../start.zig");
const Session = core.session.Session;

const Pointer = ?*anyopaque;

pub fn aclrtIpcMemGetExportKey(
    pointer: Pointer,
    size: usize,
    key: Pointer,
    length: usize,
    flags: u64,
) callconv(.c) acl.Error {
    const Call = fn (Pointer, usize, Pointer, usize, u64) callconv(.c) acl.Error;
    const call = real.function("aclrtIpcMemGetExportKey", Call) orelse return refusal.missing;
    const Export = struct {
        call: *const Call,
        arguments: struct { Pointer, usize, Pointer, usize, u64 },

        pub fn run(self: @This()) acl.Error {
            return @call(.auto, self.call, self.arguments);
        }
    };
    const exporting: Export = .{ .call = call, .arguments = .{ pointer, size, key, length, flags } };
    return sharing.shareAddress(@intFromPtr(pointer), .ipc_key, exporting);
}

/// Registers memory with a communicator, for copies that its peers make.
pub fn HcclCommRegister(
    communicator: Pointer,
    pointer: Pointer,
    size: u64,
    handle: Pointer,
    flags: u32,
) callconv(.c) acl.Error {
    const Call = fn (Pointer, Pointer, u64, Pointer, u32) callconv(.c) acl.Error;
    const call = real.function("HcclCommRegister", Call) orelse return refusal.missing;
    const Register = struct {
        call: *const Call,
        arguments: struct { Pointer, Pointer, u64, Pointer, u32 },

        pub fn run(self: @This()) acl.Error {
            return @call(.auto, self.call, self.arguments);
        }
    };
    const registering: Register = .{ .call = call, .arguments = .{ communicator, pointer, size, handle, flags } };
    return sharing.shareAddress(@intFromPtr(pointer), .registered, registering);
}

/// Gives memory that the program has mapped to a communicator, by its physical handle.
pub fn HcclCommActivateCommMemory(
    communicator: Pointer,
    pointer: Pointer,
    size: usize,
    offset: usize,
    handle: acl.DrvMemHandle,
    flags: u64,
) callconv(.c) acl.Error {
    const Call = fn (Pointer, Pointer, usize, usize, acl.DrvMemHandle, u64) callconv(.c) acl.Error;
    const call = real.function("HcclCommActivateCommMemory", Call) orelse return refusal.missing;
    const Activate = struct {
        call: *const Call,
        communicator: Pointer,
        range: struct { pointer: Pointer, size: usize, offset: usize },
        flags: u64,

        pub fn run(self: @This(), physical: acl.DrvMemHandle) acl.Error {
            const range = self.range;
            return self.call(self.communicator, range.pointer, range.size, range.offset, physical, self.flags);
        }
    };
    return sharing.shareHandle(handle, Activate{
        .call = call,
        .communicator = communicator,
        .range = .{ .pointer = pointer, .size = size, .offset = offset },
        .flags = flags,
    });
}

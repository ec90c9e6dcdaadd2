//! The ABI of `torch.npu.memory.NPUPluggableAllocator(path, "my_malloc", "my_free")`. Any native thread may call
//! these at any time, also while a plan runs. Nothing is thrown, printed or ended here; a failure is a null.

const acl = @import("acl");
const attach = @import("attach.zig");
const status = @import("status.zig");

/// Device memory of at least `size` bytes under the tag of this thread's innermost `useMemoryPool` region, or else of
/// the other threads' regions. Null when nothing is attached, the size or device is invalid, memory is short, or a
/// thread without a region calls while others are in regions of different tags. The caller owns it until `my_free`.
/// Memory allocated while other memory sleeps, or while a plan runs, is mapped at once and not part of that plan.
pub fn my_malloc(size: isize, device: c_int, stream: acl.Stream) callconv(.c) ?*anyopaque {
    _ = stream; // the memory is mapped when we return, so no stream must wait for it
    if (size <= 0 or device < 0) return null;
    const open = attach.enter() orelse return null;
    defer attach.leave();
    const tag = open.regionTag() catch return null;
    var failure: status.Failure = .{};
    const allocation = open.allocate(@intCast(device), tag, @intCast(size), &failure) catch return null;
    return @ptrFromInt(allocation.address);
}

/// Gives memory of `my_malloc` back after waiting for its device. An unknown address is ignored. While a plan moves
/// the memory this returns at once and the plan's thread releases it when the plan has ended; memory that is asleep
/// loses its backup too. Where AscendCL refuses, the memory stays recorded and is tried again after the next plan and
/// on closing.
pub fn my_free(pointer: ?*anyopaque, size: isize, device: c_int, stream: acl.Stream) callconv(.c) void {
    _ = .{ size, device, stream }; // the table knows better
    const address = pointer orelse return;
    const open = attach.enter() orelse return;
    defer attach.leave();
    var failure: status.Failure = .{};
    open.freeAt(@intFromPtr(address), &failure) catch return;
}

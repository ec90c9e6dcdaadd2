//! A libascendcl.so without an NPU: AscendCL's own ABI over host memory.
//!
//! To add an AscendCL call, write a `pub fn` with AscendCL's name, parameters and result in the file of its concern
//! below `calls/`. That is the only place. Its export, its name for faults and timing and its call counter are
//! derived from the function at compile time. A new file below `calls/` also needs its line in `call_files`.
//!
//! Layers: `calls/` holds one file per group of AscendCL calls; a call checks its arguments in the vendor's order and
//! delegates. The files beside this one hold the state below the calls: devices, contexts, streams, events, physical
//! memory, mappings. They never import a call. Any thread may make any call; one lock guards all state (lock.zig).
//!
//! What is emulated: devices with a memory budget and exact accounting, contexts per thread, streams that execute in
//! order on threads of their own, events, graphs of one stream, aclrtMalloc and page-locked host memory, virtual
//! memory management with the codes of the driver build for Atlas A2 and A3, copies with AscendCL's rules, and sharing
//! between processes of one machine. There are no kernels: a test puts its own work on a stream with
//! aclrtLaunchHostFunc.
//!
//! Measurements are meaningful: device memory exists before it is used (physical.zig), a mapping is complete when the
//! call returns, every table is a tree or a hash, and no lock is held while bytes move. What remains is the caller's
//! code and the copy. Or the time is that of a model (timing.zig). The fault model is in faults.zig.
//!
//! Deliberate differences from a device:
//! - The CPU can read and write mapped device memory, so that tests can look at it and host functions can replace
//!   kernels. Anything reserved but not mapped faults, as on a device.
//! - New memory is poisoned in every 64 KiB where it is populated (page_mapping.zig), and is zero elsewhere.
//! - The budget is per process unless CAMEM_EMULATOR_SHARED is set, and one pool serves pages of every size.
//! - Freeing ordinary device or host memory that queued work still uses is safe: the memory lives until the work is
//!   done.
//! - Peer access needs no enabling.
//! - A forced stream destroy gives short work 100 ms to finish (stream.zig). A device would have started it long
//!   before.
//! - A child of fork() inherits tables and mappings, but no stream threads: initialise in the child only.
//! Addresses, handles and keys are not reused soon, so using a stale one is an error code instead of luck.

const std = @import("std");
const acl = @import("acl");
const held_counts = @import("held_counts.zig");
const c_function = @import("c_function");
const call_names_module = @import("call_names.zig");
const config = @import("config.zig");
const errors = @import("errors.zig");
const faults = @import("faults.zig");
const timing = @import("timing.zig");

const call_files = .{
    @import("calls/access.zig"),
    @import("calls/context.zig"),
    @import("calls/copy.zig"),
    @import("calls/copy_batch.zig"),
    @import("calls/data_type.zig"),
    @import("calls/device.zig"),
    @import("calls/event.zig"),
    @import("calls/external_allocator.zig"),
    @import("calls/fill.zig"),
    @import("calls/graph.zig"),
    @import("calls/host_memory.zig"),
    @import("calls/init.zig"),
    @import("calls/ipc_key.zig"),
    @import("calls/last_error.zig"),
    @import("calls/malloc.zig"),
    @import("calls/malloc_physical.zig"),
    @import("calls/mapping.zig"),
    @import("calls/pointer.zig"),
    @import("calls/reservation.zig"),
    @import("calls/shareable_handle.zig"),
    @import("calls/stream.zig"),
    @import("calls/value.zig"),
    @import("calls/version.zig"),
};

comptime {
    @setEvalBranchQuota(100_000);
    for (call_files) |file| {
        for (@typeInfo(file).@"struct".decls) |declaration| {
            if (isCall(declaration.name))
                @export(exported(declaration.name, @field(file, declaration.name)), .{ .name = declaration.name });
        }
    }
}

fn isCall(name: []const u8) bool {
    return std.mem.startsWith(u8, name, "acl");
}

/// The calls that can fail, and that faults and timing therefore know by name.
const call_names: call_names_module.Names = blk: {
    @setEvalBranchQuota(100_000);
    var names: []const []const u8 = &.{};
    for (call_files) |file| {
        for (@typeInfo(file).@"struct".decls) |declaration| {
            if (isCall(declaration.name) and canFail(Result(@field(file, declaration.name))))
                names = names ++ .{declaration.name};
        }
    }
    std.debug.assert(names.len <= call_names_module.max_count);
    break :blk names;
};

fn Result(comptime function: anytype) type {
    return c_function.Result(@TypeOf(function));
}

fn canFail(comptime T: type) bool {
    return T == acl.Error or T == errors.LastError;
}

fn exported(comptime name: []const u8, comptime function: anytype) *const c_function.Of(@TypeOf(function)) {
    return c_function.from(@TypeOf(function), struct {
        inline fn call(arguments: anytype) Result(function) {
            return dispatch(name, function, arguments);
        }
    }.call);
}

/// What every call has in common: it is counted, a fault may replace it, the timing model may prolong it, and the
/// thread remembers its failure.
inline fn dispatch(comptime name: []const u8, comptime function: anytype, arguments: anytype) Result(function) {
    const settings = config.load(call_names);
    if (comptime !canFail(Result(function))) return @call(.auto, function, arguments);
    const index = comptime indexOf(name);
    if (Result(function) == errors.LastError) {
        if (faults.interceptCall(index)) |code| return @enumFromInt(code);
        return @call(.auto, function, arguments);
    }
    errors.begin();
    if (faults.interceptCall(index)) |code| return errors.finish(name, errors.fail(code, "injected fault"));
    const begun = timing.begin(&settings.timing);
    const code = @call(.auto, function, arguments);
    const bytes: u64 = if (comptime timing.isSized(name)) arguments[1] else 0;
    timing.finish(&settings.timing, index, bytes, begun);
    return errors.finish(name, code);
}

fn indexOf(comptime name: []const u8) usize {
    @setEvalBranchQuota(100_000);
    return call_names_module.indexOf(call_names, name).?;
}

// For tests, from any thread; a real libascendcl.so has none of these.

/// Replaces the faults and restarts all call counters. NULL or "" removes all faults. An invalid text changes nothing
/// and returns -1.
pub export fn camem_emulator_set_faults(specification: ?[*:0]const u8) c_int {
    // The environment's faults must not arrive later and replace these.
    _ = config.load(call_names);
    const text = if (specification) |given| std.mem.span(given) else "";
    faults.replace(faults.parse(call_names, text) catch return -1);
    return 0;
}

/// The calls of a function since the faults were last set, failed ones included. "*" counts all calls.
pub export fn camem_emulator_call_count(name: ?[*:0]const u8) u64 {
    return faults.countOf(call_names, std.mem.span(name orelse return 0));
}

/// Fills the caller's 18 uint64_t (held_counts.zig has their order). Returns -1 for NULL.
pub export fn camem_emulator_accounting(out: ?*held_counts.Accounting) c_int {
    const target = out orelse return -1;
    _ = config.load(call_names);
    target.* = held_counts.read();
    return 0;
}

test "camem_emulator_set_faults changes nothing when the text is invalid" {
    defer faults.replace(.empty);
    const free = exported("aclrtFree", @import("calls/malloc.zig").aclrtFree);
    try std.testing.expectEqual(0, camem_emulator_set_faults("aclrtFree:1=107000"));
    try std.testing.expectEqual(-1, camem_emulator_set_faults("aclrtFree"));
    try std.testing.expectEqual(107000, free(null));
    try std.testing.expectEqual(1, camem_emulator_call_count("aclrtFree"));
    try std.testing.expectEqual(0, camem_emulator_set_faults(null));
    try std.testing.expectEqual(0, camem_emulator_call_count("aclrtFree"));
    try std.testing.expectEqual(0, camem_emulator_call_count(null));
    try std.testing.expectEqual(-1, camem_emulator_accounting(null));
}

//! Calls that only pass the gate: launches, graphs, models, operators and the less usual copies. Their parameters are
//! words, which are passed on as they are.

const c_function = @import("c_function");
const memory = @import("../memory.zig");
const passage = @import("../passage.zig");
const real = @import("../real.zig");
const refusal = @import("../refusal.zig");
const written = @import("../written.zig");

const Call = struct {
    name: [:0]const u8,
    parameters: usize,
    /// What of its parameters names memory that it writes.
    target: enum { unknown, first, list } = .unknown,
};

/// AscendCL's functions that give work on device memory to a device, by the number of their parameters. Parameters that
/// are floating-point numbers would need a form of their own; none has one.
pub const calls = [_]Call{
    .{ .name = "aclrtMemcpyAsyncWithCondition", .parameters = 6, .target = .first },
    .{ .name = "aclrtMemcpyAsyncWithDesc", .parameters = 3 },
    .{ .name = "aclrtMemcpyAsyncWithOffset", .parameters = 8 },
    .{ .name = "aclrtMemcpy2d", .parameters = 7, .target = .first },
    .{ .name = "aclrtMemcpy2dAsync", .parameters = 8, .target = .first },
    .{ .name = "aclrtMemcpyBatch", .parameters = 9, .target = .list },
    .{ .name = "aclrtMemcpyBatchV2", .parameters = 8, .target = .list },
    .{ .name = "aclrtMemcpyBatchAsync", .parameters = 10, .target = .list },
    .{ .name = "aclrtMemcpyBatchAsyncV2", .parameters = 9, .target = .list },
    .{ .name = "aclrtMemcpyToSymbol", .parameters = 5 },
    .{ .name = "aclrtMemcpyToSymbolAsync", .parameters = 6 },
    .{ .name = "aclrtMemcpyFromSymbol", .parameters = 5 },
    .{ .name = "aclrtMemcpyFromSymbolAsync", .parameters = 6 },
    .{ .name = "aclrtCmoAsync", .parameters = 4 },
    .{ .name = "aclrtReduceAsync", .parameters = 7, .target = .first },
    .{ .name = "aclrtValueWait", .parameters = 4 },
    .{ .name = "aclrtValueWrite", .parameters = 4, .target = .first },
    .{ .name = "aclrtRandomNumAsync", .parameters = 3 },
    .{ .name = "aclrtLaunchHostFunc", .parameters = 3 },
    .{ .name = "aclrtLaunchCallback", .parameters = 4 },
    .{ .name = "aclrtLaunchKernel", .parameters = 5 },
    .{ .name = "aclrtLaunchKernelV2", .parameters = 6 },
    .{ .name = "aclrtLaunchKernelWithConfig", .parameters = 6 },
    .{ .name = "aclrtLaunchKernelWithHostArgs", .parameters = 8 },
    .{ .name = "aclmdlExecute", .parameters = 3 },
    .{ .name = "aclmdlExecuteV2", .parameters = 5 },
    .{ .name = "aclmdlExecuteAsync", .parameters = 4 },
    .{ .name = "aclmdlExecuteAsyncV2", .parameters = 5 },
    .{ .name = "aclmdlRIExecute", .parameters = 2 },
    .{ .name = "aclmdlRIExecuteAsync", .parameters = 2 },
    .{ .name = "aclmdlLoadFromFileWithMem", .parameters = 6 },
    .{ .name = "aclmdlLoadFromMemWithMem", .parameters = 7 },
    .{ .name = "aclmdlSetDynamicBatchSize", .parameters = 4 },
    .{ .name = "aclmdlSetDynamicHWSize", .parameters = 5 },
    .{ .name = "aclmdlSetInputDynamicDims", .parameters = 4 },
    .{ .name = "aclmdlSetInputAIPP", .parameters = 4 },
    .{ .name = "aclopCompileAndExecute", .parameters = 12 },
    .{ .name = "aclopCompileAndExecuteV2", .parameters = 12 },
    .{ .name = "aclopExecute", .parameters = 9 },
    .{ .name = "aclopExecuteV2", .parameters = 9 },
    .{ .name = "aclopExecWithHandle", .parameters = 6 },
    .{ .name = "HcclAllReduce", .parameters = 7 },
    .{ .name = "HcclAllGather", .parameters = 6 },
    .{ .name = "HcclAllGatherV", .parameters = 8 },
    .{ .name = "HcclAlltoAll", .parameters = 8 },
    .{ .name = "HcclAlltoAllV", .parameters = 10 },
    .{ .name = "HcclAlltoAllVC", .parameters = 7 },
    .{ .name = "HcclBarrier", .parameters = 2 },
    .{ .name = "HcclBatchSendRecv", .parameters = 4 },
    .{ .name = "HcclBroadcast", .parameters = 6 },
    .{ .name = "HcclRecv", .parameters = 6 },
    .{ .name = "HcclReduce", .parameters = 8 },
    .{ .name = "HcclReduceScatter", .parameters = 7 },
    .{ .name = "HcclReduceScatterV", .parameters = 9 },
    .{ .name = "HcclScatter", .parameters = 7 },
    .{ .name = "HcclSend", .parameters = 6 },
    .{ .name = "ggml_backend_sched_graph_compute_async", .parameters = 2 },
};

fn Function(comptime count: usize) type {
    return @Fn(&@as([count]type, @splat(usize)), &@splat(.{}), c_int, .{ .@"callconv" = .c });
}

inline fn pass(comptime call: Call, arguments: anytype) c_int {
    const function = real.function(call.name, Function(call.parameters)) orelse return refusal.missing;
    if (!passage.enter()) return refusal.asleep;
    defer passage.leave();
    switch (call.target) {
        .unknown => {},
        .first => written.note(@ptrFromInt(arguments[0]), unknown_source),
        .list => noteList(arguments[0], arguments[4]),
    }
    return @call(.auto, function, arguments);
}

const unknown_source: memory.Written = .{ .host = true, .device = true };

/// Targets of a batch: an array of so many pointers, which may be null where the call is wrong.
fn noteList(first: usize, count: usize) void {
    const most = 4096; // AscendCL refuses more
    const targets: [*]const ?*anyopaque = @ptrFromInt(if (first == 0) return else first);
    for (targets[0..@min(count, most)]) |target| written.note(target, unknown_source);
}

/// The function that stands in front of a call.
pub fn gated(comptime call: Call) *const Function(call.parameters) {
    return c_function.from(Function(call.parameters), struct {
        inline fn run(arguments: anytype) c_int {
            return pass(call, arguments);
        }
    }.run);
}

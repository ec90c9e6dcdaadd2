//! Calls that only pass the gate: launches, graphs, models, operators and the less usual copies. Their parameters are
//! words, which are passed on as they are.

const passage = @import("../passage.zig");
const real = @import("../real.zig");
const refusal = @import("../refusal.zig");

const Call = struct { name: [:0]const u8, parameters: usize };

/// AscendCL's functions that give work on device memory to a device, by the number of their parameters. Parameters that
/// are floating-point numbers would need a form of their own; none has one.
pub const calls = [_]Call{
    .{ .name = "aclrtMemcpyAsyncWithCondition", .parameters = 6 },
    .{ .name = "aclrtMemcpyAsyncWithDesc", .parameters = 4 },
    .{ .name = "aclrtMemcpyAsyncWithOffset", .parameters = 8 },
    .{ .name = "aclrtMemcpy2d", .parameters = 7 },
    .{ .name = "aclrtMemcpy2dAsync", .parameters = 8 },
    .{ .name = "aclrtMemcpyBatch", .parameters = 9 },
    .{ .name = "aclrtMemcpyBatchV2", .parameters = 8 },
    .{ .name = "aclrtMemcpyBatchAsync", .parameters = 10 },
    .{ .name = "aclrtMemcpyBatchAsyncV2", .parameters = 9 },
    .{ .name = "aclrtMemcpyToSymbol", .parameters = 5 },
    .{ .name = "aclrtMemcpyToSymbolAsync", .parameters = 6 },
    .{ .name = "aclrtMemcpyFromSymbol", .parameters = 5 },
    .{ .name = "aclrtMemcpyFromSymbolAsync", .parameters = 6 },
    .{ .name = "aclrtReduceAsync", .parameters = 7 },
    .{ .name = "aclrtValueWait", .parameters = 4 },
    .{ .name = "aclrtValueWrite", .parameters = 4 },
    .{ .name = "aclrtRandomNumAsync", .parameters = 2 },
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
    .{ .name = "aclopExecute", .parameters = 8 },
    .{ .name = "aclopExecuteV2", .parameters = 8 },
    .{ .name = "aclopExecWithHandle", .parameters = 6 },
    .{ .name = "ggml_backend_sched_graph_compute_async", .parameters = 2 },
};

fn Function(comptime count: usize) type {
    return @Fn(&@as([count]type, @splat(usize)), &@splat(.{}), c_int, .{ .@"callconv" = .c });
}

inline fn pass(comptime name: [:0]const u8, arguments: anytype) c_int {
    const call = real.function(name, Function(arguments.len)) orelse return refusal.missing;
    if (!passage.enter()) return refusal.asleep;
    defer passage.leave();
    return @call(.auto, call, arguments);
}

/// The function that stands in front of a call.
pub fn gated(comptime call: Call) *const Function(call.parameters) {
    const n = call.name;
    const U = usize;
    const Form = switch (call.parameters) {
        2 => struct {
            fn entry(a: U, b: U) callconv(.c) c_int {
                return pass(n, .{ a, b });
            }
        },
        3 => struct {
            fn entry(a: U, b: U, c: U) callconv(.c) c_int {
                return pass(n, .{ a, b, c });
            }
        },
        4 => struct {
            fn entry(a: U, b: U, c: U, d: U) callconv(.c) c_int {
                return pass(n, .{ a, b, c, d });
            }
        },
        5 => struct {
            fn entry(a: U, b: U, c: U, d: U, e: U) callconv(.c) c_int {
                return pass(n, .{ a, b, c, d, e });
            }
        },
        6 => struct {
            fn entry(a: U, b: U, c: U, d: U, e: U, f: U) callconv(.c) c_int {
                return pass(n, .{ a, b, c, d, e, f });
            }
        },
        7 => struct {
            fn entry(a: U, b: U, c: U, d: U, e: U, f: U, g: U) callconv(.c) c_int {
                return pass(n, .{ a, b, c, d, e, f, g });
            }
        },
        8 => struct {
            fn entry(a: U, b: U, c: U, d: U, e: U, f: U, g: U, h: U) callconv(.c) c_int {
                return pass(n, .{ a, b, c, d, e, f, g, h });
            }
        },
        9 => struct {
            fn entry(a: U, b: U, c: U, d: U, e: U, f: U, g: U, h: U, i: U) callconv(.c) c_int {
                return pass(n, .{ a, b, c, d, e, f, g, h, i });
            }
        },
        10 => struct {
            fn entry(a: U, b: U, c: U, d: U, e: U, f: U, g: U, h: U, i: U, j: U) callconv(.c) c_int {
                return pass(n, .{ a, b, c, d, e, f, g, h, i, j });
            }
        },
        else => @compileError("add a form for more parameters"),
    };
    return &Form.entry;
}

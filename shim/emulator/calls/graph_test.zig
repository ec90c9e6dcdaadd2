const std = @import("std");
const acl = @import("acl");
const copy_calls = @import("copy.zig");
const context = @import("context.zig");
const device = @import("device.zig");
const event_calls = @import("event.zig");
const fill = @import("fill.zig");
const graph = @import("graph.zig");
const host_memory = @import("host_memory.zig");
const malloc = @import("malloc.zig");
const stream_calls = @import("stream.zig");
const testing = @import("test_support.zig");
const expectCode = testing.expectCode;

const size = 8192;

fn count(argument: ?*anyopaque) callconv(.c) void {
    const counter: *u32 = @ptrCast(@alignCast(argument));
    counter.* += 1;
}

test "aclmdlRIExecuteAsync repeats what the stream was given when it was captured" {
    defer testing.cleanUp();
    var stream: acl.Stream = null;
    var there: ?*anyopaque = null;
    var host: ?*anyopaque = null;
    var model: ?*anyopaque = null;
    var counter: u32 = 0;
    try expectCode(0, device.aclrtSetDevice(0));
    try expectCode(0, stream_calls.aclrtCreateStream(&stream));
    try expectCode(0, malloc.aclrtMalloc(&there, size, 0));
    try expectCode(0, host_memory.aclrtMallocHost(&host, size));
    const bytes: *[size]u8 = @ptrCast(host);
    try expectCode(0, graph.aclmdlRICaptureBegin(stream, 0));
    try expectCode(0, copy_calls.aclrtMemcpyAsync(there, size, host, size, acl.MemcpyKind.host_to_device, stream));
    try expectCode(0, fill.aclrtMemsetAsync(there, 1, 9, 1, stream));
    try expectCode(0, stream_calls.aclrtLaunchHostFunc(stream, count, &counter));
    try expectCode(0, copy_calls.aclrtMemcpyAsync(host, size, there, size, acl.MemcpyKind.device_to_host, stream));
    try expectCode(0, graph.aclmdlRICaptureEnd(stream, &model));
    try expectCode(0, stream_calls.aclrtSynchronizeStream(stream));
    try std.testing.expectEqual(0, counter);
    for (1..3) |round| {
        @memset(bytes, @intCast(round));
        try expectCode(0, graph.aclmdlRIExecuteAsync(model, stream));
        try expectCode(0, stream_calls.aclrtSynchronizeStream(stream));
        try std.testing.expectEqual(round, counter);
        try std.testing.expectEqual(9, bytes[0]);
        try std.testing.expectEqual(round, bytes[size - 1]);
    }
    try expectCode(0, malloc.aclrtFree(there));
    try expectCode(0, graph.aclmdlRIExecuteAsync(model, stream));
    try expectCode(507899, stream_calls.aclrtSynchronizeStream(stream));
    try expectCode(0, graph.aclmdlRIDestroy(model));
    try expectCode(107017, graph.aclmdlRIDestroy(model));
    try expectCode(107017, graph.aclmdlRIExecuteAsync(model, stream));
    try expectCode(0, host_memory.aclrtFreeHost(host));
}

test "aclmdlRICaptureBegin fails when the stream is captured, stale or the default one" {
    defer testing.cleanUp();
    var stream: acl.Stream = null;
    var default_stream: acl.Stream = null;
    var event: acl.Event = null;
    var there: ?*anyopaque = null;
    var model: ?*anyopaque = null;
    var status: c_int = 0;
    var pageable: [64]u8 = undefined;
    try expectCode(100000, graph.aclmdlRICaptureBegin(null, 0));
    try expectCode(107017, graph.aclmdlRICaptureBegin(@ptrFromInt(64), 0));
    try expectCode(100000, graph.aclmdlRIExecuteAsync(null, null));
    try expectCode(100000, graph.aclmdlRIDestroy(null));
    try expectCode(0, device.aclrtSetDevice(0));
    try expectCode(0, stream_calls.aclrtCreateStream(&stream));
    try expectCode(0, event_calls.aclrtCreateEvent(&event));
    try expectCode(0, malloc.aclrtMalloc(&there, size, 0));
    try expectCode(0, context.aclrtCtxGetCurrentDefaultStream(&default_stream));
    try expectCode(207000, graph.aclmdlRICaptureBegin(default_stream, 0));
    try expectCode(107000, graph.aclmdlRICaptureBegin(stream, 3));
    try expectCode(107029, graph.aclmdlRICaptureEnd(stream, &model));
    try expectCode(0, graph.aclmdlRICaptureBegin(stream, 0));
    try expectCode(107027, graph.aclmdlRICaptureBegin(stream, 0));
    try expectCode(107027, stream_calls.aclrtSynchronizeStream(stream));
    try expectCode(107027, stream_calls.aclrtSynchronizeDevice());
    try expectCode(107027, stream_calls.aclrtStreamQuery(stream, &status));
    try expectCode(107027, stream_calls.aclrtDestroyStreamForce(stream));
    try expectCode(207000, event_calls.aclrtRecordEvent(event, stream));
    const kind = acl.MemcpyKind.host_to_device;
    try expectCode(107030, copy_calls.aclrtMemcpyAsync(there, 64, &pageable, 64, kind, stream));
    try expectCode(107000, graph.aclmdlRICaptureEnd(stream, null));
    const thread = try std.Thread.spawn(.{}, endElsewhere, .{stream});
    thread.join();
    try expectCode(107029, graph.aclmdlRICaptureEnd(stream, &model));
    try expectCode(0, graph.aclmdlRICaptureBegin(stream, 2));
    try expectCode(0, malloc.aclrtFree(there));
    try expectCode(0, event_calls.aclrtDestroyEvent(event));
}

fn endElsewhere(stream: acl.Stream) void {
    var model: ?*anyopaque = null;
    _ = device.aclrtSetDevice(0);
    expectCode(107038, graph.aclmdlRICaptureEnd(stream, &model)) catch @panic("another code");
}

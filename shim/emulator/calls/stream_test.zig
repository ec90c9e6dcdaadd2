const std = @import("std");
const acl = @import("acl");
const clock = @import("../clock.zig");
const context = @import("context.zig");
const device = @import("device.zig");
const faults = @import("../faults.zig");
const stream_calls = @import("stream.zig");
const testing = @import("test_support.zig");
const expectCode = testing.expectCode;

test "aclrtDestroyStream fails when the stream is stale or of another context" {
    defer testing.cleanUp();
    var stream: acl.Stream = null;
    try expectCode(107002, stream_calls.aclrtCreateStream(&stream));
    try expectCode(0, device.aclrtSetDevice(0));
    try expectCode(100000, stream_calls.aclrtCreateStream(null));
    try expectCode(0, stream_calls.aclrtCreateStreamWithConfig(&stream, 0, 0x40));
    try expectCode(0, stream_calls.aclrtCreateStreamWithConfig(&stream, 99, 1));
    try expectCode(100000, stream_calls.aclrtDestroyStream(null));
    var explicit: acl.Context = null;
    try expectCode(0, context.aclrtCreateContext(&explicit, 0));
    try expectCode(107003, stream_calls.aclrtDestroyStream(stream));
    try expectCode(0, stream_calls.aclrtSynchronizeStream(stream));
    try expectCode(0, context.aclrtDestroyContext(explicit));
    try expectCode(107002, stream_calls.aclrtDestroyStream(stream));
    try expectCode(0, device.aclrtSetDevice(0));
    try expectCode(0, stream_calls.aclrtDestroyStream(stream));
    try expectCode(107017, stream_calls.aclrtDestroyStream(stream));
    try expectCode(107017, stream_calls.aclrtSynchronizeStream(stream));
    try expectCode(0, stream_calls.aclrtSynchronizeStream(null));
}

test "aclrtSynchronizeStreamWithTimeout fails when a task takes longer" {
    defer testing.cleanUp();
    var gate: testing.Gate = .{};
    var stream: acl.Stream = null;
    var status: c_int = -1;
    try expectCode(0, device.aclrtSetDevice(0));
    try expectCode(0, stream_calls.aclrtCreateStream(&stream));
    try expectCode(107000, stream_calls.aclrtLaunchHostFunc(stream, null, null));
    try expectCode(107000, stream_calls.aclrtLaunchCallback(null, null, 0, stream));
    try expectCode(0, stream_calls.aclrtLaunchHostFunc(stream, testing.Gate.pass, &gate));
    try expectCode(0, stream_calls.aclrtLaunchHostFunc(stream, testing.Gate.pass, &gate));
    try expectCode(0, stream_calls.aclrtStreamQuery(stream, &status));
    try std.testing.expectEqual(acl.StreamStatus.not_ready, status);
    try expectCode(507046, stream_calls.aclrtSynchronizeStreamWithTimeout(stream, 2));
    try expectCode(507046, stream_calls.aclrtSynchronizeDeviceWithTimeout(2));
    try expectCode(107000, stream_calls.aclrtSynchronizeStreamWithTimeout(stream, 0));
    try expectCode(107000, stream_calls.aclrtSynchronizeStreamWithTimeout(stream, -2));
    try expectCode(107000, stream_calls.aclrtSynchronizeDeviceWithTimeout(0));
    gate.open();
    try expectCode(0, stream_calls.aclrtSynchronizeDevice());
    try std.testing.expectEqual(2, gate.passed.load(.monotonic));
    try expectCode(0, stream_calls.aclrtStreamQuery(stream, &status));
    try std.testing.expectEqual(acl.StreamStatus.complete, status);

    gate.close();
    try expectCode(0, stream_calls.aclrtLaunchHostFunc(stream, testing.Gate.pass, &gate));
    try expectCode(0, stream_calls.aclrtLaunchHostFunc(stream, testing.Gate.pass, &gate));
    try expectCode(0, stream_calls.aclrtDestroyStreamForce(stream));
    gate.open();
    while (gate.passed.load(.monotonic) < 3) clock.sleepMilliseconds(1);
    try std.testing.expectEqual(3, gate.passed.load(.monotonic));
}

test "aclrtStreamGetFlags returns the known flags when unknown ones were given" {
    defer testing.cleanUp();
    var first: acl.Stream = null;
    var second: acl.Stream = null;
    var default_stream: acl.Stream = null;
    var number: u32 = 99;
    var ids: [3]i32 = @splat(-1);
    try expectCode(100000, stream_calls.aclrtStreamGetFlags(null, null));
    try expectCode(100000, stream_calls.aclrtStreamGetPriority(null, null));
    try expectCode(100000, stream_calls.aclrtStreamGetId(null, null));
    try expectCode(100000, context.aclrtCtxGetCurrentDefaultStream(null));
    try expectCode(107002, stream_calls.aclrtStreamGetFlags(null, &number));
    try expectCode(107002, stream_calls.aclrtStreamGetId(null, &ids[0]));
    try expectCode(107002, context.aclrtCtxGetCurrentDefaultStream(&default_stream));
    try expectCode(0, device.aclrtSetDevice(0));
    try expectCode(0, stream_calls.aclrtCreateStreamWithConfig(&first, 99, 0x43));
    try expectCode(0, stream_calls.aclrtCreateStream(&second));
    try expectCode(0, stream_calls.aclrtStreamGetFlags(first, &number));
    try std.testing.expectEqual(3, number);
    try expectCode(0, stream_calls.aclrtStreamGetPriority(first, &number));
    try std.testing.expectEqual(7, number);
    try expectCode(0, context.aclrtCtxGetCurrentDefaultStream(&default_stream));
    for ([_]acl.Stream{ first, second, default_stream }, &ids) |stream, *id|
        try expectCode(0, stream_calls.aclrtStreamGetId(stream, id));
    try std.testing.expect(ids[0] != ids[1] and ids[1] != ids[2] and ids[0] != ids[2]);
    var id: i32 = -1;
    try expectCode(0, stream_calls.aclrtStreamGetId(null, &id));
    try std.testing.expectEqual(ids[2], id);
    try expectCode(107000, stream_calls.aclrtDestroyStream(default_stream));
    try expectCode(0, stream_calls.aclrtDestroyStream(first));
    try expectCode(107017, stream_calls.aclrtStreamGetId(first, &id));
    try expectCode(107017, stream_calls.aclrtStreamGetFlags(first, &number));
}

test "aclrtSetStreamFailureMode stops the stream when a task fails" {
    defer testing.cleanUp();
    var gate: testing.Gate = .{};
    gate.open();
    var stream: acl.Stream = null;
    try expectCode(107000, stream_calls.aclrtSetStreamFailureMode(null, 1));
    try expectCode(0, device.aclrtSetDevice(0));
    try expectCode(0, stream_calls.aclrtCreateStream(&stream));
    try expectCode(0, stream_calls.aclrtSetStreamFailureMode(stream, 0));
    try expectCode(0, stream_calls.aclrtSetStreamFailureMode(stream, 1));
    try expectCode(207000, stream_calls.aclrtSetStreamFailureMode(stream, 0));
    const names: []const []const u8 = &.{"aclrtLaunchHostFunc"};
    faults.replace(try faults.parse(names, "aclrtLaunchHostFunc.task:2=507015"));
    defer faults.replace(.empty);
    for (0..3) |_| try expectCode(0, stream_calls.aclrtLaunchHostFunc(stream, testing.Gate.pass, &gate));
    try expectCode(507015, stream_calls.aclrtSynchronizeStream(stream));
    try expectCode(507015, stream_calls.aclrtSynchronizeStream(stream));
    try std.testing.expectEqual(1, gate.passed.load(.monotonic));
}

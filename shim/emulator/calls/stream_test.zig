const std = @import("std");
const acl = @import("acl");
const clock = @import("../clock.zig");
const context = @import("context.zig");
const device = @import("device.zig");
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

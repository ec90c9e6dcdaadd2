const std = @import("std");
const acl = @import("acl");
const device = @import("device.zig");
const event_calls = @import("event.zig");
const stream_calls = @import("stream.zig");
const testing = @import("test_support.zig");
const expectCode = testing.expectCode;

test "aclrtEventElapsedTime fails when an event is pending" {
    defer testing.cleanUp();
    var gate: testing.Gate = .{};
    var stream: acl.Stream = null;
    var start: acl.Event = null;
    var end: acl.Event = null;
    var status: c_int = -1;
    var milliseconds: f32 = -1;
    try expectCode(107002, event_calls.aclrtCreateEvent(&start));
    try expectCode(0, device.aclrtSetDevice(0));
    try expectCode(100000, event_calls.aclrtCreateEvent(null));
    try expectCode(0, event_calls.aclrtCreateEvent(&start));
    try expectCode(0, event_calls.aclrtCreateEvent(&end));
    try expectCode(0, stream_calls.aclrtCreateStream(&stream));
    try expectCode(0, event_calls.aclrtQueryEventStatus(start, &status));
    try std.testing.expectEqual(acl.EventRecordedStatus.not_ready, status);
    try expectCode(0, event_calls.aclrtSynchronizeEvent(start));
    try expectCode(107000, event_calls.aclrtStreamWaitEvent(stream, start));
    try expectCode(507000, event_calls.aclrtEventElapsedTime(&milliseconds, start, end));
    try expectCode(0, event_calls.aclrtRecordEvent(start, stream));
    // The wait below must lie between the two events, however late the stream runs.
    try expectCode(0, event_calls.aclrtSynchronizeEvent(start));
    try expectCode(0, event_calls.aclrtStreamWaitEvent(stream, start));
    try expectCode(0, stream_calls.aclrtLaunchHostFunc(stream, testing.Gate.pass, &gate));
    try expectCode(0, event_calls.aclrtRecordEvent(end, stream));
    try expectCode(0, event_calls.aclrtQueryEventStatus(end, &status));
    try std.testing.expectEqual(acl.EventRecordedStatus.not_ready, status);
    try expectCode(107006, event_calls.aclrtEventElapsedTime(&milliseconds, start, end));
    try expectCode(507047, event_calls.aclrtSynchronizeEventWithTimeout(end, 2));
    gate.open();
    try expectCode(0, event_calls.aclrtSynchronizeEvent(end));
    try expectCode(0, event_calls.aclrtQueryEventStatus(end, &status));
    try std.testing.expectEqual(acl.EventRecordedStatus.complete, status);
    try expectCode(0, event_calls.aclrtEventElapsedTime(&milliseconds, start, end));
    try std.testing.expect(milliseconds >= 1.0);
    try expectCode(0, event_calls.aclrtDestroyEvent(start));
    try expectCode(107017, event_calls.aclrtDestroyEvent(start));
    try expectCode(107017, event_calls.aclrtRecordEvent(start, stream));
    try expectCode(0, event_calls.aclrtDestroyEvent(end));
}

test "aclrtCreateEventWithFlag fails when the flags are invalid" {
    defer testing.cleanUp();
    var event: acl.Event = null;
    var status: c_int = -1;
    try expectCode(0, device.aclrtSetDevice(0));
    for ([_]u32{ 0, 0x80, 0x40, 0x11, 0x21, 0x30 }) |flags|
        try expectCode(107000, event_calls.aclrtCreateEventWithFlag(&event, flags));
    try expectCode(207000, event_calls.aclrtCreateEventExWithFlag(&event, 0x40));
    try expectCode(0, event_calls.aclrtCreateEventExWithFlag(&event, 1));
    try expectCode(0, event_calls.aclrtQueryEventStatus(event, &status));
    try std.testing.expectEqual(acl.EventRecordedStatus.complete, status);
    try expectCode(0, event_calls.aclrtStreamWaitEvent(null, event));
    try expectCode(0, event_calls.aclrtQueryEvent(event, &status));
    try std.testing.expectEqual(0, status);
    try expectCode(0, event_calls.aclrtDestroyEvent(event));
}

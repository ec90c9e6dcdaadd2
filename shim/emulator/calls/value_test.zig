const acl = @import("acl");
const device = @import("device.zig");
const malloc = @import("malloc.zig");
const stream_calls = @import("stream.zig");
const value = @import("value.zig");
const testing = @import("test_support.zig");
const expectCode = testing.expectCode;

test "aclrtValueWait holds a stream until another one writes the value" {
    defer testing.cleanUp();
    var there: ?*anyopaque = null;
    var waiting: acl.Stream = null;
    var writing: acl.Stream = null;
    var local: u64 = 0;
    try expectCode(0, device.aclrtSetDevice(0));
    try expectCode(0, malloc.aclrtMalloc(&there, 4096, 0));
    try expectCode(0, stream_calls.aclrtCreateStream(&waiting));
    try expectCode(0, stream_calls.aclrtCreateStream(&writing));
    try expectCode(100000, value.aclrtValueWait(null, 1, 1, waiting));
    try expectCode(107000, value.aclrtValueWait(there, 1, 4, waiting));
    try expectCode(107000, value.aclrtValueWrite(there, 1, 1, writing));
    try expectCode(107000, value.aclrtValueWrite(&local, 1, 0, writing));
    try expectCode(0, value.aclrtValueWait(there, 100, 1, waiting));
    try expectCode(507046, stream_calls.aclrtSynchronizeStreamWithTimeout(waiting, 5));
    try expectCode(0, value.aclrtValueWrite(there, 100, 0, writing));
    try expectCode(0, stream_calls.aclrtSynchronizeStream(waiting));
    try expectCode(0, value.aclrtValueWait(there, 101, 1, waiting));
    try expectCode(0, stream_calls.aclrtDestroyStreamForce(waiting));
    try expectCode(0, malloc.aclrtFree(there));
}

const std = @import("std");
const linux = std.os.linux;
const acl = @import("acl");
const address_window = @import("../address_window.zig");
const clock = @import("../clock.zig");
const config = @import("../config.zig");
const copy_calls = @import("copy.zig");
const device = @import("device.zig");
const faults = @import("../faults.zig");
const fill_calls = @import("fill.zig");
const host_memory = @import("host_memory.zig");
const malloc = @import("malloc.zig");
const stream_calls = @import("stream.zig");
const testing = @import("test_support.zig");
const timing = @import("../timing.zig");
const expectCode = testing.expectCode;
const Kind = acl.MemcpyKind;

test "aclrtMemcpy fails when an argument or a range is invalid" {
    defer testing.cleanUp();
    var from: [4096]u8 = @splat(7);
    var to: [4096]u8 = @splat(0);
    var there: ?*anyopaque = null;
    try expectCode(0, copy_calls.aclrtMemcpy(null, 0, null, 0, 99));
    try expectCode(107002, copy_calls.aclrtMemcpy(&to, 4096, &from, 4096, Kind.host_to_host));
    try expectCode(0, device.aclrtSetDevice(0));
    try expectCode(100000, copy_calls.aclrtMemcpy(null, 4096, &from, 1, 0));
    try expectCode(100000, copy_calls.aclrtMemcpy(&to, 4096, null, 1, 0));
    try expectCode(100000, copy_calls.aclrtMemcpy(&to, 4096, &from, 1, 6));
    try expectCode(107000, copy_calls.aclrtMemcpy(&to, 0, &from, 1, 0));
    try expectCode(107000, copy_calls.aclrtMemcpy(&to, 4, &from, 5, 0));
    try expectCode(107000, copy_calls.aclrtMemcpy(&to, std.math.maxInt(usize), &from, std.math.maxInt(usize), 0));
    try expectCode(0, copy_calls.aclrtMemcpy(&to, 4096, &to, 4096, 0));
    try expectCode(0, malloc.aclrtMalloc(&there, 4096, 0));
    try expectCode(0, copy_calls.aclrtMemcpy(there, 4096, &from, 4096, Kind.host_to_device));
    try expectCode(0, copy_calls.aclrtMemcpy(&to, 4096, there, 4096, Kind.device_to_host));
    try std.testing.expectEqualSlices(u8, &from, &to);
    try expectCode(0, fill_calls.aclrtMemset(there, 4096, 0x1ff, 4096));
    try expectCode(0, copy_calls.aclrtMemcpy(&to, 4096, there, 4096, Kind.default));
    try std.testing.expectEqual(0xff, to[4095]);
    try expectCode(107000, fill_calls.aclrtMemset(there, 10, 0, 11));
    try expectCode(100000, fill_calls.aclrtMemset(null, 10, 0, 1));
    try expectCode(0, fill_calls.aclrtMemset(null, 0, 0, 0));
    try expectCode(0, fill_calls.aclrtMemset(&to, 4096, 0, 16));
    const unallocated: *anyopaque = @ptrFromInt(address_window.end_address - 8192);
    try expectCode(507899, copy_calls.aclrtMemcpy(&to, 4096, unallocated, 4096, Kind.default));
    try expectCode(507899, copy_calls.aclrtMemcpy(there, 1 << 30, &from, 1 << 30, Kind.default));
    try expectCode(0, malloc.aclrtFree(there));
}

test "aclrtMemcpyAsync runs in stream order and reports once when a copy failed" {
    defer testing.cleanUp();
    var there: ?*anyopaque = null;
    var host: ?*anyopaque = null;
    var stream: acl.Stream = null;
    var gate: testing.Gate = .{};
    var pageable: [4096]u8 = @splat(3);
    try expectCode(0, device.aclrtSetDevice(0));
    try expectCode(0, malloc.aclrtMalloc(&there, 4096, 0));
    try expectCode(0, host_memory.aclrtMallocHost(&host, 4096));
    try expectCode(0, stream_calls.aclrtCreateStream(&stream));
    const bytes: [*]u8 = @ptrCast(host.?);
    @memset(bytes[0..4096], 9);
    try expectCode(0, stream_calls.aclrtLaunchHostFunc(stream, testing.Gate.pass, &gate));
    try expectCode(0, copy_calls.aclrtMemcpyAsync(there, 4096, host, 4096, Kind.host_to_device, stream));
    var status: c_int = -1;
    try expectCode(0, stream_calls.aclrtStreamQuery(stream, &status));
    try std.testing.expectEqual(acl.StreamStatus.not_ready, status);
    try expectCode(207000, copy_calls.aclrtMemcpyAsync(host, 4096, &pageable, 4096, Kind.host_to_host, stream));
    try expectCode(107000, copy_calls.aclrtMemcpyAsync(there, 4096, &pageable, 4096, Kind.device_to_device, stream));
    gate.open();
    try expectCode(0, copy_calls.aclrtMemcpyAsync(&pageable, 4096, there, 4096, Kind.device_to_host, stream));
    try std.testing.expectEqual(9, pageable[4095]);

    faults.replace(try faults.parse(&.{}, "aclrtMemcpyAsync.task:1=507013"));
    defer faults.replace(.empty);
    @memset(bytes[0..4096], 1);
    try expectCode(0, copy_calls.aclrtMemcpyAsync(there, 4096, host, 4096, Kind.host_to_device, stream));
    try expectCode(507013, stream_calls.aclrtSynchronizeStream(stream));
    try expectCode(0, stream_calls.aclrtSynchronizeStream(stream));
    try expectCode(0, copy_calls.aclrtMemcpy(&pageable, 4096, there, 4096, Kind.device_to_host));
    try std.testing.expectEqual(9, pageable[0]);
    try expectCode(0, fill_calls.aclrtMemsetAsync(there, 4096, 5, 4096, stream));
    try expectCode(107000, fill_calls.aclrtMemsetAsync(there, 1, 5, 2, stream));
    try expectCode(0, stream_calls.aclrtSynchronizeStream(stream));
    // Freed under queued work: the work keeps the memory until it is done.
    gate.close();
    try expectCode(0, stream_calls.aclrtLaunchHostFunc(stream, testing.Gate.pass, &gate));
    try expectCode(0, copy_calls.aclrtMemcpyAsync(there, 4096, host, 4096, Kind.host_to_device, stream));
    try expectCode(0, malloc.aclrtFree(there));
    try expectCode(0, host_memory.aclrtFreeHost(host));
    gate.open();
    try expectCode(0, stream_calls.aclrtSynchronizeStream(stream));
}

test "aclrtMemcpyAsync begins late by the timing model when tasks are queued before it" {
    defer testing.cleanUp();
    const model = &@constCast(config.get()).timing;
    defer model.* = .{};
    model.* = try timing.parse(&.{}, "h2d=1GiB/s");
    const size = 2 << 20;
    const copy_nanoseconds = std.time.ns_per_s / 512;
    var gate: testing.Gate = .{};
    var there: ?*anyopaque = null;
    var host: ?*anyopaque = null;
    var stream: acl.Stream = null;
    try expectCode(0, device.aclrtSetDevice(0));
    try expectCode(0, malloc.aclrtMallocAlign32(&there, size, 0));
    try expectCode(0, host_memory.aclrtMallocHost(&host, size));
    try expectCode(0, stream_calls.aclrtCreateStream(&stream));
    try expectCode(0, stream_calls.aclrtLaunchHostFunc(stream, testing.Gate.pass, &gate));
    for (0..3) |_| try expectCode(0, copy_calls.aclrtMemcpyAsync(there, size, host, size, Kind.host_to_device, stream));
    clock.sleepMilliseconds(4);
    const opened_at = clock.now();
    gate.open();
    try expectCode(0, stream_calls.aclrtSynchronizeStream(stream));
    const queued_until = clock.now();
    try std.testing.expect(queued_until - opened_at >= 3 * copy_nanoseconds);
    try expectCode(0, copy_calls.aclrtMemcpy(there, size, host, size, Kind.host_to_device));
    try std.testing.expect(clock.now() - queued_until >= copy_nanoseconds);
    try expectCode(0, malloc.aclrtFree(there));
    try expectCode(0, host_memory.aclrtFreeHost(host));
}

test "aclrtMemcpy fails when host memory cannot be read or written" {
    defer testing.cleanUp();
    const page = std.heap.pageSize();
    var there: ?*anyopaque = null;
    try expectCode(0, device.aclrtSetDevice(0));
    try expectCode(0, malloc.aclrtMalloc(&there, 4096, 0));
    const start = linux.mmap(null, page, .{ .READ = true }, .{ .TYPE = .PRIVATE, .ANONYMOUS = true }, -1, 0);
    const host: *anyopaque = @ptrFromInt(start);
    try expectCode(0, copy_calls.aclrtMemcpy(there, 64, host, 64, Kind.host_to_device));
    try expectCode(507899, copy_calls.aclrtMemcpy(host, 64, there, 64, Kind.device_to_host));
    try expectCode(507899, copy_calls.aclrtMemcpyAsync(host, 64, there, 64, Kind.device_to_host, null));
    try expectCode(507899, fill_calls.aclrtMemset(host, 64, 1, 64));
    try expectCode(0, host_memory.aclrtHostRegisterV2(host, page, 0x10000000));
    _ = linux.munmap(@ptrFromInt(start), page);
    try expectCode(0, copy_calls.aclrtMemcpyAsync(there, 64, host, 64, Kind.host_to_device, null));
    try expectCode(507899, stream_calls.aclrtSynchronizeStream(null));
    try expectCode(0, host_memory.aclrtHostUnregister(host));
    try expectCode(507899, copy_calls.aclrtMemcpy(there, 64, host, 64, Kind.host_to_device));
    try expectCode(507899, copy_calls.aclrtMemcpy(there, 64, @ptrFromInt(64), 64, Kind.host_to_device));
    try expectCode(0, malloc.aclrtFree(there));
}

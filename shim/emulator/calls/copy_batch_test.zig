const std = @import("std");
const acl = @import("acl");
const copy_batch = @import("copy_batch.zig");
const device = @import("device.zig");
const malloc = @import("malloc.zig");
const stream_calls = @import("stream.zig");
const testing = @import("test_support.zig");
const expectCode = testing.expectCode;

/// The arguments that the batch calls share, for a batch of two.
const Batch = struct {
    destinations: [2]?*anyopaque,
    sources: [2]?*anyopaque,
    sizes: [2]usize,
    count: usize,
    attribute: [1]acl.MemcpyBatchAttr,
    attribute_start: [1]usize,
    attribute_count: usize = 1,

    fn run(batch: *Batch, fail_index: ?*usize) acl.Error {
        return copy_batch.aclrtMemcpyBatch(
            &batch.destinations,
            &batch.sizes,
            &batch.sources,
            &batch.sizes,
            batch.count,
            &batch.attribute,
            &batch.attribute_start,
            batch.attribute_count,
            fail_index,
        );
    }

    fn enqueue(batch: *Batch, stream: acl.Stream) acl.Error {
        return copy_batch.aclrtMemcpyBatchAsyncV2(
            &batch.destinations,
            &batch.sizes,
            &batch.sources,
            &batch.sizes,
            batch.count,
            &batch.attribute,
            &batch.attribute_start,
            1,
            stream,
        );
    }
};

test "aclrtMemcpyBatch fails when an element is not where its attribute says" {
    defer testing.cleanUp();
    var there: ?*anyopaque = null;
    var stream: acl.Stream = null;
    var pageable: [4096]u8 = @splat(3);
    try expectCode(0, device.aclrtSetDevice(0));
    try expectCode(0, malloc.aclrtMalloc(&there, 8192, 0));
    try expectCode(0, stream_calls.aclrtCreateStream(&stream));
    var failed: usize = 5;
    var batch: Batch = .{
        .destinations = .{ there, @ptrFromInt(@intFromPtr(there) + 4096) },
        .sources = .{ &pageable, &pageable },
        .sizes = .{ 4096, 4096 },
        .count = 2,
        .attribute = .{.{
            .dst_loc = .{ .id = 0, .type = acl.MemLocationType.device },
            .src_loc = .{ .id = 0, .type = acl.MemLocationType.host },
        }},
        .attribute_start = .{0},
    };
    try expectCode(100000, batch.run(null));
    try expectCode(0, batch.run(&failed));
    try std.testing.expectEqual(std.math.maxInt(usize), failed);
    try expectCode(0, batch.enqueue(stream));
    batch.attribute[0].dst_loc.type = acl.MemLocationType.host;
    try expectCode(107000, batch.run(&failed));
    try std.testing.expectEqual(0, failed);
    batch.attribute_start[0] = 1;
    try expectCode(107000, batch.run(&failed));
    batch.attribute[0].rsv[3] = 1;
    try expectCode(100000, batch.run(&failed));
    batch.attribute[0].rsv[3] = 0;
    batch.attribute_count = 3;
    try expectCode(100000, batch.run(&failed));
    batch.attribute_count = 1;
    batch.count = 0;
    try expectCode(100000, batch.run(&failed));
    try expectCode(0, malloc.aclrtFree(there));
}

//! The table of segments: its order, pins, sweeps and places.

const std = @import("std");
const Backup = @import("backup.zig").Backup;
const heap = @import("heap.zig");
const Registry = @import("registry.zig").Registry;
const Segment = @import("segment.zig").Segment;

test "Registry.insert numbers segments in the order of insertion, not of creation" {
    var table: Registry = .{};
    _ = try table.tags.intern("default");
    const slow = try table.create(0, 0, 4096, 4096);
    const fast = try table.create(0, 0, 4096, 4096);
    slow.address = 1 << 44;
    fast.address = 2 << 44;
    defer {
        for ([_]*Segment{ slow, fast }) |segment| {
            _ = table.unlist(segment);
            table.destroy(segment);
        }
        table.deinit();
    }
    // A plan for the table as it is in between concerns the first alone.
    try std.testing.expectEqual(1, table.insert(fast));
    try std.testing.expectEqual(2, table.insert(slow));
}

test "Registry.pin refuses copies beyond the requested size, and segments that sleep, move or are doomed" {
    var table: Registry = .{};
    _ = try table.tags.intern("default");
    const segment = try table.create(0, 0, 4096, 4000);
    segment.address = 1 << 44;
    segment.mapped = true;
    try std.testing.expectEqual(1, table.insert(segment));
    defer {
        _ = table.unlist(segment);
        table.destroy(segment);
        table.deinit();
    }
    try std.testing.expectError(error.OutOfBounds, table.pin(segment.address, segment.id, 4000, 1, .reading));
    const beyond = std.math.maxInt(u64);
    try std.testing.expectError(error.OutOfBounds, table.pin(segment.address, segment.id, beyond, 2, .reading));
    try std.testing.expectError(error.UnknownSegment, table.pin(segment.address + 1, segment.id, 0, 1, .reading));
    try std.testing.expectError(error.UnknownSegment, table.pin(segment.address, segment.id + 1, 0, 1, .reading));
    try std.testing.expect(!table.unpin(try table.pin(segment.address, segment.id, 3999, 1, .reading)));
    table.set(segment, .content, .discarded);
    try std.testing.expectError(error.Asleep, table.pin(segment.address, segment.id, 0, 1, .reading));
    table.set(segment, .moving, true);
    try std.testing.expectError(error.Moving, table.pin(segment.address, segment.id, 0, 1, .reading));
    table.doomAll();
    try std.testing.expectError(error.UnknownSegment, table.pin(segment.address, segment.id, 0, 1, .reading));
}

test "Registry.takeDoomed hands out each doomed segment once in a sweep when the heap is exhausted" {
    var table: Registry = .{};
    _ = try table.tags.intern("default");
    const listed = try table.create(0, 0, 4096, 4096);
    listed.address = 1 << 44;
    _ = table.insert(listed);
    const kept = try table.create(0, 0, 4096, 4096);
    table.keep(kept);
    defer table.deinit();
    try std.testing.expectEqual(2, table.segmentCount());
    heap.remaining.store(0, .monotonic);
    defer heap.remaining.store(std.math.maxInt(u64), .monotonic);
    table.doomAll();
    for (0..2) |_| {
        const sweep = table.beginSweep();
        try std.testing.expectEqual(kept, table.takeDoomed(sweep));
        try std.testing.expectEqual(listed, table.takeDoomed(sweep));
        try std.testing.expectEqual(null, table.takeDoomed(sweep));
        for ([_]*Segment{ listed, kept }) |segment| try std.testing.expect(table.stopMoving(segment));
    }
    table.set(kept, .moving, true);
    try std.testing.expectEqual(listed, table.takeDoomed(table.beginSweep()));
    _ = table.unlist(listed);
    for ([_]*Segment{ listed, kept }) |segment| table.destroy(segment);
    try std.testing.expect(!table.hasDoomed());
}

test "Registry.relist leaves a doomed segment unlisted when another segment has its address" {
    var table: Registry = .{};
    _ = try table.tags.intern("default");
    const stale = try table.create(0, 0, 4096, 4096);
    const fresh = try table.create(0, 0, 4096, 4096);
    for ([_]*Segment{ stale, fresh }) |segment| segment.address = 1 << 44;
    _ = table.insert(stale);
    _ = try table.doom(stale.address, stale.id, .waits);
    try std.testing.expect(table.unlist(stale));
    try std.testing.expect(table.insert(fresh) != null);
    table.relist(stale);
    try std.testing.expect(table.stopMoving(stale));
    try std.testing.expectEqual(fresh, try table.find(fresh.address, fresh.id));
    try std.testing.expectEqual(stale, table.takeDoomed(table.beginSweep()));
    _ = table.unlist(fresh);
    for ([_]*Segment{ stale, fresh }) |segment| table.destroy(segment);
    table.deinit();
}

test "Registry.setImmutable and Registry.claim keep a backup while it is pinned" {
    var table: Registry = .{};
    const default = try table.tags.intern("default");
    const segment = try table.create(0, default, 4096, 4096);
    segment.address = 1 << 44;
    segment.mapped = true;
    const backup: Backup = .{ .host = &.{} };
    segment.content = .{ .clean = .{ .backup = backup } };
    _ = table.insert(segment);
    defer {
        _ = table.unlist(segment);
        table.destroy(segment);
        table.deinit();
    }
    var dropped: std.ArrayList(Backup) = .empty;
    defer dropped.deinit(heap.allocator);
    const pinned = try table.pinBackup(segment.address, segment.id, 0, 1);
    try std.testing.expectError(error.Moving, table.setImmutable(default, false, &dropped));
    try std.testing.expectEqual(0, dropped.items.len);
    try std.testing.expect(!table.unpin(pinned.segment));
    const version = table.version;
    try std.testing.expectEqual(segment, try table.claim(segment.address, segment.id));
    try std.testing.expect(table.version > version);
    try std.testing.expectError(error.Moving, table.pinBackup(segment.address, segment.id, 0, 1));
    try std.testing.expectError(error.Moving, table.claim(segment.address, segment.id));
    try std.testing.expect(!table.stopMoving(segment));
    try table.setImmutable(default, false, &dropped);
    try std.testing.expectEqual(1, dropped.items.len);
}

test "Registry.doom leaves a pinned segment to whoever unpins it" {
    var table: Registry = .{};
    defer table.deinit();
    _ = try table.tags.intern("default");
    const segment = try table.create(3, 0, 4096, 4096);
    segment.address = 1 << 40;
    segment.mapped = true;
    _ = table.insert(segment);
    const pinned = try table.pin(segment.address, segment.id, 0, 1, .reading);
    try std.testing.expectEqual(null, try table.doom(segment.address, segment.id, .leaves));
    try std.testing.expectEqual(null, table.takeDoomed(table.beginSweep()));
    try std.testing.expect(table.unpin(pinned));
    try std.testing.expectEqual(segment, table.takeDoomed(table.beginSweep()));
    _ = table.unlist(segment);
    table.destroy(segment);
}

test "Registry.awaitsDevice tells a release that waits for its device from one that failed" {
    var table: Registry = .{};
    defer table.deinit();
    _ = try table.tags.intern("default");
    const segment = try table.create(3, 0, 4096, 4096);
    segment.address = 1 << 40;
    segment.mapped = true;
    segment.handle = @ptrFromInt(16);
    _ = table.insert(segment);
    _ = try table.doom(segment.address, segment.id, .leaves);
    try std.testing.expect(!table.awaitsDevice(3));
    table.postpone(segment, true);
    try std.testing.expect(table.awaitsDevice(3));
    try std.testing.expect(!table.awaitsDevice(2));
    try std.testing.expectEqual(4096, table.awaitedBytes(3));
    _ = table.takeDoomed(table.beginSweep());
    try std.testing.expect(table.awaitsDevice(3));
    table.postpone(segment, false);
    try std.testing.expect(!table.awaitsDevice(3));
    try std.testing.expectEqual(0, table.awaitedBytes(3));
    _ = table.unlist(segment);
    table.destroy(segment);
}

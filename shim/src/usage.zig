//! The table of segments, summed up by tag.

const registry = @import("registry.zig");
const Registry = registry.Registry;
const Segment = @import("segment.zig").Segment;

/// Sums over the segments of one tag, in bytes as `SegmentInfo` has them. Crosses the C ABI.
pub const TagUsage = extern struct {
    tag: u64,
    segments: u64 = 0,
    awake_segments: u64 = 0,
    size_bytes: u64 = 0,
    mapped_bytes: u64 = 0,
    discarded_bytes: u64 = 0,
    host_bytes: u64 = 0,
    pageable_bytes: u64 = 0,
    spilled_bytes: u64 = 0,
    checkpoint_bytes: u64 = 0,

    fn add(self: *TagUsage, segment: *const Segment) void {
        self.segments += 1;
        self.size_bytes += segment.size_bytes;
        switch (segment.state()) {
            .mapped => {
                self.awake_segments += 1;
                self.mapped_bytes += segment.size_bytes;
            },
            .discarded => self.discarded_bytes += segment.size_bytes,
            .offloaded => {},
        }
        const backup = segment.content.backup() orelse return;
        self.host_bytes += backup.hostBytes();
        self.pageable_bytes += backup.pageableBytes();
        self.spilled_bytes += backup.spilledBytes();
        self.checkpoint_bytes += backup.checkpointBytes();
    }
};

/// One entry for each tag into `target`, in the order of their numbers; tags without a segment are among them.
/// Returns how many tags there are; where `target` has room for fewer, it is left alone. With the registry's mutex
/// held.
pub fn collect(table: *const Registry, target: []TagUsage) u64 {
    const count = table.tags.names.items.len;
    if (count > target.len) return count;
    for (target[0..count], 0..) |*usage, tag| usage.* = .{ .tag = tag };
    var iterator: registry.Iterator = .init(table);
    while (iterator.next()) |segment| {
        if (!segment.doomed) target[segment.tag].add(segment);
    }
    return count;
}

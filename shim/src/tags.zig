//! The names of tags, and which tag a native allocation carries.

const std = @import("std");
const heap = @import("heap.zig");
const status = @import("status.zig");

/// Of a tag's name.
pub const longest_tag_bytes = 64;

/// Tag names by number, and the open regions. What a native thread allocates carries the tag of the region that was
/// entered last and is still open. Regions of concurrent async bodies may be left in any order.
pub const Tags = struct {
    const Region = struct { token: u64, tag: u32 };

    /// A token outlives its session without meaning another region of the next.
    var next_token: std.atomic.Value(u64) = .init(1);

    names: std.ArrayList([]u8) = .empty,
    regions: std.ArrayList(Region) = .empty,

    pub fn deinit(self: *Tags) void {
        for (self.names.items) |text| heap.allocator.free(text);
        self.names.deinit(heap.allocator);
        self.regions.deinit(heap.allocator);
    }

    pub fn intern(self: *Tags, text: []const u8) status.Error!u32 {
        if (text.len == 0 or text.len > longest_tag_bytes) return error.InvalidArgument;
        for (self.names.items, 0..) |known, index| {
            if (std.mem.eql(u8, known, text)) return @intCast(index);
        }
        const copy = heap.allocator.dupe(u8, text) catch return error.OutOfHostMemory;
        self.names.append(heap.allocator, copy) catch {
            heap.allocator.free(copy);
            return error.OutOfHostMemory;
        };
        return @intCast(self.names.items.len - 1);
    }

    pub fn name(self: *const Tags, tag: u32) status.Error![]const u8 {
        return if (tag < self.names.items.len) self.names.items[tag] else error.UnknownTag;
    }

    pub fn enter(self: *Tags, tag: u32) status.Error!u64 {
        if (tag >= self.names.items.len) return error.UnknownTag;
        const token = next_token.fetchAdd(1, .monotonic);
        self.regions.append(heap.allocator, .{ .token = token, .tag = tag }) catch return error.OutOfHostMemory;
        return token;
    }

    pub fn leave(self: *Tags, token: u64) status.Error!void {
        for (self.regions.items, 0..) |region, index| {
            if (region.token != token) continue;
            _ = self.regions.orderedRemove(index);
            return;
        }
        return error.InvalidArgument;
    }

    /// The tag of the innermost open region, or the first tag ever interned, which is `default`.
    pub fn current(self: *const Tags) u32 {
        const innermost = self.regions.getLastOrNull() orelse return 0;
        return innermost.tag;
    }
};

test "Tags.leave closes regions in any order" {
    var tags: Tags = .{};
    defer tags.deinit();
    const default = try tags.intern("default");
    const weights = try tags.intern("weights");
    const cache = try tags.intern("kv_cache");
    const outer = try tags.enter(weights);
    const inner = try tags.enter(cache);
    try tags.leave(outer);
    try std.testing.expectEqual(cache, tags.current());
    try tags.leave(inner);
    try std.testing.expectEqual(default, tags.current());
    try std.testing.expectError(error.InvalidArgument, tags.leave(inner));
}

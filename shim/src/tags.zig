//! The names and policies of tags, and which tag a native allocation carries.

const std = @import("std");
const heap = @import("heap.zig");
const status = @import("status.zig");
const sync = @import("sync.zig");

/// Of a tag's name.
pub const longest_tag_bytes = 64;

/// Tags by number, and the open regions. What a thread allocates carries the tag of the region that it entered last and
/// has not left, or, where it is in none, the tag of the other threads' regions. Regions may be left in any order; a
/// region of a thread that has ended is closed.
pub const Tags = struct {
    const Region = struct {
        token: u64,
        tag: u32,
        /// The open region that the caller was in; 0 without one.
        parent: u64,
        thread: std.os.linux.pid_t,
    };

    /// A token outlives its session without meaning another region of the next.
    var next_token: std.atomic.Value(u64) = .init(1);

    names: std.ArrayList([]u8) = .empty,
    /// By name.
    numbers: std.StringHashMapUnmanaged(u32) = .empty,
    /// By number. Their meaning is the callers'; 0 until one is set.
    policies: std.ArrayList(u64) = .empty,
    regions: std.ArrayList(Region) = .empty,

    pub fn deinit(self: *Tags) void {
        for (self.names.items) |text| heap.allocator.free(text);
        self.names.deinit(heap.allocator);
        self.numbers.deinit(heap.allocator);
        self.policies.deinit(heap.allocator);
        self.regions.deinit(heap.allocator);
    }

    pub fn intern(self: *Tags, text: []const u8) status.Error!u32 {
        if (text.len == 0 or text.len > longest_tag_bytes) return error.InvalidArgument;
        if (self.numbers.get(text)) |known| return known;
        self.names.ensureUnusedCapacity(heap.allocator, 1) catch return error.OutOfHostMemory;
        self.policies.ensureUnusedCapacity(heap.allocator, 1) catch return error.OutOfHostMemory;
        self.numbers.ensureUnusedCapacity(heap.allocator, 1) catch return error.OutOfHostMemory;
        const own = heap.allocator.dupe(u8, text) catch return error.OutOfHostMemory;
        const number: u32 = @intCast(self.names.items.len);
        self.names.appendAssumeCapacity(own);
        self.policies.appendAssumeCapacity(0);
        self.numbers.putAssumeCapacity(own, number);
        return number;
    }

    /// The number of a tag that was interned.
    pub fn find(self: *const Tags, text: []const u8) status.Error!u32 {
        return self.numbers.get(text) orelse error.UnknownTag;
    }

    pub fn name(self: *const Tags, tag: u32) status.Error![]const u8 {
        return if (tag < self.names.items.len) self.names.items[tag] else error.UnknownTag;
    }

    pub fn policy(self: *const Tags, tag: u32) status.Error!u64 {
        return if (tag < self.policies.items.len) self.policies.items[tag] else error.UnknownTag;
    }

    /// Replaces a policy, unless it is no longer `expected`.
    pub fn setPolicy(self: *Tags, tag: u32, expected: u64, new: u64) status.Error!void {
        if (try self.policy(tag) != expected) return error.Stale;
        self.policies.items[tag] = new;
    }

    /// Opens a region inside the region `parent`. Refused while this thread is in a region of another tag that is not
    /// around it: nothing would say which of the two a native allocation belongs to.
    pub fn enter(self: *Tags, tag: u32, parent: u64) status.Error!u64 {
        if (tag >= self.names.items.len) return error.UnknownTag;
        self.closeAbandoned();
        // A parent that has ended, or never was, is none: a region cannot be around itself.
        const outer = if (self.openRegion(parent) == null) 0 else parent;
        const thread = std.os.linux.gettid();
        for (self.regions.items) |region| {
            if (region.thread != thread or region.tag == tag) continue;
            if (!self.isAround(region.token, outer)) return error.Busy;
        }
        const token = next_token.fetchAdd(1, .monotonic);
        self.regions.append(heap.allocator, .{
            .token = token,
            .tag = tag,
            .parent = outer,
            .thread = thread,
        }) catch return error.OutOfHostMemory;
        return token;
    }

    /// True when `token` is the region `innermost` or one that it is inside of.
    fn isAround(self: *const Tags, token: u64, innermost: u64) bool {
        var inner = innermost;
        while (inner != token) inner = (self.openRegion(inner) orelse return false).parent;
        return true;
    }

    fn openRegion(self: *const Tags, token: u64) ?Region {
        for (self.regions.items) |region| if (region.token == token) return region;
        return null;
    }

    pub fn leave(self: *Tags, token: u64) status.Error!void {
        for (self.regions.items, 0..) |region, index| {
            if (region.token != token) continue;
            self.close(index);
            return;
        }
        return error.InvalidArgument;
    }

    fn close(self: *Tags, index: usize) void {
        const closed = self.regions.orderedRemove(index);
        for (self.regions.items) |*region| {
            if (region.parent == closed.token) region.parent = closed.parent;
        }
    }

    /// A thread that was terminated inside a region cannot leave it.
    fn closeAbandoned(self: *Tags) void {
        var index: usize = 0;
        while (index < self.regions.items.len) {
            if (sync.isThreadAlive(self.regions.items[index].thread)) index += 1 else self.close(index);
        }
    }

    /// The tag of what this thread allocates; without a region the first tag ever interned, which is `default`. Refused
    /// for a thread without a region while other threads are in regions of different tags.
    pub fn current(self: *Tags) status.Error!u32 {
        self.closeAbandoned();
        return self.tagOn(std.os.linux.gettid());
    }

    fn tagOn(self: *const Tags, thread: std.os.linux.pid_t) status.Error!u32 {
        var tag: u32 = 0;
        var differ = false;
        for (self.regions.items, 0..) |region, index| {
            differ = differ or (index > 0 and region.tag != tag);
            tag = region.tag;
        }
        var innermost_first = std.mem.reverseIterator(self.regions.items);
        while (innermost_first.next()) |region| if (region.thread == thread) return region.tag;
        return if (differ) error.Busy else tag;
    }
};

test "Tags.find returns the number that intern gave a name" {
    var tags: Tags = .{};
    defer tags.deinit();
    var name = "tag 0".*;
    for (0..10) |index| {
        name[name.len - 1] = '0' + @as(u8, @intCast(index));
        try std.testing.expectError(error.UnknownTag, tags.find(&name));
        try std.testing.expectEqual(index, try tags.intern(&name));
        try std.testing.expectEqual(index, try tags.intern(&name));
        try std.testing.expectEqual(index, try tags.find(&name));
    }
    try std.testing.expectEqualStrings("tag 3", try tags.name(3));
}

test "Tags.leave closes regions in any order" {
    var tags: Tags = .{};
    defer tags.deinit();
    const default = try tags.intern("default");
    const weights = try tags.intern("weights");
    const cache = try tags.intern("kv_cache");
    const outer = try tags.enter(weights, 0);
    const inner = try tags.enter(cache, outer);
    try tags.leave(outer);
    try std.testing.expectEqual(cache, try tags.current());
    try tags.leave(inner);
    try std.testing.expectEqual(default, try tags.current());
    try std.testing.expectError(error.InvalidArgument, tags.leave(inner));
}

test "Tags.enter refuses another tag outside the open regions" {
    var tags: Tags = .{};
    defer tags.deinit();
    const weights = try tags.intern("weights");
    const cache = try tags.intern("kv_cache");
    const outer = try tags.enter(weights, 0);
    try std.testing.expectError(error.Busy, tags.enter(cache, 0));
    const same = try tags.enter(weights, 0);
    try std.testing.expectError(error.Busy, tags.enter(cache, outer));
    try tags.leave(same);
    const middle = try tags.enter(weights, outer);
    const inner = try tags.enter(cache, middle);
    try tags.leave(middle);
    try std.testing.expectError(error.Busy, tags.enter(weights, outer));
    _ = try tags.enter(weights, inner);
}

test "Tags.current leaves out the region of a thread that has ended" {
    var tags: Tags = .{};
    defer tags.deinit();
    const default = try tags.intern("default");
    const cache = try tags.intern("kv_cache");
    const token = try tags.enter(cache, 0);
    try std.testing.expectEqual(cache, try tags.current());
    tags.regions.items[0].thread = 1 << 30; // beyond any thread
    try std.testing.expectEqual(default, try tags.current());
    try std.testing.expectError(error.InvalidArgument, tags.leave(token));
}

test "Tags.tagOn refuses a thread without a region while others are in regions of different tags" {
    var tags: Tags = .{};
    defer tags.deinit();
    const default = try tags.intern("default");
    const weights = try tags.intern("weights");
    const cache = try tags.intern("kv_cache");
    try std.testing.expectEqual(default, try tags.tagOn(1));
    const outer = try tags.enter(weights, 0);
    try std.testing.expectEqual(weights, try tags.tagOn(3));
    _ = try tags.enter(cache, outer);
    for (tags.regions.items, 1..) |*region, thread| region.thread = @intCast(thread);
    try std.testing.expectEqual(weights, try tags.tagOn(1));
    try std.testing.expectEqual(cache, try tags.tagOn(2));
    try std.testing.expectError(error.Busy, tags.tagOn(3));
}

test "Tags.setPolicy refuses to replace a policy that has changed" {
    var tags: Tags = .{};
    defer tags.deinit();
    const weights = try tags.intern("weights");
    try tags.setPolicy(weights, 0, 5);
    try std.testing.expectError(error.Stale, tags.setPolicy(weights, 0, 6));
    try std.testing.expectEqual(5, try tags.policy(weights));
    try std.testing.expectError(error.UnknownTag, tags.policy(weights + 1));
}

test "Tags.enter takes an unknown parent for none" {
    var tags: Tags = .{};
    defer tags.deinit();
    const weights = try tags.intern("weights");
    const cache = try tags.intern("kv_cache");
    const first = try tags.enter(weights, 0);
    const own_parent = try tags.enter(weights, first + 1);
    // A region that is its own parent would make this search endless.
    try std.testing.expectError(error.Busy, tags.enter(cache, own_parent));
}

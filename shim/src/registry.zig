//! The one table of segments, and the tags they carry. Engines allocate from their own native threads and several Bun
//! Workers may attach, so every look and every change happens under one mutex; no AscendCL call is made with it held.

const std = @import("std");
const acl = @import("acl");
const backup = @import("backup.zig");
const heap = @import("heap.zig");
const status = @import("status.zig");
const sync = @import("sync.zig");

/// Where the content of a segment is. Whether memory is behind the address is told by `handle` and `mapped`.
pub const Content = enum {
    /// In the physical memory that the segment holds. That is unmapped where a failed sleep could not be undone: then the
    /// segment counts as asleep, and a wake only maps it.
    live,
    /// In `backup` only.
    backed_up,
    /// Nowhere.
    discarded,
};

/// Where a segment is, as its users see it.
pub const State = enum(u32) { mapped = 1, offloaded = 2, discarded = 3 };

pub const Segment = struct {
    address: u64 = 0,
    /// A multiple of the device's granularity.
    size_bytes: u64,
    /// What the caller asked for; copies stay within it.
    requested_bytes: u64,
    /// Never used twice, unlike an address. In the order in which segments came into the table; 0 before that.
    id: u64 = 0,
    device: u32,
    tag: u32,
    content: Content = .live,
    handle: acl.DrvMemHandle = null,
    mapped: bool = false,
    reserved: bool = false,
    backup: backup.Backup = .none,
    /// Content in device memory that is the same as the backup: to sleep, it need not be copied.
    clean: bool = false,
    /// Writes through this shim are refused.
    sealed: bool = false,
    /// Of a backup that is to be verified before it is relied on.
    checksum: ?u64 = null,
    /// Owned by a plan or by a release in progress: nobody else touches it.
    moving: bool = false,
    /// To be released as soon as it no longer moves; its user has let go of it.
    doomed: bool = false,
    /// Copies of users that are running on it.
    pins: u32 = 0,
    /// In the table.
    listed: bool = false,
    /// In the list of doomed segments.
    doomed_node: std.DoublyLinkedList.Node = .{},
    /// The sweep that tried to release it last.
    last_sweep: u64 = 0,

    pub fn pointer(self: *const Segment) *anyopaque {
        return @ptrFromInt(self.address);
    }

    pub fn isAwake(self: *const Segment) bool {
        return self.mapped and self.content == .live;
    }

    /// Asleep, yet it holds device memory that could not be given back, or that holds its content.
    pub fn isUnreleased(self: *const Segment) bool {
        return !self.isAwake() and self.handle != null;
    }

    /// Awake, and its backup is the same as its content.
    pub fn isClean(self: *const Segment) bool {
        return self.isAwake() and self.clean;
    }

    pub fn state(self: *const Segment) State {
        if (self.isAwake()) return .mapped;
        return switch (self.content) {
            .live, .backed_up => .offloaded,
            .discarded => .discarded,
        };
    }

    /// Bytes of device memory held now.
    pub fn committedBytes(self: *const Segment) u64 {
        return if (self.handle != null) self.size_bytes else 0;
    }
};

pub const Registry = struct {
    mutex: sync.Mutex = .{},
    /// Signalled when a pin is dropped or a segment stops moving.
    changed: sync.Condition = .{},
    segments: std.AutoHashMapUnmanaged(u64, *Segment) = .empty,
    /// Records handed out by `create` that are not in the table yet; the table always has room for them.
    pending: u32 = 0,
    next_id: u64 = 1,
    /// Segments that are to be released, the ones tried last at the end. Those without a place in the table are here alone.
    doomed: std.DoublyLinkedList = .{},
    last_sweep: u64 = 0,
    /// Grows with each change that makes a plan for the table as it was before wrong. New segments and those that are freed do
    /// not: plans leave out the ones and do without the others.
    version: u64 = 1,
    tags: Tags = .{},

    pub fn deinit(self: *Registry) void {
        self.segments.deinit(heap.allocator);
        self.tags.deinit();
    }

    /// Takes the backup away from a segment, with what is known of it. The caller drops it.
    pub fn takeBackup(self: *Registry, segment: *Segment) backup.Backup {
        self.mutex.lock();
        defer self.mutex.unlock();
        const taken = segment.backup;
        if (taken != .none and !segment.doomed) self.version += 1;
        segment.backup = .none;
        segment.clean = false;
        segment.checksum = null;
        return taken;
    }

    /// Gives a segment that is pinned a backup that is its content, which is final from then on. The caller drops the one before.
    pub fn replaceBackup(self: *Registry, segment: *Segment, new: backup.Backup) backup.Backup {
        self.mutex.lock();
        defer self.mutex.unlock();
        const replaced = segment.backup;
        self.version += 1;
        segment.backup = new;
        segment.clean = true;
        segment.sealed = true;
        segment.checksum = null;
        return replaced;
    }

    /// Whether a segment that is awake has a backup that is not its content.
    pub fn hasLeftBackup(self: *Registry, segment: *const Segment) bool {
        self.mutex.lock();
        defer self.mutex.unlock();
        return segment.backup != .none and !segment.clean;
    }

    pub fn set(self: *Registry, segment: *Segment, comptime field: std.meta.FieldEnum(Segment), value: @FieldType(Segment, @tagName(field))) void {
        self.mutex.lock();
        defer self.mutex.unlock();
        @field(segment, @tagName(field)) = value;
    }

    /// A record that is not in the table yet, with room in the table for it.
    pub fn create(self: *Registry, device: u32, tag: u32, size_bytes: u64, requested_bytes: u64) status.Error!*Segment {
        self.mutex.lock();
        defer self.mutex.unlock();
        if (tag >= self.tags.names.items.len) return error.UnknownTag;
        self.segments.ensureUnusedCapacity(heap.allocator, self.pending + 1) catch return error.OutOfHostMemory;
        const segment = heap.allocator.create(Segment) catch return error.OutOfHostMemory;
        segment.* = .{ .size_bytes = size_bytes, .requested_bytes = requested_bytes, .device = device, .tag = tag };
        self.pending += 1;
        return segment;
    }

    /// The segment's id; null when the table has a segment at that address already: its device was reset by somebody, and
    /// AscendCL has given the address out again.
    pub fn insert(self: *Registry, segment: *Segment) ?u64 {
        self.mutex.lock();
        defer self.mutex.unlock();
        const entry = self.segments.getOrPutAssumeCapacity(segment.address);
        if (entry.found_existing) return null;
        segment.id = self.next_id;
        self.next_id += 1;
        segment.listed = true;
        self.pending -= 1;
        entry.value_ptr.* = segment;
        return segment.id;
    }

    /// Takes a segment out of the table before its address is released: from then on AscendCL may give the address to another
    /// thread, whose segment has to find its place free. False when it was not in the table.
    pub fn unlist(self: *Registry, segment: *Segment) bool {
        self.mutex.lock();
        defer self.mutex.unlock();
        if (!segment.listed) return false;
        _ = self.segments.remove(segment.address);
        segment.listed = false;
        self.pending += 1;
        return true;
    }

    /// Puts a segment back whose address could not be released. Where AscendCL gave the address out all the same, the segment
    /// that has it now keeps its place.
    pub fn relist(self: *Registry, segment: *Segment) void {
        self.mutex.lock();
        defer self.mutex.unlock();
        const entry = self.segments.getOrPutAssumeCapacity(segment.address);
        if (entry.found_existing) return;
        entry.value_ptr.* = segment;
        segment.listed = true;
        self.pending -= 1;
    }

    /// Drops the record of a segment that holds nothing any more.
    pub fn destroy(self: *Registry, segment: *Segment) void {
        self.mutex.lock();
        defer self.mutex.unlock();
        self.pending -= 1;
        if (segment.doomed) self.doomed.remove(&segment.doomed_node);
        heap.allocator.destroy(segment);
        self.changed.broadcast();
    }

    /// The segment at an address, if it is still the one with that id. With the mutex held.
    pub fn find(self: *Registry, address: u64, id: u64) status.Error!*Segment {
        const segment = self.segments.get(address) orelse return error.UnknownSegment;
        return if (segment.id == id) segment else error.UnknownSegment;
    }

    /// How many segments there are, also without a place in the table. With the mutex held.
    pub fn segmentCount(self: *const Registry) usize {
        var unlisted: usize = 0;
        var iterator: DoomedIterator = .{ .node = self.doomed.first };
        while (iterator.next()) |segment| unlisted += @intFromBool(!segment.listed);
        return self.segments.count() + unlisted;
    }

    /// Every segment, by id. With the mutex held; the caller frees the list.
    pub fn inOrder(self: *const Registry) status.Error![]*const Segment {
        var list = std.ArrayList(*const Segment).initCapacity(heap.allocator, self.segmentCount()) catch return error.OutOfHostMemory;
        var listed = self.segments.valueIterator();
        while (listed.next()) |entry| list.appendAssumeCapacity(entry.*);
        var doomed: DoomedIterator = .{ .node = self.doomed.first };
        while (doomed.next()) |segment| if (!segment.listed) list.appendAssumeCapacity(segment);
        std.mem.sortUnstable(*const Segment, list.items, {}, isOlder);
        return list.items;
    }

    fn isOlder(_: void, a: *const Segment, b: *const Segment) bool {
        return a.id < b.id;
    }

    pub const Access = enum { reading, writing };

    /// Pins a segment for a copy of `size_bytes` at `offset_bytes`, so that no plan and no release touches it meanwhile.
    pub fn pin(self: *Registry, address: u64, id: u64, offset_bytes: u64, size_bytes: u64, access: Access) status.Error!*Segment {
        self.mutex.lock();
        defer self.mutex.unlock();
        const segment = try self.find(address, id);
        if (segment.doomed) return error.UnknownSegment;
        if (segment.moving) return error.Moving;
        if (!segment.isAwake()) return error.Asleep;
        if (offset_bytes > segment.requested_bytes or size_bytes > segment.requested_bytes - offset_bytes) return error.OutOfBounds;
        if (access == .writing and segment.sealed) return error.Immutable;
        segment.pins += 1;
        return segment;
    }

    /// Pins a segment that is backed up for a copy of `size_bytes` at `offset_bytes` of its backup.
    pub fn pinBackup(self: *Registry, address: u64, id: u64, offset_bytes: u64, size_bytes: u64) status.Error!*Segment {
        self.mutex.lock();
        defer self.mutex.unlock();
        const segment = try self.find(address, id);
        if (segment.doomed) return error.UnknownSegment;
        if (segment.moving) return error.Moving;
        if (segment.content != .backed_up or segment.backup == .none) return error.NoBackup;
        if (offset_bytes > segment.size_bytes or size_bytes > segment.size_bytes - offset_bytes) return error.OutOfBounds;
        segment.pins += 1;
        return segment;
    }

    pub fn unpin(self: *Registry, segment: *Segment) void {
        self.mutex.lock();
        defer self.mutex.unlock();
        segment.pins -= 1;
        if (segment.pins == 0) self.changed.broadcast();
    }

    /// Marks a segment for release. Returns it when the caller is to release it now, and null when it moves: whoever moves it
    /// releases it afterwards. A segment whose release failed earlier is handed out again.
    /// Without an id, whichever segment is at the address, as a native thread names it.
    pub fn doom(self: *Registry, address: u64, id: ?u64) status.Error!?*Segment {
        self.mutex.lock();
        defer self.mutex.unlock();
        const segment = self.segments.get(address) orelse return error.UnknownSegment;
        if (id != null and segment.id != id.?) return error.UnknownSegment;
        self.markDoomed(segment);
        if (segment.moving) return null;
        segment.moving = true;
        self.waitForPins(segment);
        return segment;
    }

    /// Begins a sweep, in which `takeDoomed` hands out each segment once. Only the executor's thread sweeps.
    pub fn beginSweep(self: *Registry) u64 {
        self.mutex.lock();
        defer self.mutex.unlock();
        self.last_sweep += 1;
        return self.last_sweep;
    }

    /// The next segment to release in this sweep, marked as moving; null when none is left. One that moves or is pinned waits
    /// for the next sweep. Needs no memory, so that closing gives everything back where there is none.
    pub fn takeDoomed(self: *Registry, sweep: u64) ?*Segment {
        self.mutex.lock();
        defer self.mutex.unlock();
        while (self.doomed.first) |node| {
            const segment: *Segment = @fieldParentPtr("doomed_node", node);
            if (segment.last_sweep == sweep) return null;
            segment.last_sweep = sweep;
            self.doomed.remove(node);
            self.doomed.append(node);
            if (segment.moving or segment.pins > 0) continue;
            segment.moving = true;
            return segment;
        }
        return null;
    }

    /// Keeps the record of an allocation that failed and could not be undone, so that its release is tried again. It has no
    /// place in the table: it may have no address, or one that another segment has.
    pub fn keep(self: *Registry, segment: *Segment) void {
        self.mutex.lock();
        defer self.mutex.unlock();
        segment.id = self.next_id;
        self.next_id += 1;
        self.markDoomed(segment);
    }

    fn markDoomed(self: *Registry, segment: *Segment) void {
        if (!segment.doomed) self.doomed.append(&segment.doomed_node);
        segment.doomed = true;
    }

    /// True while the release of a segment is still to come, or under way.
    pub fn hasDoomed(self: *Registry) bool {
        self.mutex.lock();
        defer self.mutex.unlock();
        return self.doomed.first != null;
    }

    pub fn doomAll(self: *Registry) void {
        self.mutex.lock();
        defer self.mutex.unlock();
        var iterator = self.segments.valueIterator();
        while (iterator.next()) |entry| self.markDoomed(entry.*);
    }

    pub fn stopMoving(self: *Registry, segment: *Segment) void {
        self.mutex.lock();
        defer self.mutex.unlock();
        segment.moving = false;
        self.changed.broadcast();
    }

    /// Declares the content of every segment of a tag final, or ends that: then what was a backup of it is only memory, which
    /// the caller drops. Ending it is refused, with nothing changed, while any of the tag sleeps or moves.
    pub fn seal(self: *Registry, tag: u32, sealed: bool, dropped: *std.ArrayList(backup.Backup)) status.Error!void {
        self.mutex.lock();
        defer self.mutex.unlock();
        if (tag >= self.tags.names.items.len) return error.UnknownTag;
        var count: usize = 0;
        var iterator = self.segments.valueIterator();
        while (iterator.next()) |entry| {
            const segment = entry.*;
            if (segment.tag != tag or segment.doomed) continue;
            if (sealed) continue;
            if (segment.moving) return error.Moving;
            if (!segment.isAwake()) return error.Asleep;
            count += 1;
        }
        dropped.ensureUnusedCapacity(heap.allocator, count) catch return error.OutOfHostMemory;
        self.version += 1;
        iterator = self.segments.valueIterator();
        while (iterator.next()) |entry| {
            const segment = entry.*;
            if (segment.tag != tag or segment.doomed) continue;
            segment.sealed = sealed and segment.content != .discarded;
            // A backup that is not clean is what a failed sleep left: its copies may be running still.
            if (sealed or !segment.clean) continue;
            dropped.appendAssumeCapacity(segment.backup);
            segment.backup = .none;
            segment.clean = false;
            segment.checksum = null;
        }
    }

    /// Takes the backups that sleeps which failed have left to memory that is awake. The caller drops them.
    pub fn takeLeftBackups(self: *Registry, device: u32, list: *std.ArrayList(backup.Backup)) status.Error!void {
        self.mutex.lock();
        defer self.mutex.unlock();
        list.ensureUnusedCapacity(heap.allocator, self.segments.count()) catch return error.OutOfHostMemory;
        self.version += 1;
        var iterator = self.segments.valueIterator();
        while (iterator.next()) |entry| {
            const segment = entry.*;
            if (segment.device != device or segment.moving or segment.clean or !segment.isAwake()) continue;
            list.appendAssumeCapacity(segment.backup);
            segment.backup = .none;
        }
    }

    /// Waits, with the mutex held, until no copy runs on a segment that is already marked as moving.
    pub fn waitForPins(self: *Registry, segment: *const Segment) void {
        while (segment.pins > 0) self.changed.wait(&self.mutex);
    }
};

const DoomedIterator = struct {
    node: ?*std.DoublyLinkedList.Node,

    fn next(self: *DoomedIterator) ?*const Segment {
        const node = self.node orelse return null;
        self.node = node.next;
        return @fieldParentPtr("doomed_node", node);
    }
};

/// Every segment in the table, in no order. With the mutex held. A sleep finds the table long out of the processor's caches:
/// segments are fetched ahead of their turn.
pub const Iterator = struct {
    const Values = @TypeOf(@as(Registry, undefined).segments).ValueIterator;
    const ahead = 8;

    values: Values,
    fetching: Values,

    pub fn init(table: *const Registry) Iterator {
        var self: Iterator = .{ .values = table.segments.valueIterator(), .fetching = table.segments.valueIterator() };
        for (0..ahead) |_| self.fetch();
        return self;
    }

    pub fn next(self: *Iterator) ?*Segment {
        const entry = self.values.next() orelse return null;
        self.fetch();
        return entry.*;
    }

    fn fetch(self: *Iterator) void {
        const entry = self.fetching.next() orelse return;
        const start = @intFromPtr(entry.*);
        var line: usize = 0;
        while (line < @sizeOf(Segment)) : (line += std.atomic.cache_line) @prefetch(@as([*]const u8, @ptrFromInt(start + line)), .{});
    }
};

pub const longest_tag = 64;

/// Tag names by number, and the regions that are open: what a native thread allocates carries the tag of the region
/// entered last that has not been left. Regions of concurrent async bodies may be left in any order.
pub const Tags = struct {
    const Region = struct { token: u64, tag: u32 };

    /// A token outlives its session without meaning another region of the next.
    var next_token: std.atomic.Value(u64) = .init(1);

    names: std.ArrayList([]u8) = .empty,
    regions: std.ArrayList(Region) = .empty,

    fn deinit(self: *Tags) void {
        for (self.names.items) |name| heap.allocator.free(name);
        self.names.deinit(heap.allocator);
        self.regions.deinit(heap.allocator);
    }

    pub fn intern(self: *Tags, name: []const u8) status.Error!u32 {
        if (name.len == 0 or name.len > longest_tag) return error.InvalidArgument;
        for (self.names.items, 0..) |known, index| {
            if (std.mem.eql(u8, known, name)) return @intCast(index);
        }
        const copy = heap.allocator.dupe(u8, name) catch return error.OutOfHostMemory;
        self.names.append(heap.allocator, copy) catch {
            heap.allocator.free(copy);
            return error.OutOfHostMemory;
        };
        return @intCast(self.names.items.len - 1);
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

test "regions may be left in any order" {
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

test "ids are in the order in which segments come into the table, however long their allocation takes" {
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

test "a pin is refused beyond the requested size, asleep, moving and doomed" {
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
    try std.testing.expectError(error.OutOfBounds, table.pin(segment.address, segment.id, std.math.maxInt(u64), 2, .reading));
    try std.testing.expectError(error.UnknownSegment, table.pin(segment.address + 1, segment.id, 0, 1, .reading));
    try std.testing.expectError(error.UnknownSegment, table.pin(segment.address, segment.id + 1, 0, 1, .reading));
    table.unpin(try table.pin(segment.address, segment.id, 3999, 1, .reading));
    table.set(segment, .content, .backed_up);
    try std.testing.expectError(error.Asleep, table.pin(segment.address, segment.id, 0, 1, .reading));
    table.set(segment, .moving, true);
    try std.testing.expectError(error.Moving, table.pin(segment.address, segment.id, 0, 1, .reading));
    table.doomAll();
    try std.testing.expectError(error.UnknownSegment, table.pin(segment.address, segment.id, 0, 1, .reading));
}

test "a sweep hands out every doomed segment once, also without a place in the table, and needs no memory" {
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
        for ([_]*Segment{ listed, kept }) |segment| table.stopMoving(segment);
    }
    table.set(kept, .moving, true);
    try std.testing.expectEqual(listed, table.takeDoomed(table.beginSweep()));
    _ = table.unlist(listed);
    for ([_]*Segment{ listed, kept }) |segment| table.destroy(segment);
    try std.testing.expect(!table.hasDoomed());
}

test "a segment whose address another one has meanwhile stays doomed without a place in the table" {
    var table: Registry = .{};
    _ = try table.tags.intern("default");
    const stale = try table.create(0, 0, 4096, 4096);
    const fresh = try table.create(0, 0, 4096, 4096);
    for ([_]*Segment{ stale, fresh }) |segment| segment.address = 1 << 44;
    _ = table.insert(stale);
    _ = try table.doom(stale.address, stale.id);
    try std.testing.expect(table.unlist(stale));
    try std.testing.expect(table.insert(fresh) != null);
    table.relist(stale);
    table.stopMoving(stale);
    try std.testing.expectEqual(fresh, try table.find(fresh.address, fresh.id));
    try std.testing.expectEqual(stale, table.takeDoomed(table.beginSweep()));
    _ = table.unlist(fresh);
    for ([_]*Segment{ stale, fresh }) |segment| table.destroy(segment);
    table.deinit();
}

//! The one table of segments. Engines allocate from their own native threads and several Bun Workers may attach, so
//! every look and every change happens under one mutex; no AscendCL call is made with it held.

const std = @import("std");
const Backup = @import("backup.zig").Backup;
const doomed_segments = @import("doomed.zig");
const heap = @import("heap.zig");
const Order = @import("order.zig").Order;
const Segment = @import("segment.zig").Segment;
const status = @import("status.zig");
const sync = @import("sync.zig");
const Tags = @import("tags.zig").Tags;

pub const Registry = struct {
    mutex: sync.Mutex = .{},
    /// Signalled when a pin is dropped or a segment stops moving.
    changed: sync.Condition = .{},
    segments: std.AutoHashMapUnmanaged(u64, *Segment) = .empty,
    /// Records handed out by `create` that are not in the table yet; the table always has room for them.
    pending: u32 = 0,
    next_id: u64 = 1,
    /// Segments to release, the ones tried last at the end. Some have no place in the table.
    doomed: std.DoublyLinkedList = .{},
    last_sweep: u64 = 0,
    /// Grows with each change that makes a plan for the table as it was before wrong. New segments and those that are
    /// freed do not: plans leave out the ones and do without the others.
    version: u64 = 1,
    is_plan_outdated: bool = false,
    /// Some memory that is awake may have a backup.
    keeps_backups: std.atomic.Value(bool) = .init(false),
    /// Of the wake-up that runs: memory that it has made ready can be used while the rest is copied.
    waking: ?*const Order = null,
    tags: Tags = .{},

    pub fn deinit(self: *Registry) void {
        self.segments.deinit(heap.allocator);
        self.tags.deinit();
    }

    pub fn set(
        self: *Registry,
        segment: *Segment,
        comptime field: std.meta.FieldEnum(Segment),
        value: @FieldType(Segment, @tagName(field)),
    ) void {
        self.mutex.lock();
        defer self.mutex.unlock();
        @field(segment, @tagName(field)) = value;
    }

    /// Gives live content a backup to be copied to.
    pub fn save(self: *Registry, segment: *Segment, target: Backup) void {
        self.mutex.lock();
        defer self.mutex.unlock();
        segment.content.save(target);
    }

    pub fn setChecksum(self: *Registry, segment: *Segment, checksum: ?u64) void {
        self.mutex.lock();
        defer self.mutex.unlock();
        segment.content.setChecksum(checksum);
    }

    /// How a backup is taken away from a segment.
    pub const Taking = enum {
        /// Content that is nowhere else is discarded.
        drop,
        /// Only what a failed sleep left.
        drop_unfinished,
        discard,
        /// Device memory holds the content again.
        restore,
        /// As `restore`, of content that is immutable from here on.
        restore_immutable,
        /// As `restore`, of content that its users may have changed meanwhile.
        restore_used,
    };

    /// Takes the backup away from a segment, or null where it has none or keeps it. The caller drops it.
    pub fn takeBackup(self: *Registry, segment: *Segment, how: Taking) ?Backup {
        self.mutex.lock();
        defer self.mutex.unlock();
        const content = &segment.content;
        const taken = switch (how) {
            .drop => content.takeBackup(),
            .drop_unfinished => content.takeUnfinished(),
            .discard => content.discard(),
            .restore => content.restore(false),
            .restore_immutable => content.restore(true),
            .restore_used => content.restoreUsed(),
        };
        if (how == .discard) segment.discards +%= 1;
        if (how == .restore_immutable) self.keeps_backups.store(true, .release);
        if (taken != null and !segment.doomed) self.version += 1;
        return taken;
    }

    /// Claims a segment that is awake, as a plan does: no copy of a user runs on it until `stopMoving`.
    pub fn claim(self: *Registry, address: u64, id: u64) status.Error!*Segment {
        self.mutex.lock();
        defer self.mutex.unlock();
        const segment = try self.findAtRest(address, id);
        if (!segment.isAwake()) return error.Asleep;
        self.version += 1; // a plan made before would leave it out
        self.startMoving(segment);
        return segment;
    }

    /// Takes a segment at rest for one user alone, and waits for the copies that run on it. With the mutex held.
    pub fn startMoving(self: *Registry, segment: *Segment) void {
        segment.moving = true;
        self.waitForPins(segment);
    }

    /// Ends what `claim`, `doom` and `takeDoomed` began. True when the segment is doomed: a sweep must release it.
    pub fn stopMoving(self: *Registry, segment: *Segment) bool {
        self.mutex.lock();
        defer self.mutex.unlock();
        segment.moving = false;
        self.changed.broadcast();
        return segment.doomed;
    }

    /// Gives a claimed segment a backup that is the same as its content, which is immutable from then on. The caller
    /// drops the one before.
    pub fn replaceBackup(self: *Registry, segment: *Segment, new: Backup) ?Backup {
        self.mutex.lock();
        defer self.mutex.unlock();
        const replaced = segment.content.backup();
        self.version += 1;
        segment.content = .{ .clean = .{ .backup = new } };
        return replaced;
    }

    /// Whether a failed sleep left a backup that its copies may still write to.
    pub fn isUnfinished(self: *Registry, segment: *const Segment) bool {
        self.mutex.lock();
        defer self.mutex.unlock();
        return segment.content == .saving;
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

    /// The segment's id; null when the table has a segment at that address already: its device was reset by somebody,
    /// and AscendCL has given the address out again.
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

    /// Takes a segment out of the table before its address is released: from then on AscendCL may give the address to
    /// another thread, whose segment has to find its place free. False when it was not in the table.
    pub fn unlist(self: *Registry, segment: *Segment) bool {
        self.mutex.lock();
        defer self.mutex.unlock();
        if (!segment.listed) return false;
        _ = self.segments.remove(segment.address);
        segment.listed = false;
        self.pending += 1;
        return true;
    }

    /// Puts back a segment whose address could not be released. If AscendCL gave the address to another segment, that
    /// one keeps the place in the table.
    pub fn relist(self: *Registry, segment: *Segment) void {
        self.mutex.lock();
        defer self.mutex.unlock();
        const entry = self.segments.getOrPutAssumeCapacity(segment.address);
        if (entry.found_existing) return;
        entry.value_ptr.* = segment;
        segment.listed = true;
        self.pending -= 1;
    }

    /// Drops the record of a segment that holds nothing.
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

    /// As `find`, of a segment that nobody moves or releases. With the mutex held.
    pub fn findAtRest(self: *Registry, address: u64, id: u64) status.Error!*Segment {
        const segment = try self.find(address, id);
        if (segment.doomed) return error.UnknownSegment;
        return if (segment.moving) error.Moving else segment;
    }

    /// How many segments there are, also without a place in the table. With the mutex held.
    pub fn segmentCount(self: *const Registry) usize {
        var unlisted: usize = 0;
        var iterator: doomed_segments.Iterator = .init(&self.doomed);
        while (iterator.next()) |segment| unlisted += @intFromBool(!segment.listed);
        return self.segments.count() + unlisted;
    }

    /// Every segment, by id. With the mutex held; the caller frees the list.
    pub fn inOrder(self: *const Registry) status.Error![]*const Segment {
        var list: std.ArrayList(*const Segment) = .empty;
        list.ensureTotalCapacityPrecise(heap.allocator, self.segmentCount()) catch return error.OutOfHostMemory;
        var listed = self.segments.valueIterator();
        while (listed.next()) |entry| list.appendAssumeCapacity(entry.*);
        var doomed: doomed_segments.Iterator = .init(&self.doomed);
        while (doomed.next()) |segment| if (!segment.listed) list.appendAssumeCapacity(segment);
        std.mem.sortUnstable(*const Segment, list.items, {}, isOlder);
        return list.items;
    }

    fn isOlder(_: void, a: *const Segment, b: *const Segment) bool {
        return a.id < b.id;
    }

    pub const Access = enum {
        reading,
        writing,
        /// As `writing`, but not of what a wake-up still moves: its failure would undo it.
        loading,
    };

    /// Pins a segment for a copy of `size_bytes` at `offset_bytes`, so that no plan and no release touches it
    /// meanwhile.
    pub fn pin(
        self: *Registry,
        address: u64,
        id: u64,
        offset_bytes: u64,
        size_bytes: u64,
        access: Access,
    ) status.Error!*Segment {
        self.mutex.lock();
        defer self.mutex.unlock();
        const segment = try self.find(address, id);
        if (segment.doomed) return error.UnknownSegment;
        if (segment.moving) {
            if (!self.isReady(segment, access)) return error.Moving;
        } else if (!segment.isAwake()) return error.Asleep;
        if (!isWithin(offset_bytes, size_bytes, segment.requested_bytes)) return error.OutOfBounds;
        if (access != .reading and segment.content.isImmutable()) return error.Immutable;
        segment.pins += 1;
        return segment;
    }

    /// Whether the wake-up that moves a segment has brought its content back.
    fn isReady(self: *const Registry, segment: *const Segment, access: Access) bool {
        const order = self.waking orelse return false;
        const ordered = segment.ordered orelse return false;
        return order.isReady(ordered.group) and (access == .reading or (access == .writing and ordered.mutable));
    }

    const PinnedBackup = struct { segment: *Segment, backup: Backup };

    /// Pins a segment whose backup is whole for a copy of `size_bytes` at `offset_bytes` of it. The backup stays until
    /// `unpin`: whoever drops one claims the segment first, or refuses while it is pinned.
    pub fn pinBackup(
        self: *Registry,
        address: u64,
        id: u64,
        offset_bytes: u64,
        size_bytes: u64,
    ) status.Error!PinnedBackup {
        self.mutex.lock();
        defer self.mutex.unlock();
        const segment = try self.findAtRest(address, id);
        const backup = switch (segment.content) {
            .offloaded, .clean => segment.content.backup() orelse return error.NoBackup,
            .live, .saving, .discarded => return error.NoBackup,
        };
        if (!isWithin(offset_bytes, size_bytes, segment.size_bytes)) return error.OutOfBounds;
        segment.pins += 1;
        return .{ .segment = segment, .backup = backup };
    }

    fn isWithin(offset_bytes: u64, size_bytes: u64, end_bytes: u64) bool {
        return offset_bytes <= end_bytes and size_bytes <= end_bytes - offset_bytes;
    }

    /// True when the segment was freed meanwhile, so that a sweep must release it.
    pub fn unpin(self: *Registry, segment: *Segment) bool {
        self.mutex.lock();
        defer self.mutex.unlock();
        segment.pins -= 1;
        if (segment.pins > 0) return false;
        self.changed.broadcast();
        return segment.doomed and !segment.moving;
    }

    /// Marks a segment for release. Returns it when the caller is to release it now, and null when it moves: whoever
    /// moves it releases it afterwards. A segment whose release failed earlier is handed out again. Without an id,
    /// whichever segment is at the address, as a native thread names it. One that a copy runs on is waited for, or is
    /// left to whoever unpins it.
    pub fn doom(self: *Registry, address: u64, id: ?u64, pinned: enum { waits, leaves }) status.Error!?*Segment {
        self.mutex.lock();
        defer self.mutex.unlock();
        const segment = self.segments.get(address) orelse return error.UnknownSegment;
        if (id != null and segment.id != id.?) return error.UnknownSegment;
        self.markDoomed(segment);
        if (segment.moving or (segment.pins > 0 and pinned == .leaves)) return null;
        self.startMoving(segment);
        return segment;
    }

    /// Begins a sweep, in which `takeDoomed` hands out each segment once. Only the executor's thread sweeps.
    pub fn beginSweep(self: *Registry) u64 {
        self.mutex.lock();
        defer self.mutex.unlock();
        self.last_sweep += 1;
        return self.last_sweep;
    }

    /// The next segment to release in this sweep, marked as moving; null when none is left. One that moves or is
    /// pinned waits for the next sweep. Needs no memory, so that closing gives everything back where there is none.
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

    /// Keeps the record of an allocation that failed and could not be undone, so that its release is tried again. It
    /// has no place in the table: it may have no address, or one that another segment has.
    pub fn keep(self: *Registry, segment: *Segment) void {
        self.mutex.lock();
        defer self.mutex.unlock();
        segment.id = self.next_id;
        self.next_id += 1;
        self.markDoomed(segment);
    }

    pub fn markDoomed(self: *Registry, segment: *Segment) void {
        if (!segment.doomed) self.doomed.append(&segment.doomed_node);
        segment.doomed = true;
    }

    /// Ends a release that did not succeed, which a sweep repeats. `awaits_device` where the device was busy.
    pub fn postpone(self: *Registry, segment: *Segment, awaits_device: bool) void {
        self.mutex.lock();
        defer self.mutex.unlock();
        segment.awaits_device = awaits_device;
        segment.moving = false;
        self.changed.broadcast();
    }

    /// Whether the release of any segment waits for a device.
    pub fn awaitsDevice(self: *Registry, device: u32) bool {
        self.mutex.lock();
        defer self.mutex.unlock();
        return doomed_segments.awaitsDevice(&self.doomed, device);
    }

    /// Bytes whose release waits for a device.
    pub fn awaitedBytes(self: *Registry, device: u32) u64 {
        self.mutex.lock();
        defer self.mutex.unlock();
        return doomed_segments.awaitedBytes(&self.doomed, device);
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

    /// Makes the content of every segment of a tag immutable, or ends that: then a backup of it is only memory, which
    /// the caller drops. Ending it is refused, with nothing changed, while any of the tag sleeps or moves.
    pub fn setImmutable(self: *Registry, tag: u32, immutable: bool, dropped: *std.ArrayList(Backup)) status.Error!void {
        self.mutex.lock();
        defer self.mutex.unlock();
        if (tag >= self.tags.names.items.len) return error.UnknownTag;
        if (!immutable) try self.reserveForMutable(tag, dropped);
        self.version += 1;
        var iterator = self.segments.valueIterator();
        while (iterator.next()) |entry| {
            const segment = entry.*;
            if (segment.tag != tag or segment.doomed) continue;
            if (!immutable and segment.content == .clean) {
                if (segment.content.takeBackup()) |taken| dropped.appendAssumeCapacity(taken);
            }
            segment.content.setImmutable(immutable);
        }
    }

    /// Room for every backup that is dropped when a tag's content stops being immutable.
    fn reserveForMutable(self: *Registry, tag: u32, dropped: *std.ArrayList(Backup)) status.Error!void {
        var clean_count: usize = 0;
        var iterator = self.segments.valueIterator();
        while (iterator.next()) |entry| {
            const segment = entry.*;
            if (segment.tag != tag or segment.doomed) continue;
            if (segment.moving) return error.Moving;
            if (!segment.isAwake()) return error.Asleep;
            if (segment.content != .clean) continue;
            if (segment.pins > 0) return error.Moving; // a copy may read the backup
            clean_count += 1;
        }
        dropped.ensureUnusedCapacity(heap.allocator, clean_count) catch return error.OutOfHostMemory;
    }

    /// Takes the backups that failed sleeps left to memory that is awake. The caller drops them.
    pub fn takeUnfinished(self: *Registry, device: u32, list: *std.ArrayList(Backup)) status.Error!void {
        self.mutex.lock();
        defer self.mutex.unlock();
        list.ensureUnusedCapacity(heap.allocator, self.segments.count()) catch return error.OutOfHostMemory;
        self.version += 1;
        var iterator = self.segments.valueIterator();
        while (iterator.next()) |entry| {
            const segment = entry.*;
            if (segment.device != device or segment.moving or !segment.isAwake()) continue;
            if (segment.content.takeUnfinished()) |taken| list.appendAssumeCapacity(taken);
        }
    }

    /// Waits, with the mutex held, until no copy runs on a segment that is already marked as moving.
    pub fn waitForPins(self: *Registry, segment: *const Segment) void {
        while (segment.pins > 0) self.changed.wait(&self.mutex);
    }
};

/// Every segment in the table, in no order. With the mutex held. A sleep finds the table long out of the processor's
/// caches: segments are fetched ahead of their turn.
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
        while (line < @sizeOf(Segment)) : (line += std.atomic.cache_line) {
            const part: [*]const u8 = @ptrFromInt(start + line);
            @prefetch(part, .{});
        }
    }
};

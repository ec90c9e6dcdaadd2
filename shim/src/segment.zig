//! One segment: an address range, the memory behind it, and where its content is.

const std = @import("std");
const acl = @import("acl");
const backups = @import("backup.zig");
const host = @import("host.zig");
const Backup = backups.Backup;

/// The size of a segment for `requested_bytes`: whole multiples of the device's granularity. Null beyond 64 bits.
pub fn paddedBytes(requested_bytes: u64, granularity: u64) ?u64 {
    const padded = std.math.add(u64, requested_bytes, granularity - 1) catch return null;
    return padded & ~(granularity - 1);
}

/// A backup, and what is known of it.
const Saved = struct {
    backup: Backup,
    /// Of a backup that is verified before it is relied on.
    checksum: ?u64 = null,
};

/// Where the content of a segment is. Immutable content refuses writes through this shim, and keeps its backup when
/// it wakes.
pub const Content = union(enum) {
    /// In device memory alone. That memory is unmapped where a failed sleep could not be undone: then the segment
    /// counts as asleep, and a wake-up only maps it.
    live: struct { immutable: bool = false },
    /// In device memory, while a sleep copies it to a backup. A failed sleep leaves it so where its copies may still
    /// run.
    saving: struct { immutable: bool, saved: Saved },
    /// In device memory and, the same, in a backup, so that a sleep need not copy it. Such content is immutable.
    clean: Saved,
    /// In a backup alone.
    offloaded: struct { immutable: bool, saved: Saved },
    /// Nowhere.
    discarded,

    pub fn isLive(self: *const Content) bool {
        return switch (self.*) {
            .live, .saving, .clean => true,
            .offloaded, .discarded => false,
        };
    }

    pub fn isImmutable(self: *const Content) bool {
        return switch (self.*) {
            .live => |*live| live.immutable,
            .saving => |*saving| saving.immutable,
            .clean => true,
            .offloaded => |*offloaded| offloaded.immutable,
            .discarded => false,
        };
    }

    pub fn backup(self: *const Content) ?Backup {
        return switch (self.*) {
            .live, .discarded => null,
            .saving => |*saving| saving.saved.backup,
            .clean => |*saved| saved.backup,
            .offloaded => |*offloaded| offloaded.saved.backup,
        };
    }

    /// Whether its backup is in ordinary memory.
    pub fn isPageable(self: *const Content) bool {
        const found = self.backup() orelse return false;
        return found == .pageable;
    }

    pub fn checksum(self: *const Content) ?u64 {
        return switch (self.*) {
            .live, .discarded => null,
            .saving => |*saving| saving.saved.checksum,
            .clean => |*saved| saved.checksum,
            .offloaded => |*offloaded| offloaded.saved.checksum,
        };
    }

    /// Records the checksum of a backup, or that it has none.
    pub fn setChecksum(self: *Content, new: ?u64) void {
        switch (self.*) {
            .live, .discarded => {},
            .saving => |*saving| saving.saved.checksum = new,
            .clean => |*saved| saved.checksum = new,
            .offloaded => |*offloaded| offloaded.saved.checksum = new,
        }
    }

    /// Clean content stays as it is: it has no other state that is mutable than without its backup.
    pub fn setImmutable(self: *Content, immutable: bool) void {
        switch (self.*) {
            .live => |*live| live.immutable = immutable,
            .saving => |*saving| saving.immutable = immutable,
            .offloaded => |*offloaded| offloaded.immutable = immutable,
            .clean, .discarded => {},
        }
    }

    /// Live content is copied to `target` from here on.
    pub fn save(self: *Content, target: Backup) void {
        const immutable = self.isImmutable();
        self.* = .{ .saving = .{ .immutable = immutable, .saved = .{ .backup = target } } };
    }

    /// The backup is whole, and the only place from here on.
    pub fn offload(self: *Content, immutable: bool) void {
        const final = immutable or self.isImmutable();
        const saved: Saved = switch (self.*) {
            .live, .discarded => return,
            .saving => |saving| saving.saved,
            .clean => |saved| saved,
            .offloaded => |offloaded| offloaded.saved,
        };
        self.* = .{ .offloaded = .{ .immutable = final, .saved = saved } };
    }

    /// Device memory holds the content again. Returns the backup unless it is kept, as `immutable` content and a
    /// checkpoint's is.
    pub fn restore(self: *Content, immutable: bool) ?Backup {
        switch (self.*) {
            .live, .clean => return null,
            .saving => return self.takeBackup(),
            .discarded => {
                self.* = .{ .live = .{} };
                return null;
            },
            .offloaded => |offloaded| {
                const saved = offloaded.saved;
                const keeps = immutable or offloaded.immutable or saved.backup.isCheckpoint();
                self.* = if (keeps) .{ .clean = saved } else .{ .live = .{} };
                return if (keeps) null else saved.backup;
            },
        }
    }

    /// As `restore`, where the content may not be that of the backup any more.
    pub fn restoreUsed(self: *Content) ?Backup {
        const offloaded = switch (self.*) {
            .offloaded => |offloaded| offloaded,
            else => return self.restore(false),
        };
        self.* = .{ .live = .{ .immutable = offloaded.immutable } };
        return offloaded.saved.backup;
    }

    /// Takes the backup away. What was nowhere else is discarded.
    pub fn takeBackup(self: *Content) ?Backup {
        const taken = self.backup() orelse return null;
        // Read before the union is overwritten.
        const is_live = self.isLive();
        const immutable = self.isImmutable();
        self.* = if (is_live) .{ .live = .{ .immutable = immutable } } else .discarded;
        return taken;
    }

    /// Takes away the backup that a failed sleep left.
    pub fn takeUnfinished(self: *Content) ?Backup {
        return if (self.* == .saving) self.takeBackup() else null;
    }

    /// Takes the backup, if any, of content that is dropped.
    pub fn discard(self: *Content) ?Backup {
        const taken = self.backup();
        self.* = .discarded;
        return taken;
    }
};

/// Where a segment is, as its users see it.
pub const State = enum(u32) { mapped = 1, offloaded = 2, discarded = 3 };

/// What a segment has when its address range is another's and its memory must come back as its owner made it.
pub const Borrowed = struct {
    /// Of the physical memory.
    prop: acl.PhysicalMemProp,
    /// Mapped without access for its own device.
    no_access: bool = false,
    /// The access that its owner has set, in order.
    access: std.ArrayList(acl.MemAccessDesc) = .empty,
};

pub const Segment = struct {
    /// 0 until it is reserved.
    address: u64 = 0,
    /// A multiple of the device's granularity.
    size_bytes: u64,
    /// What the caller asked for. Copies stay within it: nothing beyond it is content.
    requested_bytes: u64,
    /// Never used twice, unlike an address. In the order in which segments came into the table; 0 before that.
    id: u64 = 0,
    device: u32,
    tag: u32,
    /// Of its physical memory.
    mem_attr: c_int = acl.MemAttr.hbm_huge,
    content: Content = .{ .live = .{} },
    /// How often a sleep has discarded its content.
    discards: u32 = 0,
    handle: acl.DrvMemHandle = null,
    mapped: bool = false,
    /// Set where the address range is not ours; its owner keeps the record until the segment is destroyed.
    borrowed: ?*const Borrowed = null,
    reserved: bool = false,
    /// Owned by a plan or by a release in progress: nobody else touches it, but to make it immutable, and to use what
    /// a wake-up has made ready.
    moving: bool = false,
    /// While a wake-up in an order moves it: its group, and whether its content will be mutable.
    ordered: ?struct { group: u32, mutable: bool } = null,
    /// To be released as soon as it no longer moves; its user has let go of it.
    doomed: bool = false,
    /// Doomed, and released once its device is not busy.
    awaits_device: bool = false,
    /// Copies of users that are running on it.
    pins: u32 = 0,
    /// In the table.
    listed: bool = false,
    /// In the list of doomed segments.
    doomed_node: std.DoublyLinkedList.Node = .{},
    /// The sweep that tried to release it last.
    last_sweep: u64 = 0,

    /// Not before it is reserved.
    pub fn pointer(self: *const Segment) *anyopaque {
        return @ptrFromInt(self.address);
    }

    pub fn isAwake(self: *const Segment) bool {
        return self.mapped and self.content.isLive();
    }

    /// Asleep, yet it holds device memory that could not be given back, or that holds its content.
    pub fn isUnreleased(self: *const Segment) bool {
        return !self.isAwake() and self.handle != null;
    }

    /// Awake, and its backup is the same as its content.
    pub fn isClean(self: *const Segment) bool {
        return self.isAwake() and self.content == .clean;
    }

    /// The backup, where it is in a file.
    pub fn fileBackup(self: *const Segment) ?backups.InFile {
        const found = self.content.backup() orelse return null;
        return switch (found) {
            .host, .pageable => null,
            .file => |in_file| in_file,
        };
    }

    /// Its content is in a checkpoint.
    pub fn isInCheckpoint(self: *const Segment) bool {
        const found = self.content.backup() orelse return false;
        return found.isCheckpoint();
    }

    pub fn state(self: *const Segment) State {
        if (self.isAwake()) return .mapped;
        return if (self.content == .discarded) .discarded else .offloaded;
    }

    /// Bytes of device memory held now.
    pub fn committedBytes(self: *const Segment) u64 {
        return if (self.handle != null) self.size_bytes else 0;
    }

    /// Bytes that a copy of its content moves.
    pub fn contentBytes(self: *const Segment) u64 {
        const found = self.content.backup() orelse return self.requested_bytes;
        return if (found.isCheckpoint()) found.checkpointBytes() else self.requested_bytes;
    }

    pub fn info(self: *const Segment) Info {
        var described: Info = .{
            .address = self.address,
            .segment_id = self.id,
            .size_bytes = self.size_bytes,
            .committed_bytes = self.committedBytes(),
            .device = self.device,
            .tag = self.tag,
            .state = @intFromEnum(self.state()),
            .moving = @intFromBool(self.moving),
            .doomed = @intFromBool(self.doomed),
            .unreleased = @intFromBool(self.isUnreleased()),
            .clean = @intFromBool(self.isClean()),
            .immutable = @intFromBool(self.content.isImmutable()),
            .discards = self.discards,
        };
        const found = self.content.backup() orelse return described;
        described.host_bytes = found.hostBytes();
        described.pageable_bytes = found.pageableBytes();
        described.host_address = found.hostAddress();
        described.spilled_bytes = found.spilledBytes();
        described.checkpoint_bytes = found.checkpointBytes();
        return described;
    }
};

/// A segment as it crosses the C ABI.
pub const Info = extern struct {
    address: u64,
    segment_id: u64,
    /// Bytes of device memory when mapped.
    size_bytes: u64,
    /// Bytes of device memory held now, also where giving them back failed.
    committed_bytes: u64,
    /// Bytes of page-locked host memory that hold its content.
    host_bytes: u64 = 0,
    /// Bytes of ordinary memory that hold its content.
    pageable_bytes: u64 = 0,
    /// Where either begins; 0 without any. They need not lie next to each other.
    host_address: u64 = 0,
    /// Bytes of a spill file that hold its content.
    spilled_bytes: u64 = 0,
    /// Bytes of a checkpoint that are its content.
    checkpoint_bytes: u64 = 0,
    device: u32,
    tag: u32,
    /// A `SegmentState`.
    state: u32,
    /// 1 while a plan or a release owns it.
    moving: u32,
    /// 1 when it was freed and its release is still to come.
    doomed: u32,
    /// 1 when it is asleep and device memory could not be given back.
    unreleased: u32,
    /// 1 when it is awake and its backup is the same as its content.
    clean: u32,
    /// 1 when writes to it are refused.
    immutable: u32,
    /// How often a sleep has discarded its content.
    discards: u32,
};

test "Content keeps a backup through a wake-up only where it is immutable" {
    var extents = [_]host.Extent{};
    const saved: Backup = .{ .host = &extents };
    var content: Content = .{ .live = .{} };
    content.save(saved);
    content.offload(false);
    try std.testing.expect(!content.isLive());
    try std.testing.expectEqual(saved, content.restore(false));
    try std.testing.expectEqual(Content{ .live = .{} }, content);
    content.save(saved);
    content.setChecksum(7);
    content.offload(true);
    try std.testing.expectEqual(null, content.restore(false));
    try std.testing.expectEqual(Content{ .clean = .{ .backup = saved, .checksum = 7 } }, content);
    content.offload(false);
    try std.testing.expect(content.isImmutable());
    try std.testing.expectEqual(saved, content.takeBackup());
    try std.testing.expectEqual(Content.discarded, content);
}

test "Content is live and as mutable as before when a failed sleep takes its backup away" {
    var extents = [_]host.Extent{};
    for ([_]bool{ false, true }) |immutable| {
        var content: Content = .{ .live = .{ .immutable = immutable } };
        content.save(.{ .host = &extents });
        try std.testing.expect(content.takeUnfinished() != null);
        try std.testing.expectEqual(Content{ .live = .{ .immutable = immutable } }, content);
        try std.testing.expectEqual(null, content.takeUnfinished());
    }
}

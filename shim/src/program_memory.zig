//! What a session beside a program does with the table of segments, besides what plans and releases do: the program
//! unmaps, pins and rewrites memory that the table has.

const Backup = @import("backup.zig").Backup;
const doomed_segments = @import("doomed.zig");
const registry = @import("registry.zig");
const Segment = @import("segment.zig").Segment;
const status = @import("status.zig");
const Registry = registry.Registry;

/// As `claim`, whether the segment is awake or asleep.
pub fn claimAny(table: *Registry, address: u64, id: u64) status.Error!*Segment {
    table.mutex.lock();
    defer table.mutex.unlock();
    const segment = try table.findAtRest(address, id);
    table.version += 1;
    table.startMoving(segment);
    return segment;
}

/// Returns once nothing moves a segment, or there is none.
pub fn waitWhileMoving(table: *Registry, address: u64, id: u64) void {
    table.mutex.lock();
    defer table.mutex.unlock();
    while (true) {
        const segment = table.find(address, id) catch return;
        if (!segment.moving) return;
        table.changed.wait(&table.mutex);
    }
}

/// Gives a claimed segment that is not mapped another address range, one of ours.
pub fn moveTo(table: *Registry, segment: *Segment, address: u64) void {
    table.mutex.lock();
    defer table.mutex.unlock();
    _ = table.segments.remove(segment.address);
    if (segment.borrowed) |owner| segment.mem_attr = owner.prop.mem_attr;
    segment.borrowed = null;
    segment.address = address;
    table.segments.putAssumeCapacity(address, segment);
}

/// Marks a claimed segment for release by the caller.
pub fn doomClaimed(table: *Registry, segment: *Segment) void {
    table.mutex.lock();
    defer table.mutex.unlock();
    table.markDoomed(segment);
}

/// Takes the backup of content that is awake; null where it has none.
pub fn takeClean(table: *Registry, address: u64, id: u64) ?Backup {
    table.mutex.lock();
    defer table.mutex.unlock();
    const segment = table.find(address, id) catch return null;
    if (!segment.isClean()) return null;
    table.version += 1;
    const taken = segment.content.takeBackup();
    segment.content.setImmutable(false);
    return taken;
}

/// Gives a segment another tag. A plan that has claimed it was made for the tag before, and must not run.
pub fn retag(table: *Registry, address: u64, id: u64, tag: u32) void {
    table.mutex.lock();
    defer table.mutex.unlock();
    const segment = table.find(address, id) catch return;
    if (segment.tag == tag) return;
    segment.tag = tag;
    table.version += 1;
    if (segment.moving) table.is_plan_outdated = true;
}

/// Whether the plan that runs was made for other tags. Asked once, when nothing can change them any more.
pub fn takeOutdated(table: *Registry) bool {
    table.mutex.lock();
    defer table.mutex.unlock();
    defer table.is_plan_outdated = false;
    return table.is_plan_outdated;
}

/// Whether the content of any segment is not in device memory. What waits for its release does not count.
pub fn isAnyAsleep(table: *Registry) bool {
    table.mutex.lock();
    defer table.mutex.unlock();
    var iterator: registry.Iterator = .init(table);
    while (iterator.next()) |segment| if (!segment.doomed and !segment.isAwake()) return true;
    return false;
}

/// Whether any segment of a device is left, also one that waits for its release.
pub fn hasDevice(table: *Registry, device: u32) bool {
    table.mutex.lock();
    defer table.mutex.unlock();
    var iterator: registry.Iterator = .init(table);
    while (iterator.next()) |segment| if (segment.device == device) return true;
    var doomed: doomed_segments.Iterator = .init(&table.doomed);
    while (doomed.next()) |segment| if (segment.device == device) return true;
    return false;
}

pub fn doomDevice(table: *Registry, device: u32) void {
    table.mutex.lock();
    defer table.mutex.unlock();
    var iterator = table.segments.valueIterator();
    while (iterator.next()) |entry| if (entry.*.device == device) table.markDoomed(entry.*);
}

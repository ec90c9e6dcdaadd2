//! Physical memory handles. The handle's memory lives while the caller holds a reference, or a mapping, or another
//! process an import.

const std = @import("std");
const acl = @import("acl");
const state = @import("state.zig");
const handles = @import("handles.zig");
const share = @import("share.zig");
const Backing = @import("backing.zig").Backing;

pub const Physical = struct {
    handle: u64 = 0,
    backing: *Backing,
    /// User id of the device that it lies on, or that imported it; null on the host.
    device: ?u8,
    mem_attr: c_int,
    /// What the caller still has to give back with aclrtFreePhysical.
    references: u32 = 1,
    mappings: u32 = 0,
    giant_pages: bool = false,
    /// The shareable handle it was imported from, or 0.
    import_key: u64 = 0,
    exported: bool = false,

    pub fn dropReference(physical: *Physical) void {
        physical.references -= 1;
        physical.destroyIfUnused();
    }

    pub fn dropMapping(physical: *Physical) void {
        physical.mappings -= 1;
        physical.destroyIfUnused();
    }

    fn destroyIfUnused(physical: *Physical) void {
        if (physical.references > 0 or physical.mappings > 0) return;
        if (physical.exported) share.closeAllOf(physical.backing);
        registry.remove(physical.handle);
        physical.backing.release();
        state.allocator.destroy(physical);
    }
};

pub var registry: handles.Registry(Physical, .physical) = .{};

/// Takes over the backing, on failure too.
pub fn add(physical: Physical) error{OutOfMemory}!*Physical {
    errdefer physical.backing.release();
    const stored = try state.allocator.create(Physical);
    errdefer state.allocator.destroy(stored);
    stored.* = physical;
    stored.handle = try registry.add(stored);
    return stored;
}

/// Handles that the caller still has to give back.
pub fn liveCount() u64 {
    var count: u64 = 0;
    for (registry.items.values()) |physical| {
        if (physical.references > 0) count += 1;
    }
    return count;
}

pub fn findImport(key: u64) ?*Physical {
    for (registry.items.values()) |physical| {
        if (physical.import_key == key and physical.references > 0) return physical;
    }
    return null;
}

/// The device was closed under its handles: they are stale from now on. Its mappings are gone already.
pub fn dropDevice(device: u8) void {
    var index = registry.items.count();
    while (index > 0) {
        index -= 1;
        const physical = registry.items.values()[index];
        if (physical.device != device) continue;
        physical.references = 1;
        physical.dropReference();
    }
}

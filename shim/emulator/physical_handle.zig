//! Handles of physical memory (aclrtDrvMemHandle). The memory lives while the caller holds a reference, a mapping
//! uses it, or another process has imported it.

const std = @import("std");
const acl = @import("acl");
const errors = @import("errors.zig");
const handles = @import("handles.zig");
const memory_export = @import("memory_export.zig");
const physical = @import("physical.zig");
const Memory = physical.Memory;
const allocator = std.heap.c_allocator;

pub const PhysicalHandle = struct {
    number: u64 = 0,
    memory: *Memory,
    /// User id of the device that holds or imported it; null on the host.
    device: ?u8,
    mem_attr: c_int,
    /// References that the caller still must drop with aclrtFreePhysical.
    references: u32 = 1,
    mappings: u32 = 0,
    giant_pages: bool = false,
    /// The shareable handle it was imported from, or 0.
    import_key: u64 = 0,
    exported: bool = false,

    pub fn pageBytes(handle: *const PhysicalHandle) u64 {
        return if (handle.giant_pages) physical.giant_page_bytes else physical.huge_page_bytes;
    }

    pub fn dropReference(handle: *PhysicalHandle) void {
        handle.references -= 1;
        handle.destroyIfUnused();
    }

    pub fn dropMapping(handle: *PhysicalHandle) void {
        handle.mappings -= 1;
        handle.destroyIfUnused();
    }

    fn destroyIfUnused(handle: *PhysicalHandle) void {
        if (handle.references > 0 or handle.mappings > 0) return;
        if (handle.exported) memory_export.closeAllOf(handle.memory);
        registry.remove(handle.number);
        handle.memory.release();
        allocator.destroy(handle);
    }
};

pub var registry: handles.Registry(PhysicalHandle, .physical) = .{};

/// Takes over the memory, also on failure.
pub fn add(handle: PhysicalHandle) error{OutOfMemory}!*PhysicalHandle {
    errdefer handle.memory.release();
    const stored = try allocator.create(PhysicalHandle);
    errdefer allocator.destroy(stored);
    stored.* = handle;
    stored.number = try registry.add(stored);
    return stored;
}

pub fn stale() acl.Error {
    return errors.fail(acl.code.rt_invalid_handle, "no such physical memory handle, or freed already");
}

/// Handles that the caller still must free.
pub fn liveCount() u64 {
    var count: u64 = 0;
    for (registry.items.values()) |handle| {
        if (handle.references > 0) count += 1;
    }
    return count;
}

pub fn findImport(key: u64) ?*PhysicalHandle {
    for (registry.items.values()) |handle| {
        if (handle.import_key == key and handle.references > 0) return handle;
    }
    return null;
}

/// The device was closed: its handles are stale from now on. Its mappings are gone already.
pub fn dropDevice(device: u8) void {
    var index = registry.items.count();
    while (index > 0) {
        index -= 1;
        const handle = registry.items.values()[index];
        if (handle.device != device) continue;
        handle.references = 1;
        handle.dropReference();
    }
}

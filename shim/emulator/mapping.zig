//! Mappings of physical memory into reservations.

const acl = @import("acl");
const block_module = @import("block.zig");
const errors = @import("errors.zig");
const lock = @import("lock.zig");
const page_mapping = @import("page_mapping.zig");
const Block = block_module.Block;
const PhysicalHandle = @import("physical_handle.zig").PhysicalHandle;
const Reservation = @import("reservation.zig").Reservation;

pub fn at(start: u64) ?*Block {
    const entry = block_module.device_blocks.at(start) orelse return null;
    return if (entry.value.kind == .mapping and entry.value.is_ready) entry.value else null;
}

pub fn add(start: u64, size: u64, handle: *PhysicalHandle, reservation: *Reservation, accessible: bool) acl.Error {
    const failed = "the host could not map the memory";
    const block = block_module.add(.{
        .kind = .mapping,
        .start = start,
        .size = size,
        .page_bytes = @intCast(handle.pageBytes()),
        .device = handle.device,
        .memory = handle.memory,
        .handle = handle,
        .reservation = reservation,
        .accessible = accessible,
    }) catch return errors.fail(acl.code.rt_memory_allocation, failed);
    // The block's own reference, which it drops when it is destroyed.
    handle.memory.retain();
    handle.mappings += 1;
    reservation.mappings += 1;
    block.pins += 1;
    defer block.unpin();
    if (!block.map()) {
        _ = remove(block);
        return errors.fail(acl.code.rt_memory_allocation, failed);
    }
    reservation.side = .{ .device = handle.device };
    return acl.code.success;
}

pub fn remove(block: *Block) bool {
    if (!page_mapping.unmap(block.start, block.size)) return false;
    const handle = block.handle;
    if (block.reservation) |reservation| reservation.mappings -= 1;
    block.remove();
    if (handle) |mapped| mapped.dropMapping();
    return true;
}

/// Removes the mappings of a device that is being closed. The bare reservations stay until they are released.
pub fn dropDevice(id: u8) void {
    var address: u64 = 0;
    while (block_module.device_blocks.from(address)) |entry| {
        const block = entry.value;
        if (block.kind == .mapping and block.device == id) {
            // A running copy ends by itself.
            if (block.pins > 0) {
                block.awaited = true;
                lock.wait();
                continue;
            }
            if (!remove(block)) return;
        }
        address = entry.end;
    }
}

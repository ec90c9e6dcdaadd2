//! Counts what the process holds, so that a test can compare before and after a fault. Only the emulator has this.

const block = @import("block.zig");
const device = @import("device.zig");
const event = @import("event.zig");
const initialization = @import("initialization.zig");
const lock = @import("lock.zig");
const physical = @import("physical.zig");
const physical_handle = @import("physical_handle.zig");
const reservation = @import("reservation.zig");
const stream = @import("stream.zig");

/// camem_emulator_accounting_t: 18 consecutive uint64_t in this order.
pub const Accounting = extern struct {
    /// aclInit calls that were not finalized.
    init_references: u64 = 0,
    /// aclrtSetDevice calls that were not reset, all devices together.
    device_references: u64 = 0,
    /// Made by aclrtCreateContext.
    contexts: u64 = 0,
    /// Made by aclrtCreateStream*; default streams are not counted.
    streams: u64 = 0,
    events: u64 = 0,
    /// Handles that the caller still must free with aclrtFreePhysical, imported ones included.
    physical_handles: u64 = 0,
    /// Physical memory taken on devices and on the host. The exporter counts what others import.
    physical_bytes: u64 = 0,
    reservations: u64 = 0,
    reserved_bytes: u64 = 0,
    mappings: u64 = 0,
    mapped_bytes: u64 = 0,
    /// Of aclrtMalloc; bytes as taken from the budget.
    device_allocations: u64 = 0,
    device_allocation_bytes: u64 = 0,
    /// Of aclrtMallocHost; bytes in whole pages.
    host_allocations: u64 = 0,
    host_allocation_bytes: u64 = 0,
    host_registrations: u64 = 0,
    /// Queued or running on any stream.
    queued_tasks: u64 = 0,
    /// Freed device memory that stays populated for the next allocation. No other figure includes it.
    kept_bytes: u64 = 0,
};

pub fn read() Accounting {
    lock.enter();
    defer lock.leave();
    var result: Accounting = .{
        .init_references = initialization.references,
        .events = event.registry.items.count(),
        .physical_handles = physical_handle.liveCount(),
        .physical_bytes = physical.committed_bytes.get(.physical),
        .device_allocation_bytes = physical.committed_bytes.get(.allocation),
        .reservations = reservation.table.count,
    };
    countDevices(&result);
    countStreams(&result);
    countBlocks(&result);
    return result;
}

fn countDevices(result: *Accounting) void {
    for (device.all()) |*on| {
        result.device_references += on.set_references;
        result.contexts += on.explicit_contexts;
        result.kept_bytes += on.pool.kept.bytes;
    }
}

fn countStreams(result: *Accounting) void {
    for (stream.registry.items.values()) |queue| {
        if (!queue.is_default) result.streams += 1;
        result.queued_tasks += queue.submitted - queue.completed;
    }
}

fn countBlocks(result: *Accounting) void {
    var address: u64 = 0;
    while (reservation.table.from(address)) |entry| : (address = entry.end)
        result.reserved_bytes += entry.end - entry.start;
    address = 0;
    while (block.device_blocks.from(address)) |entry| : (address = entry.end) switch (entry.value.kind) {
        .mapping => {
            result.mappings += 1;
            result.mapped_bytes += entry.value.size;
        },
        .allocation => result.device_allocations += 1,
        else => {},
    };
    address = 0;
    while (block.host_blocks.from(address)) |entry| : (address = entry.end) switch (entry.value.kind) {
        .host_allocation => {
            result.host_allocations += 1;
            result.host_allocation_bytes += entry.value.size;
        },
        else => result.host_registrations += 1,
    };
}

//! What the process holds right now, for tests to assert around each fault. Only the emulator has these functions.

const std = @import("std");
const state = @import("state.zig");
const config = @import("config.zig");
const faults = @import("faults.zig");
const device = @import("device.zig");
const events = @import("event.zig");
const streams = @import("stream.zig");
const system = @import("system.zig");
const backing = @import("backing.zig");
const physical = @import("physical.zig");
const address_space = @import("address_space.zig");

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
    /// Handles that still have to be given back with aclrtFreePhysical, imported ones included.
    physical_handles: u64 = 0,
    /// Physical memory taken on devices and on the host; imports are their exporter's.
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
    /// Freed device memory that is kept touched for the next allocation. No part of the other figures.
    kept_bytes: u64 = 0,
};

pub fn read(out: ?*Accounting) c_int {
    const target = out orelse return -1;
    state.enter();
    defer state.leave();
    var result: Accounting = .{
        .init_references = system.initReferences(),
        .device_references = device.openReferences(),
        .contexts = device.explicitContexts(),
        .streams = streams.explicitCount(),
        .events = events.registry.items.count(),
        .physical_handles = physical.liveCount(),
        .physical_bytes = backing.committed_bytes.get(.physical),
        .device_allocation_bytes = backing.committed_bytes.get(.allocation),
        .reservations = address_space.reservations.count,
        .queued_tasks = streams.queuedTasks(),
        .kept_bytes = device.keptBytes(),
    };
    var address: u64 = 0;
    while (address_space.reservations.from(address)) |entry| : (address = entry.end)
        result.reserved_bytes += entry.end - entry.start;
    countBlocks(&result);
    target.* = result;
    return 0;
}

fn countBlocks(result: *Accounting) void {
    var address: u64 = 0;
    while (address_space.device_blocks.from(address)) |entry| : (address = entry.end) switch (entry.value.kind) {
        .mapping => {
            result.mappings += 1;
            result.mapped_bytes += entry.value.size;
        },
        .allocation => result.device_allocations += 1,
        else => {},
    };
    address = 0;
    while (address_space.host_blocks.from(address)) |entry| : (address = entry.end) switch (entry.value.kind) {
        .host_allocation => {
            result.host_allocations += 1;
            result.host_allocation_bytes += entry.value.size;
        },
        else => result.host_registrations += 1,
    };
}

pub fn setFaults(specification: ?[*:0]const u8) c_int {
    // The environment's faults must not arrive later and replace these.
    _ = config.get();
    const text = if (specification) |given| std.mem.span(given) else "";
    faults.replace(faults.parse(text) catch return -1);
    return 0;
}

pub fn callCount(name: ?[*:0]const u8) u64 {
    return faults.callCount(std.mem.span(name orelse return 0));
}

test "faults that cannot be parsed change nothing" {
    defer faults.replace(.empty);
    try std.testing.expectEqual(0, setFaults("aclrtFree:1=107000"));
    try std.testing.expectEqual(-1, setFaults("aclrtFree"));
    try std.testing.expectEqual(107000, faults.intercept(comptime faults.indexOf("aclrtFree")));
    try std.testing.expectEqual(1, callCount("aclrtFree"));
    try std.testing.expectEqual(0, setFaults(null));
    try std.testing.expectEqual(0, callCount("aclrtFree"));
    try std.testing.expectEqual(0, callCount(null));
    try std.testing.expectEqual(-1, read(null));
}

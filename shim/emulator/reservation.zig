//! Address ranges that aclrtReserveMemAddress reserved.

const std = @import("std");
const address_window = @import("address_window.zig");
const RangeTable = @import("range_table.zig").RangeTable;
const allocator = std.heap.c_allocator;

pub const Reservation = struct {
    start: u64,
    size: u64,
    mappings: u32 = 0,
    /// Set for good by the first mapping: the device's user id, or null for the host.
    side: ?Side = null,

    const Side = struct { device: ?u8 };
};

pub var table: RangeTable(*Reservation) = .{};

/// Records a range that was taken from the address window; on failure the range is released.
pub fn add(start: u64, size: u64) error{OutOfMemory}!void {
    errdefer address_window.release(start, size);
    const reservation = try allocator.create(Reservation);
    errdefer allocator.destroy(reservation);
    reservation.* = .{ .start = start, .size = size };
    try table.insert(start, start + size, reservation);
}

pub fn remove(reservation: *Reservation) void {
    table.remove(reservation.start);
    address_window.release(reservation.start, reservation.size);
    allocator.destroy(reservation);
}

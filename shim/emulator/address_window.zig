//! The device addresses of this process. They come from the vendor driver's window of 16 to 24 TiB where it is free.

const std = @import("std");
const linux = std.os.linux;
const RangeTable = @import("range_table.zig").RangeTable;

pub const start_address: u64 = 16 << 40;
pub const end_address: u64 = 24 << 40;

/// The driver's limit for one allocation and one reservation on Atlas A2 and A3.
pub const max_range_bytes: u64 = 128 << 30;

/// Every range taken from the address space, for any purpose.
var taken: RangeTable(void) = .{};
var next_address: u64 = start_address;

const no_access: linux.PROT = .{};

/// Next fit: a released address is reused late, so the use of a stale address becomes visible.
pub fn take(size: u64, alignment: u64) ?u64 {
    var address = next_address;
    var wrapped = false;
    var refusals: u32 = 0;
    while (refusals < 256) {
        const start = std.mem.alignForward(u64, address, alignment);
        const end = std.math.add(u64, start, size) catch return null;
        if (end > end_address) {
            if (wrapped) break;
            wrapped = true;
            address = start_address;
        } else if (taken.firstOverlap(start, end)) |other| {
            address = other.end;
        } else if (takeAt(start, size)) {
            next_address = end;
            return start;
        } else {
            // Foreign memory of unknown size lies here, so step over it in strides.
            refusals += 1;
            address = start + @max(alignment, 1 << 30);
        }
    }
    return takeAnywhere(size, alignment);
}

pub fn takeAt(start: u64, size: u64) bool {
    const result = linux.mmap(@ptrFromInt(start), size, no_access, .{
        .TYPE = .PRIVATE,
        .ANONYMOUS = true,
        .NORESERVE = true,
        .FIXED_NOREPLACE = true,
    }, -1, 0);
    if (linux.errno(result) != .SUCCESS) return false;
    // An old kernel does not know FIXED_NOREPLACE and takes the address as a hint.
    if (result != start) {
        _ = linux.munmap(@ptrFromInt(result), size);
        return false;
    }
    return record(start, size);
}

fn record(start: u64, size: u64) bool {
    taken.insert(start, start + size, {}) catch {
        _ = linux.munmap(@ptrFromInt(start), size);
        return false;
    };
    return true;
}

fn takeAnywhere(size: u64, alignment: u64) ?u64 {
    const length = std.math.add(u64, size, alignment) catch return null;
    const flags: linux.MAP = .{ .TYPE = .PRIVATE, .ANONYMOUS = true, .NORESERVE = true };
    const result = linux.mmap(null, length, no_access, flags, -1, 0);
    if (linux.errno(result) != .SUCCESS) return null;
    const start = std.mem.alignForward(u64, result, alignment);
    if (start > result) _ = linux.munmap(@ptrFromInt(result), start - result);
    const tail = result + length - (start + size);
    if (tail > 0) _ = linux.munmap(@ptrFromInt(start + size), tail);
    return if (record(start, size)) start else null;
}

pub fn release(start: u64, size: u64) void {
    taken.remove(start);
    _ = linux.munmap(@ptrFromInt(start), size);
}

/// Whether the range lies in the window with nothing mapped there. Allocators such as Bun's place host memory in the
/// window too, so an address inside it is not always a device address.
pub fn isUnallocated(address: u64, end: u64) bool {
    if (end <= start_address or address >= end_address) return false;
    const page = std.heap.pageSize();
    const start = std.mem.alignBackward(u64, @max(address, start_address), page);
    const length = std.mem.alignForward(u64, @min(end, end_address), page) - start;
    return linux.errno(linux.msync(@ptrFromInt(start), length, linux.MSF.ASYNC)) != .SUCCESS;
}

test "take returns aligned ranges of the window when it is free" {
    const size = 4 << 20;
    const start = take(size, 2 << 20) orelse return error.TestUnexpectedResult;
    try std.testing.expect(start >= start_address and start + size <= end_address);
    try std.testing.expect(!takeAt(start, size));
    const other = take(size, 1 << 30) orelse return error.TestUnexpectedResult;
    try std.testing.expectEqual(0, other % (1 << 30));
    release(start, size);
    release(other, size);
    try std.testing.expect(isUnallocated(start, start + 1));
}

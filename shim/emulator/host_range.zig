//! Whether the caller's own memory can be read or written. A copy from a bad address must return a code, as on a
//! device, where the driver looks up the pages before it starts.
//!
//! Up to 16 pages are checked one by one. A larger range is checked for holes as a whole, and for access in every
//! 2 MiB, because to look at each page of a large range would cost a good part of the copy. Page-locked memory of
//! aclrtMallocHost needs no check.

const std = @import("std");
const linux = std.os.linux;
const acl = @import("acl");
const errors = @import("errors.zig");

pub const Access = enum { read, write };

// Newer than Zig's list.
const madv_populate_read = 22;
const madv_populate_write = 23;

const exact_pages = 16;
const probe_stride: u64 = 2 << 20;

/// Called without the lock, as the first touch of a page can take long. The content does not change.
pub fn check(address: u64, size: u64, access: Access) acl.Error {
    const page = std.heap.pageSize();
    const start = std.mem.alignBackward(u64, address, page);
    const end = std.mem.alignForward(u64, address + size, page);
    if (start == 0) return bad();
    if (end - start <= exact_pages * page) return if (touch(start, end - start, access)) acl.code.success else bad();
    if (linux.errno(linux.msync(@ptrFromInt(start), end - start, linux.MSF.ASYNC)) == .NOMEM) return bad();
    var at = start;
    while (at < end) : (at += probe_stride) if (!touch(at, page, access)) return bad();
    return if (touch(end - page, page, access)) acl.code.success else bad();
}

fn touch(start: u64, size: u64, access: Access) bool {
    const advice: u32 = if (access == .read) madv_populate_read else madv_populate_write;
    while (true) switch (linux.errno(linux.madvise(@ptrFromInt(start), size, advice))) {
        .SUCCESS => return true,
        .INTR => {},
        // A page that does not permit the access, or a kernel before 5.14, which finds holes only.
        .INVAL => return !canTouch() and linux.errno(linux.msync(@ptrFromInt(start), size, linux.MSF.ASYNC)) != .NOMEM,
        else => return false,
    };
}

fn canTouch() bool {
    const page = std.heap.pageSize();
    const here = std.mem.alignBackward(u64, @intFromPtr(&page), page);
    return linux.errno(linux.madvise(@ptrFromInt(here), page, madv_populate_read)) == .SUCCESS;
}

fn bad() acl.Error {
    return errors.fail(acl.code.rt_drv_internal_error, "host memory that cannot be read or written");
}

test "check fails when a page is missing, protected or read-only" {
    const page = std.heap.pageSize();
    const pages = 4 * exact_pages;
    const flags: linux.MAP = .{ .TYPE = .PRIVATE, .ANONYMOUS = true };
    const start = linux.mmap(null, pages * page, .{ .READ = true, .WRITE = true }, flags, -1, 0);
    try std.testing.expectEqual(.SUCCESS, linux.errno(start));
    const size = pages * page;
    for ([_]u64{ page, size }) |length| {
        try std.testing.expectEqual(0, check(start, length, .read));
        try std.testing.expectEqual(0, check(start, length, .write));
    }
    _ = linux.mprotect(@ptrFromInt(start), page, .{ .READ = true });
    for ([_]u64{ page, size }) |length| {
        try std.testing.expectEqual(0, check(start, length, .read));
        try std.testing.expectEqual(507899, check(start, length, .write));
    }
    _ = linux.mprotect(@ptrFromInt(start), page, .{});
    for ([_]u64{ page, size }) |length| try std.testing.expectEqual(507899, check(start, length, .read));
    _ = linux.munmap(@ptrFromInt(start + 20 * page), page);
    _ = linux.mprotect(@ptrFromInt(start), page, .{ .READ = true });
    try std.testing.expectEqual(507899, check(start, size, .read));
    try std.testing.expectEqual(0, check(start, 16 * page, .read));
    _ = linux.munmap(@ptrFromInt(start), size);
}

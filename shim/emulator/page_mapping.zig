//! Maps memory into the process, page by page. Nothing here changes a table.
//!
//! A range that is reserved but not mapped is PROT_NONE. Unmapping restores PROT_NONE in one step, so no other mmap can
//! take the range in between.

const std = @import("std");
const linux = std.os.linux;
const config = @import("config.zig");
const lock = @import("lock.zig");
const physical = @import("physical.zig");

const no_access: linux.PROT = .{};
const read_write: linux.PROT = .{ .READ = true, .WRITE = true };

/// Maps the first `size` bytes of `memory` at `start`. Populated memory gets its page tables too, so that a copy
/// never faults. The caller holds the lock and has pinned the block; the lock is free while pages are touched, which
/// takes long.
pub fn map(memory: *physical.Memory, start: u64, size: u64, access: Access) bool {
    const claim = if (access == .read_write) memory.claim(size) else physical.Claim{};
    lock.leave();
    defer lock.enter();
    if (claim.is_fresh) {
        if (!mapFile(memory, start, size, access, .lazy)) return false;
        takeHugePages(start, size);
    }
    if (!mapFile(memory, start, size, access, if (claim.populate) .populate else .lazy)) return false;
    if (claim.poison) poison(start, size);
    return true;
}

pub const Access = enum { none, read_write };

/// Collapses the range into huge pages. A huge page is mapped in a thirtieth of the time of its 512 small pages, and
/// touched in less than half. Other ways to huge pages need the administrator. An old kernel, or one without a free
/// huge page, leaves small pages.
fn takeHugePages(start: u64, size: u64) void {
    var at = start;
    // Only present pages can be collapsed. A read makes one present, and keeps what another process wrote.
    while (at < start + size) : (at += physical.huge_page_bytes) _ = @as(*const volatile u8, @ptrFromInt(at)).*;
    _ = linux.madvise(@ptrFromInt(start), size, madv_collapse);
}

// Newer than Zig's list.
const madv_populate_write = 23;
const madv_collapse = 25;

fn mapFile(memory: *const physical.Memory, start: u64, size: u64, access: Access, touch: enum { lazy, populate }) bool {
    const protection = switch (access) {
        .none => no_access,
        .read_write => read_write,
    };
    const result = linux.mmap(@ptrFromInt(start), size, protection, .{
        .TYPE = .SHARED,
        .FIXED = true,
        .NORESERVE = true,
        .POPULATE = touch == .populate,
    }, memory.fd, @intCast(memory.offset));
    return linux.errno(result) == .SUCCESS;
}

/// On a device, memory that was never written holds anything. One poisoned cache line in every 64 KiB makes that
/// visible in any tensor but the smallest, at a three-hundredth of the time of a copy. As a number of any float type
/// it is a NaN.
pub const poison_stride: u64 = 64 << 10;
pub const poison_bytes = 64;
const poison_byte = 0xff;

fn poison(start: u64, size: u64) void {
    var at = start;
    while (at < start + size) : (at += poison_stride)
        @memset(@as(*[poison_bytes]u8, @ptrFromInt(at)), poison_byte);
}

/// Replaces a mapping by the bare reservation.
pub fn unmap(start: u64, size: u64) bool {
    const result = linux.mmap(@ptrFromInt(start), size, no_access, .{
        .TYPE = .PRIVATE,
        .ANONYMOUS = true,
        .NORESERVE = true,
        .FIXED = true,
    }, -1, 0);
    return linux.errno(result) == .SUCCESS;
}

/// Page-locked memory. Every page is present when this returns, and none is kept when it is freed, because
/// page-locking is as expensive on a real machine. Called without the lock.
pub fn mapHost(size: u64) ?u64 {
    const flags: linux.MAP = .{ .TYPE = .PRIVATE, .ANONYMOUS = true, .NORESERVE = true };
    const start = linux.mmap(null, size, read_write, flags, -1, 0);
    if (linux.errno(start) != .SUCCESS) return null;
    // All of it is used, so huge pages waste nothing. A refusal only costs time.
    if (size >= 4 << 20) _ = linux.madvise(@ptrFromInt(start), size, linux.MADV.HUGEPAGE);
    if (!config.get().timing.has_content or populateHost(start, size)) return start;
    _ = linux.munmap(@ptrFromInt(start), size);
    return null;
}

fn populateHost(start: u64, size: u64) bool {
    switch (linux.errno(linux.madvise(@ptrFromInt(start), size, madv_populate_write))) {
        .SUCCESS => return true,
        .INVAL => {}, // before Linux 5.14
        else => return false,
    }
    var at = start;
    while (at < start + size) : (at += std.heap.pageSize()) @as(*volatile u8, @ptrFromInt(at)).* = 0;
    return true;
}

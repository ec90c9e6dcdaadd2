//! The heap of the shim's own records: the C library's. Every allocation may fail; a test chooses when.

const std = @import("std");
const builtin = @import("builtin");
const Allocator = std.mem.Allocator;

pub const allocator: Allocator = if (builtin.is_test) limited else std.heap.c_allocator;

/// How many more allocations of a test succeed.
pub var remaining: std.atomic.Value(u64) = .init(std.math.maxInt(u64));

const limited: Allocator = .{
    .ptr = undefined,
    .vtable = &.{ .alloc = alloc, .resize = resize, .remap = remap, .free = free },
};

fn isExhausted() bool {
    var current = remaining.load(.monotonic);
    while (current > 0)
        current = remaining.cmpxchgWeak(current, current - 1, .monotonic, .monotonic) orelse return false;
    return true;
}

fn alloc(_: *anyopaque, size: usize, alignment: std.mem.Alignment, return_address: usize) ?[*]u8 {
    return if (isExhausted()) null else std.heap.c_allocator.rawAlloc(size, alignment, return_address);
}

fn resize(_: *anyopaque, memory: []u8, alignment: std.mem.Alignment, size: usize, return_address: usize) bool {
    return !isExhausted() and std.heap.c_allocator.rawResize(memory, alignment, size, return_address);
}

fn remap(_: *anyopaque, memory: []u8, alignment: std.mem.Alignment, size: usize, return_address: usize) ?[*]u8 {
    return if (isExhausted()) null else std.heap.c_allocator.rawRemap(memory, alignment, size, return_address);
}

fn free(_: *anyopaque, memory: []u8, alignment: std.mem.Alignment, return_address: usize) void {
    std.heap.c_allocator.rawFree(memory, alignment, return_address);
}

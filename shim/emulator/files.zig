//! Reads the small files that AscendCL reads: its configuration and the version files of an installation.

const std = @import("std");
const linux = std.os.linux;
const allocator = std.heap.c_allocator;

const max_bytes = 1 << 20;

/// The whole file, or its first MiB. The caller frees it.
pub fn read(path: [*:0]const u8) error{ Unreadable, OutOfMemory }![]u8 {
    const opened = linux.open(path, .{ .CLOEXEC = true }, 0);
    if (linux.errno(opened) != .SUCCESS) return error.Unreadable;
    const fd: i32 = @intCast(opened);
    defer _ = linux.close(fd);
    const buffer = try allocator.alloc(u8, max_bytes);
    defer allocator.free(buffer);
    var length: usize = 0;
    while (length < buffer.len) {
        const count = linux.read(fd, buffer.ptr + length, buffer.len - length);
        if (linux.errno(count) != .SUCCESS) return error.Unreadable;
        if (count == 0) break;
        length += count;
    }
    return allocator.dupe(u8, buffer[0..length]);
}

test "read fails when the path is no readable file" {
    try std.testing.expectError(error.Unreadable, read("/nowhere/at/all"));
    try std.testing.expectError(error.Unreadable, read("/"));
    const content = try read("/proc/self/stat");
    defer allocator.free(content);
    try std.testing.expect(content.len > 0);
}

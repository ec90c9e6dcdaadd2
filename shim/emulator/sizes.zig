//! Sizes in text: "64GiB", "512MiB" or a number of bytes.

const std = @import("std");

const Unit = struct { suffix: []const u8, shift: u6 };
const units = [_]Unit{
    .{ .suffix = "KiB", .shift = 10 },
    .{ .suffix = "MiB", .shift = 20 },
    .{ .suffix = "GiB", .shift = 30 },
    .{ .suffix = "TiB", .shift = 40 },
};

pub fn parseSize(text: []const u8) error{Invalid}!u64 {
    var digits = text;
    var factor: u64 = 1;
    for (units) |unit| {
        if (!std.mem.endsWith(u8, text, unit.suffix)) continue;
        digits = text[0 .. text.len - unit.suffix.len];
        factor = @as(u64, 1) << unit.shift;
    }
    const number = std.fmt.parseInt(u64, digits, 10) catch return error.Invalid;
    const size = std.math.mul(u64, number, factor) catch return error.Invalid;
    return if (size > 0 and size <= 1 << 46) size else error.Invalid;
}

test "parseSize refuses text when it is no whole size" {
    try std.testing.expectEqual(8 << 30, try parseSize("8GiB"));
    try std.testing.expectEqual(512 << 20, try parseSize("512MiB"));
    try std.testing.expectEqual(4096, try parseSize("4096"));
    for ([_][]const u8{ "", "GiB", "0", "-1", "8GB", "1.5GiB", "99999999999TiB", "8 GiB" }) |text|
        try std.testing.expectError(error.Invalid, parseSize(text));
}

//! AscendCL's data types: their sizes, and the conversion of half precision.

const std = @import("std");

pub fn aclFloatToFloat16(value: f32) u16 {
    return @bitCast(@as(f16, @floatCast(value)));
}

pub fn aclFloat16ToFloat(value: u16) f32 {
    return @as(f16, @bitCast(value));
}

/// The bytes of one element; 0 for types without a whole number of bytes and for unknown types.
pub fn aclDataTypeSize(data_type: c_int) usize {
    return switch (data_type) {
        2, 4, 12, 34, 35, 36, 37 => 1, // int8, uint8, bool, the 8-bit floats
        1, 6, 7, 27 => 2, // float16, int16, uint16, bfloat16
        0, 3, 8, 33 => 4, // float, int32, uint32, complex32
        9, 10, 11, 16 => 8, // int64, uint64, double, complex64
        17 => 16, // complex128
        else => 0,
    };
}

test "aclFloatToFloat16 keeps a value when half precision can hold it" {
    try std.testing.expectEqual(0x3e80, aclFloatToFloat16(1.625));
    try std.testing.expectEqual(1.625, aclFloat16ToFloat(0x3e80));
}

test "aclDataTypeSize returns bytes when the type is known" {
    try std.testing.expectEqual(8, aclDataTypeSize(9));
}

//! libcamem_preload.so: loaded in front of AscendCL (LD_PRELOAD), it puts the memory of a program to sleep that knows
//! nothing of it. Each call returns what AscendCL returns.

comptime {
    _ = @import("exports.zig");
}

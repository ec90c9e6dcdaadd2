//! Every symbol that libcamem_preload.so puts in front of AscendCL's.

const std = @import("std");
const launch = @import("calls/launch.zig");

const files = .{
    @import("calls/copy.zig"),
    @import("calls/device.zig"),
    @import("calls/malloc.zig"),
};

comptime {
    @setEvalBranchQuota(1_000_000);
    for (files) |file| {
        for (@typeInfo(file).@"struct".decls) |declaration| {
            if (std.mem.startsWith(u8, declaration.name, "acl"))
                @export(&@field(file, declaration.name), .{ .name = declaration.name });
        }
    }
    for (launch.calls) |call| @export(launch.gated(call), .{ .name = call.name });
}

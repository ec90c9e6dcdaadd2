//! Every symbol that libcamem_preload.so puts in front of AscendCL's.

const std = @import("std");
const launch = @import("calls/launch.zig");
const operators = @import("operators.zig");

const files = .{
    @import("calls/capture.zig"),
    @import("calls/copy.zig"),
    @import("calls/device.zig"),
    @import("calls/malloc.zig"),
    @import("calls/mapping.zig"),
    @import("calls/physical.zig"),
    @import("calls/query.zig"),
    @import("calls/sharing.zig"),
};

comptime {
    @setEvalBranchQuota(10_000_000);
    for (files) |file| {
        for (@typeInfo(file).@"struct".decls) |declaration| {
            if (isCall(declaration.name))
                @export(&@field(file, declaration.name), .{ .name = declaration.name });
        }
    }
    for (launch.calls) |call| @export(launch.gated(call), .{ .name = call.name });
    for (operators.names) |name| @export(operators.gated(name), .{ .name = name });
}

fn isCall(name: []const u8) bool {
    return std.mem.startsWith(u8, name, "acl") or std.mem.startsWith(u8, name, "Hccl");
}

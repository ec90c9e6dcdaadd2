//! Every symbol that libcamem.so exports.

const std = @import("std");
const abi = @import("abi.zig");
const pluggable = @import("pluggable_allocator.zig");
const remote = @import("remote.zig");

comptime {
    @setEvalBranchQuota(10_000);
    for (.{ abi, remote }) |exports| {
        for (@typeInfo(exports).@"struct".decls) |declaration| {
            if (!std.mem.startsWith(u8, declaration.name, "camem_")) continue;
            @export(&@field(exports, declaration.name), .{ .name = declaration.name });
        }
    }
    for (remote.calls) |call| @export(remote.functionOf(call), .{ .name = remote.exportName(call) });
    @export(&pluggable.my_malloc, .{ .name = "my_malloc" });
    @export(&pluggable.my_free, .{ .name = "my_free" });
}

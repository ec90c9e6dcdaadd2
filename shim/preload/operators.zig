//! The operators of CANN's operator libraries (`aclnn*`). The second function of each gives work to a stream, by no
//! call of the runtime that the library could stand in front of, and so passes the gate itself.

const std = @import("std");
const acl = @import("acl");
const passage = @import("passage.zig");
const real = @import("real.zig");
const refusal = @import("refusal.zig");

/// `scripts/operators.ts` writes the list from headers.
const list = @embedFile("operators.txt");

pub const names: []const [:0]const u8 = blk: {
    @setEvalBranchQuota(10_000_000);
    var found: []const [:0]const u8 = &.{};
    var lines = std.mem.tokenizeScalar(u8, list, '\n');
    while (lines.next()) |line| found = found ++ .{line ++ ""};
    break :blk found;
};

const Workspace = ?*anyopaque;
const Operator = fn (Workspace, u64, ?*anyopaque, acl.Stream) callconv(.c) acl.Error;

/// The function that stands in front of an operator.
pub fn gated(comptime name: [:0]const u8) *const Operator {
    const Form = struct {
        var address: real.Address = .init(0);

        fn entry(
            workspace: Workspace,
            workspace_bytes: u64,
            executor: ?*anyopaque,
            stream: acl.Stream,
        ) callconv(.c) acl.Error {
            return pass(&address, name, workspace, workspace_bytes, executor, stream);
        }
    };
    return &Form.entry;
}

fn pass(
    address: *real.Address,
    name: [:0]const u8,
    workspace: Workspace,
    workspace_bytes: u64,
    executor: ?*anyopaque,
    stream: acl.Stream,
) acl.Error {
    const operator: *const Operator = @ptrFromInt(real.lookUp(address, name) orelse return refusal.operator);
    if (!passage.enter()) return refusal.operator;
    defer passage.leave();
    return operator(workspace, workspace_bytes, executor, stream);
}

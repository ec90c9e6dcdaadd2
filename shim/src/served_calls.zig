//! The exports that the preload library serves on its socket, in the order of their numbers. What attaches, allocates,
//! copies or waits is not among them.

const std = @import("std");
const abi = @import("abi.zig");
const engine = @import("engine.zig");
const status = @import("status.zig");

pub const names = [_][:0]const u8{
    "camem_runtime_info",
    "camem_memory_info",
    "camem_tag_intern",
    "camem_tag_find",
    "camem_tag_name",
    "camem_tag_policy",
    "camem_tag_policies",
    "camem_tag_set_policy",
    "camem_tag_set_immutable",
    "camem_segment_info",
    "camem_snapshot",
    "camem_segment_groups",
    "camem_usage",
    "camem_host_info",
    "camem_host_retain",
    "camem_spill_folder",
    "camem_host_prepare",
    "camem_plan_submit",
    "camem_plan_poll",
    "camem_plan_cancel",
    "camem_engine_info",
    "camem_engine_watch",
    "camem_engine_segments",
    "camem_engine_rules",
};

/// The number of the call whose reply the server puts off until something has changed.
pub const watch = numberOf("camem_engine_watch");

/// The function behind the call with a number.
pub fn function(comptime number: usize) Function(number) {
    return if (@hasDecl(abi, names[number])) @field(abi, names[number]) else @field(engine, names[number]);
}

pub fn Function(comptime number: usize) type {
    const name = names[number];
    return if (@hasDecl(abi, name)) @TypeOf(@field(abi, name)) else @TypeOf(@field(engine, name));
}

fn numberOf(comptime name: []const u8) u32 {
    for (names, 0..) |other, number| if (std.mem.eql(u8, name, other)) return number;
    @compileError("no such call: " ++ name);
}

/// Another number for every other version of these calls, of the structs that they pass, or of the statuses.
pub const fingerprint: u64 = blk: {
    @setEvalBranchQuota(200_000);
    var text: []const u8 = "";
    for (names, 0..) |name, number| {
        text = text ++ name;
        for (@typeInfo(Function(number)).@"fn".params) |parameter| text = text ++ describe(parameter.type.?);
    }
    for (@typeInfo(status.Status).@"enum".fields) |field| text = text ++ field.name;
    for (@typeInfo(abi.Phase).@"enum".fields) |field| text = text ++ field.name;
    for (@typeInfo(abi.Action).@"enum".fields) |field| text = text ++ field.name;
    break :blk std.hash.Fnv1a_64.hash(text);
};

fn describe(comptime T: type) []const u8 {
    return switch (@typeInfo(T)) {
        .pointer => |pointer| "*" ++ describe(pointer.child),
        .array => |array| std.fmt.comptimePrint("[{d}]", .{array.len}) ++ describe(array.child),
        .@"struct" => |info| blk: {
            var text: []const u8 = "{";
            for (info.fields) |field| text = text ++ field.name ++ ":" ++ describe(field.type) ++ ",";
            break :blk text ++ "}";
        },
        else => @typeName(T),
    };
}

//! How often the library is initialised, and the configuration file of aclInit.

const std = @import("std");
const acl = @import("acl");
const context = @import("context.zig");
const device = @import("device.zig");
const errors = @import("errors.zig");
const files = @import("files.zig");
const allocator = std.heap.c_allocator;

const max_nesting = 10;

/// aclInit calls that were not finalized.
pub var references: u64 = 0;
pub var finalized = false;
/// Of the first aclInit that succeeded. Later ones must agree for as long as the process lives.
var first_config: ?[]u8 = null;

/// The first aclInit, or the first one after a finalize.
pub fn begin(path: ?[*:0]const u8) acl.Error {
    var content: []u8 = &.{};
    var code = readConfig(path, &content);
    if (code == acl.code.success) code = applyConfig(content);
    if (code != acl.code.success or first_config != null) {
        allocator.free(content);
    } else {
        first_config = content;
    }
    if (code != acl.code.success) return code;
    references = 1;
    finalized = false;
    return acl.code.success;
}

pub fn end() void {
    references = 0;
    finalized = true;
    context.default_device = null;
    device.shrinkPools();
}

fn readConfig(path: ?[*:0]const u8, out: *[]u8) acl.Error {
    const name = path orelse return acl.code.success;
    if (name[0] == 0) return acl.code.success;
    out.* = files.read(name) catch |failure| return switch (failure) {
        error.Unreadable => errors.fail(acl.code.invalid_file, "the configuration file cannot be read"),
        error.OutOfMemory => errors.fail(acl.code.bad_alloc, "out of host memory"),
    };
    return acl.code.success;
}

fn applyConfig(content: []const u8) acl.Error {
    if (first_config) |first| {
        if (!std.mem.eql(u8, first, content))
            return errors.fail(acl.code.invalid_param, "the configuration differs from the first aclInit's");
    }
    if (content.len == 0) return acl.code.success;
    if (nesting(content) > max_nesting) return errors.fail(acl.code.failure, "the configuration is nested too deeply");
    const parsed = std.json.parseFromSlice(std.json.Value, allocator, content, .{}) catch
        return errors.fail(acl.code.failure, "the configuration is not valid JSON");
    defer parsed.deinit();
    return applyDefaultDevice(parsed.value);
}

fn nesting(content: []const u8) usize {
    var depth: usize = 0;
    var deepest: usize = 0;
    for (content) |character| switch (character) {
        '{', '[' => {
            depth += 1;
            deepest = @max(deepest, depth);
        },
        '}', ']' => depth -|= 1,
        else => {},
    };
    return deepest;
}

fn applyDefaultDevice(root: std.json.Value) acl.Error {
    if (root != .object) return errors.fail(acl.code.failure, "the configuration is not a JSON object");
    const section = root.object.get("defaultDevice") orelse return acl.code.success;
    const wrong = "defaultDevice.default_device is not a device id";
    if (section != .object) return errors.fail(acl.code.invalid_param, wrong);
    const id = section.object.get("default_device") orelse return acl.code.success;
    if (id != .string) return errors.fail(acl.code.invalid_param, wrong);
    context.default_device = std.fmt.parseInt(i32, id.string, 10) catch
        return errors.fail(acl.code.invalid_param, wrong);
    return acl.code.success;
}

test "applyConfig fails when the text is no valid configuration" {
    const kept = first_config;
    first_config = null;
    defer first_config = kept;
    defer context.default_device = null;
    try std.testing.expectEqual(0, applyConfig("{}"));
    try std.testing.expectEqual(500001, applyConfig("{"));
    try std.testing.expectEqual(500001, applyConfig("[]"));
    try std.testing.expectEqual(500001, applyConfig("[[[[[[[[[[[]]]]]]]]]]]"));
    try std.testing.expectEqual(0, applyConfig("{\"defaultDevice\":{\"default_device\":\"0\"}}"));
    try std.testing.expectEqual(0, context.default_device);
    try std.testing.expectEqual(100000, applyConfig("{\"defaultDevice\":{\"default_device\":\"first\"}}"));
}

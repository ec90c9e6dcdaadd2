//! Initialisation and the few calls that need no device.

const std = @import("std");
const acl = @import("acl");
const state = @import("state.zig");
const errors = @import("errors.zig");
const files = @import("files.zig");
const config = @import("config.zig");
const device = @import("device.zig");

const soc_name = "Ascend910B-emulated";
const soc_name_modelled = soc_name ++ " (timing model)";
const max_nesting = 10;

var references: u64 = 0;
var finalized = false;
/// Of the first aclInit that succeeded; later ones must agree for as long as the process lives.
var first_config: ?[]u8 = null;
/// From the configuration file: the device of a thread that never chose one.
pub var default_device: ?i32 = null;

pub fn init(path: ?[*:0]const u8) acl.Error {
    const problem = config.check();
    if (problem != acl.code.success) return problem;
    state.enter();
    defer state.leave();
    if (references > 0) {
        references += 1;
        return acl.code.repeat_initialize;
    }
    var content: []u8 = &.{};
    var code = readConfig(path, &content);
    if (code == acl.code.success) code = applyConfig(content);
    if (code != acl.code.success or first_config != null) {
        state.allocator.free(content);
    } else {
        first_config = content;
    }
    if (code != acl.code.success) return code;
    references = 1;
    finalized = false;
    return acl.code.success;
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
    const parsed = std.json.parseFromSlice(std.json.Value, state.allocator, content, .{}) catch
        return errors.fail(acl.code.failure, "the configuration is no valid JSON");
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
    if (root != .object) return errors.fail(acl.code.failure, "the configuration is no JSON object");
    const section = root.object.get("defaultDevice") orelse return acl.code.success;
    const wrong = "defaultDevice.default_device is no device id";
    if (section != .object) return errors.fail(acl.code.invalid_param, wrong);
    const id = section.object.get("default_device") orelse return acl.code.success;
    if (id != .string) return errors.fail(acl.code.invalid_param, wrong);
    default_device = std.fmt.parseInt(i32, id.string, 10) catch return errors.fail(acl.code.invalid_param, wrong);
    return acl.code.success;
}

/// Ignores how often aclInit was called. Before any aclInit it succeeds once, as in the runtime.
pub fn finalize() acl.Error {
    state.enter();
    defer state.leave();
    if (finalized) return errors.fail(acl.code.repeat_finalize, "finalized already");
    finish();
    return acl.code.success;
}

fn finish() void {
    references = 0;
    finalized = true;
    default_device = null;
    device.shrinkPools();
}

pub fn finalizeReference(out: ?*u64) acl.Error {
    state.enter();
    defer state.leave();
    var code = acl.code.success;
    if (references > 1) {
        references -= 1;
    } else if (references == 1) {
        finish();
    } else {
        code = errors.fail(acl.code.repeat_finalize, "not initialised");
    }
    if (out) |count| count.* = references;
    return code;
}

pub fn initReferences() u64 {
    return references;
}

pub fn getRunMode(mode: ?*c_int) acl.Error {
    const out = mode orelse return errors.fail(acl.code.invalid_param, "runMode is NULL");
    out.* = acl.RunMode.host;
    return acl.code.success;
}

pub fn getSocName() [*:0]const u8 {
    return if (config.get().timing.is_on) soc_name_modelled else soc_name;
}

pub fn toHalf(value: f32) u16 {
    return @bitCast(@as(f16, @floatCast(value)));
}

pub fn fromHalf(value: u16) f32 {
    return @as(f16, @bitCast(value));
}

/// Bytes of one element by aclDataType; 0 for types without a whole number of bytes and for unknown ones.
pub fn dataTypeSize(data_type: c_int) usize {
    return switch (data_type) {
        2, 4, 12, 34, 35, 36, 37 => 1, // int8, uint8, bool, the 8-bit floats
        1, 6, 7, 27 => 2, // float16, int16, uint16, bfloat16
        0, 3, 8, 33 => 4, // float, int32, uint32, complex32
        9, 10, 11, 16 => 8, // int64, uint64, double, complex64
        17 => 16, // complex128
        else => 0,
    };
}

const testing = @import("testing.zig");
const expectCode = testing.expectCode;

test "init and finalize" {
    defer testing.cleanUp();
    var count: u64 = 9;
    try expectCode(0, init(null));
    try expectCode(100002, init(""));
    try expectCode(0, finalizeReference(&count));
    try std.testing.expectEqual(1, count);
    try expectCode(0, finalizeReference(null));
    try expectCode(100037, finalizeReference(&count));
    try std.testing.expectEqual(0, count);
    try expectCode(100037, finalize());
    try expectCode(100003, init("/nowhere/acl.json"));
    try expectCode(0, init(null));
    try expectCode(100002, init(null));
    try expectCode(0, finalize());
    try expectCode(100037, finalize());
    // A file with content is another configuration than the first one's, whatever it says.
    try expectCode(100000, init("/proc/self/cmdline"));
}

test "the configuration is parsed" {
    const kept = first_config;
    first_config = null;
    defer first_config = kept;
    defer default_device = null;
    try expectCode(0, applyConfig("{}"));
    try expectCode(500001, applyConfig("{"));
    try expectCode(500001, applyConfig("[]"));
    try expectCode(500001, applyConfig("[[[[[[[[[[[]]]]]]]]]]]"));
    try expectCode(0, applyConfig("{\"defaultDevice\":{\"default_device\":\"0\"}}"));
    try std.testing.expectEqual(0, default_device);
    try expectCode(100000, applyConfig("{\"defaultDevice\":{\"default_device\":\"first\"}}"));
}

test "run mode and conversions" {
    try expectCode(100000, getRunMode(null));
    try std.testing.expectEqual(0x3e80, toHalf(1.625));
    try std.testing.expectEqual(1.625, fromHalf(0x3e80));
    try std.testing.expectEqual(8, dataTypeSize(9));
}

//! The emulator's environment, read once, at the first call into the library:
//!
//!     CAMEM_EMULATOR_DEVICES      how many devices there are, 1 to 16; default 1
//!     CAMEM_EMULATOR_HBM          memory of each device: "64GiB" (default), "512MiB", or plain bytes
//!     CAMEM_EMULATOR_POOL         how much of it is touched once and kept when freed, see backing.zig; default 2GiB, or "0"
//!     CAMEM_EMULATOR_FAULTS       see faults.zig
//!     CAMEM_EMULATOR_TIMING       see timing.zig
//!     ASCEND_RT_VISIBLE_DEVICES   as on a real machine: the devices that are visible, renumbered from 0
//!
//! A value that cannot be understood leaves no device to open: aclInit and aclrtGetDeviceCount return 500000 and say why.

const std = @import("std");
const acl = @import("acl");
const sync = @import("sync.zig");
const faults = @import("faults.zig");
const errors = @import("errors.zig");
const timing = @import("timing.zig");

pub const max_devices = 16;

pub const Config = struct {
    /// Driver ids of the devices that this process sees, in user id order.
    visible: [max_devices]u8 = undefined,
    visible_count: u8 = 0,
    hbm_bytes: u64 = 64 << 30,
    pool_bytes: u64 = 2 << 30,
    timing: timing.Model = .{},
    problem: ?[]const u8 = null,
    visible_list_invalid: bool = false,
};

var mutex: sync.Mutex = .{};
var loaded: std.atomic.Value(bool) = .init(false);
var config: Config = .{};

pub fn get() *const Config {
    if (loaded.load(.acquire)) return &config;
    mutex.lock();
    defer mutex.unlock();
    if (!loaded.load(.acquire)) {
        config = load(.{
            .devices = environment("CAMEM_EMULATOR_DEVICES"),
            .hbm = environment("CAMEM_EMULATOR_HBM"),
            .pool = environment("CAMEM_EMULATOR_POOL"),
            .timing = environment("CAMEM_EMULATOR_TIMING"),
            .visible = environment("ASCEND_RT_VISIBLE_DEVICES"),
        });
        loadFaults();
        if (config.problem) |text| {
            config.visible_count = 0;
            for ([_][]const u8{ "camem emulator: ", text, "\n" }) |part| _ = std.os.linux.write(2, part.ptr, part.len);
        }
        loaded.store(true, .release);
    }
    return &config;
}

/// The code that a call which needs the configuration returns when there is none.
pub fn check() acl.Error {
    const problem = get().problem orelse return acl.code.success;
    return errors.fail(acl.code.internal_error, problem);
}

fn environment(name: [*:0]const u8) ?[]const u8 {
    return std.mem.span(std.c.getenv(name) orelse return null);
}

fn loadFaults() void {
    const text = environment("CAMEM_EMULATOR_FAULTS") orelse return;
    const rules = faults.parse(text) catch {
        config.problem = problemOf("CAMEM_EMULATOR_FAULTS", text, "a list of name:n=code, name:n+=code with known names");
        return;
    };
    faults.replace(rules);
}

var problem_text: [320]u8 = undefined;

/// Why there is no device, in words that last; the value is cut where it is long.
fn problemOf(name: []const u8, value: []const u8, expected: []const u8) []const u8 {
    const shown = value[0..@min(value.len, 80)];
    return std.fmt.bufPrint(&problem_text, "{s} is \"{s}\", but must be {s}", .{ name, shown, expected }) catch name;
}

const Texts = struct {
    devices: ?[]const u8 = null,
    hbm: ?[]const u8 = null,
    pool: ?[]const u8 = null,
    timing: ?[]const u8 = null,
    visible: ?[]const u8 = null,
};

fn load(texts: Texts) Config {
    var result: Config = .{};
    const count = parseDeviceCount(texts.devices orelse "1") catch {
        result.problem = problemOf("CAMEM_EMULATOR_DEVICES", texts.devices.?, "a number from 1 to 16");
        return result;
    };
    result.hbm_bytes = parseSize(texts.hbm orelse "64GiB") catch {
        result.problem = problemOf("CAMEM_EMULATOR_HBM", texts.hbm.?, "a size such as 64GiB, 512MiB or a number of bytes");
        return result;
    };
    if (texts.pool) |text| {
        result.pool_bytes = if (std.mem.eql(u8, text, "0")) 0 else parseSize(text) catch {
            result.problem = problemOf("CAMEM_EMULATOR_POOL", text, "0 or a size such as 4GiB, 512MiB or a number of bytes");
            return result;
        };
    }
    if (texts.timing) |text| {
        result.timing = timing.parse(text) catch {
            result.problem = problemOf("CAMEM_EMULATOR_TIMING", text, "a list of h2d=24GiB/s, aclrtMapMem=120us, content=off and the like");
            return result;
        };
        // Memory without content is never touched, so there is nothing to keep.
        if (!result.timing.has_content) result.pool_bytes = 0;
    }
    if (texts.visible) |list| return applyVisible(result, list, count);
    for (0..count) |index| result.visible[index] = @intCast(index);
    result.visible_count = count;
    return result;
}

fn parseDeviceCount(text: []const u8) error{Invalid}!u8 {
    const count = std.fmt.parseInt(u8, text, 10) catch return error.Invalid;
    return if (count >= 1 and count <= max_devices) count else error.Invalid;
}

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

/// An invalid tail is ignored; duplicates and disorder make the whole list invalid.
fn applyVisible(base: Config, list: []const u8, count: u8) Config {
    var result = base;
    var entries = std.mem.splitScalar(u8, list, ',');
    while (entries.next()) |entry| {
        const id = std.fmt.parseInt(u8, std.mem.trim(u8, entry, " "), 10) catch break;
        if (id >= count) break;
        if (result.visible_count > 0 and id <= result.visible[result.visible_count - 1]) {
            result.visible_list_invalid = true;
            result.visible_count = 0;
            return result;
        }
        result.visible[result.visible_count] = id;
        result.visible_count += 1;
    }
    if (result.visible_count == 0) result.visible_list_invalid = true;
    return result;
}

test "sizes" {
    try std.testing.expectEqual(8 << 30, try parseSize("8GiB"));
    try std.testing.expectEqual(512 << 20, try parseSize("512MiB"));
    try std.testing.expectEqual(4096, try parseSize("4096"));
    for ([_][]const u8{ "", "GiB", "0", "-1", "8GB", "1.5GiB", "99999999999TiB", "8 GiB" }) |text|
        try std.testing.expectError(error.Invalid, parseSize(text));
}

test "a value that cannot be understood leaves no device" {
    try std.testing.expect(load(.{ .devices = "0" }).problem != null);
    try std.testing.expect(load(.{ .devices = "17" }).problem != null);
    try std.testing.expectEqualStrings("CAMEM_EMULATOR_HBM is \"lots\", but must be a size such as 64GiB, 512MiB or a number of bytes", load(.{ .hbm = "lots" }).problem.?);
    try std.testing.expect(load(.{ .pool = "" }).problem != null);
    try std.testing.expect(load(.{ .timing = "fast" }).problem != null);
    try std.testing.expectEqual(0, load(.{ .timing = "content=off" }).pool_bytes);
    try std.testing.expectEqual(0, load(.{ .pool = "0" }).pool_bytes);
    try std.testing.expectEqual(512 << 20, load(.{ .pool = "512MiB" }).pool_bytes);
    try std.testing.expectEqual(16, load(.{ .devices = "16" }).visible_count);
    try std.testing.expectEqual(1, load(.{}).visible_count);
}

test "visible devices are renumbered; disorder is refused" {
    const two = load(.{ .devices = "4", .visible = "1,3,9" });
    try std.testing.expectEqual(2, two.visible_count);
    try std.testing.expectEqual(3, two.visible[1]);
    try std.testing.expect(load(.{ .devices = "4", .visible = "3,1" }).visible_list_invalid);
    try std.testing.expect(load(.{ .devices = "4", .visible = "1,1" }).visible_list_invalid);
    try std.testing.expect(load(.{ .devices = "4", .visible = "" }).visible_list_invalid);
}

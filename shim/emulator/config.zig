//! The emulator's environment variables, read once, at the first call into the library:
//!
//!     CAMEM_EMULATOR_DEVICES      the number of devices, 1 to 16; default 1
//!     CAMEM_EMULATOR_HBM          the memory of each device: "64GiB" (default), "512MiB", or plain bytes
//!     CAMEM_EMULATOR_POOL         how much of it is populated once and kept when freed, see physical.zig; default 2GiB
//!                                 ("0": none)
//!     CAMEM_EMULATOR_RUNTIME      the device memory that the runtime itself takes while a device is open, and a little
//!                                 more during its first use; default "0". The vendor's takes some 26MiB
//!     CAMEM_EMULATOR_SHARED       a name: processes with the same name share the memory of the devices, see
//!                                 shared_budget.zig; by default each process has devices of its own
//!     CAMEM_EMULATOR_FAULTS       see faults.zig
//!     CAMEM_EMULATOR_TIMING       see timing.zig
//!     ASCEND_RT_VISIBLE_DEVICES   as on a real machine: the visible devices, renumbered from 0
//!
//! An invalid value leaves no device to open: aclInit and aclrtGetDeviceCount return 500000, and the message names the
//! variable.

const std = @import("std");
const acl = @import("acl");
const call_names = @import("call_names.zig");
const errors = @import("errors.zig");
const faults = @import("faults.zig");
const shared_budget = @import("shared_budget.zig");
const sync = @import("sync.zig");
const timing = @import("timing.zig");
const parseSize = @import("sizes.zig").parseSize;

pub const max_devices = shared_budget.max_devices;

const Config = struct {
    /// Driver ids of the devices that this process sees, in user id order.
    visible: [max_devices]u8 = @splat(0),
    visible_count: u8 = 1,
    hbm_bytes: u64 = 64 << 30,
    pool_bytes: u64 = 2 << 30,
    runtime_bytes: u64 = 0,
    timing: timing.Model = .{},
    problem: ?[]const u8 = null,
    visible_list_invalid: bool = false,
};

var mutex: sync.Mutex = .{};
var loaded: std.atomic.Value(bool) = .init(false);
var config: Config = .{};
var joined: ?shared_budget.Share = null;

/// Reads the environment at the first call into the library. `names` are the calls that faults and timing may name.
pub fn load(names: call_names.Names) *const Config {
    if (loaded.load(.acquire)) return &config;
    mutex.lock();
    defer mutex.unlock();
    if (!loaded.load(.acquire)) {
        config = parse(names, .{
            .devices = environment("CAMEM_EMULATOR_DEVICES"),
            .hbm = environment("CAMEM_EMULATOR_HBM"),
            .pool = environment("CAMEM_EMULATOR_POOL"),
            .runtime = environment("CAMEM_EMULATOR_RUNTIME"),
            .timing = environment("CAMEM_EMULATOR_TIMING"),
            .visible = environment("ASCEND_RT_VISIBLE_DEVICES"),
        });
        loadFaults(names);
        if (config.problem == null) joinOthers();
        if (config.problem != null) config.visible_count = 0;
        loaded.store(true, .release);
    }
    return &config;
}

/// Every export loads the configuration first, so it is complete here. Unit tests, which call below the exports, see
/// the defaults.
pub fn get() *const Config {
    return &config;
}

/// The device memory that this process shares with others.
pub fn share() ?*shared_budget.Share {
    return if (joined) |*with| with else null;
}

/// The result of a call that needs devices: a failure when the environment is invalid.
pub fn check() acl.Error {
    const problem = get().problem orelse return acl.code.success;
    return errors.fail(acl.code.internal_error, problem);
}

fn environment(name: [*:0]const u8) ?[]const u8 {
    return std.mem.span(std.c.getenv(name) orelse return null);
}

fn loadFaults(names: call_names.Names) void {
    const text = environment("CAMEM_EMULATOR_FAULTS") orelse return;
    const rules = faults.parse(names, text) catch {
        const expected = "a list of name:n=code, name:n+=code with known names";
        config.problem = problemOf("CAMEM_EMULATOR_FAULTS", text, expected);
        return;
    };
    faults.replace(rules);
}

fn joinOthers() void {
    const name = environment("CAMEM_EMULATOR_SHARED") orelse return;
    var with: shared_budget.Share = undefined;
    shared_budget.join(name, config.hbm_bytes, &with) catch |failure| {
        config.problem = problemOf("CAMEM_EMULATOR_SHARED", name, switch (failure) {
            error.InvalidName => "a name of at most 64 letters, digits, dots, hyphens and underscores",
            error.Unavailable => "a name whose file in /dev/shm this process may write, of at most 256 processes",
            error.OtherBudget => "a name whose other processes have the same CAMEM_EMULATOR_HBM",
        });
        return;
    };
    joined = with;
}

var problem_text: [320]u8 = undefined;

/// A text that outlives the call and names the variable; a long value is cut.
fn problemOf(name: []const u8, value: []const u8, expected: []const u8) []const u8 {
    const shown = value[0..@min(value.len, 80)];
    return std.fmt.bufPrint(&problem_text, "{s} is \"{s}\", but must be {s}", .{ name, shown, expected }) catch name;
}

const Texts = struct {
    devices: ?[]const u8 = null,
    hbm: ?[]const u8 = null,
    pool: ?[]const u8 = null,
    runtime: ?[]const u8 = null,
    timing: ?[]const u8 = null,
    visible: ?[]const u8 = null,
};

fn parse(names: call_names.Names, texts: Texts) Config {
    var result: Config = .{ .visible_count = 0 };
    const count = parseDeviceCount(texts.devices orelse "1") catch {
        result.problem = problemOf("CAMEM_EMULATOR_DEVICES", texts.devices.?, "a number from 1 to 16");
        return result;
    };
    result.hbm_bytes = parseSize(texts.hbm orelse "64GiB") catch {
        const expected = "a size such as 64GiB, 512MiB or a number of bytes";
        result.problem = problemOf("CAMEM_EMULATOR_HBM", texts.hbm.?, expected);
        return result;
    };
    const zero_or_size = "0 or a size such as 4GiB, 512MiB or a number of bytes";
    if (texts.pool) |text| {
        result.pool_bytes = parseZeroOrSize(text) catch {
            result.problem = problemOf("CAMEM_EMULATOR_POOL", text, zero_or_size);
            return result;
        };
    }
    if (texts.runtime) |text| {
        result.runtime_bytes = parseZeroOrSize(text) catch {
            result.problem = problemOf("CAMEM_EMULATOR_RUNTIME", text, zero_or_size);
            return result;
        };
    }
    if (texts.timing) |text| {
        result.timing = timing.parse(names, text) catch {
            const expected = "a list of h2d=24GiB/s, aclrtMapMem=120us, content=off and the like";
            result.problem = problemOf("CAMEM_EMULATOR_TIMING", text, expected);
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

fn parseZeroOrSize(text: []const u8) !u64 {
    return if (std.mem.eql(u8, text, "0")) 0 else parseSize(text);
}

fn parseDeviceCount(text: []const u8) error{Invalid}!u8 {
    const count = std.fmt.parseInt(u8, text, 10) catch return error.Invalid;
    return if (count >= 1 and count <= max_devices) count else error.Invalid;
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

test "parse leaves no device when a value is invalid" {
    try std.testing.expect(parse(&.{}, .{ .devices = "0" }).problem != null);
    try std.testing.expect(parse(&.{}, .{ .devices = "17" }).problem != null);
    const expected = "CAMEM_EMULATOR_HBM is \"lots\", but must be a size such as 64GiB, 512MiB or a number of bytes";
    try std.testing.expectEqualStrings(expected, parse(&.{}, .{ .hbm = "lots" }).problem.?);
    try std.testing.expect(parse(&.{}, .{ .pool = "" }).problem != null);
    try std.testing.expect(parse(&.{}, .{ .timing = "fast" }).problem != null);
    try std.testing.expectEqual(0, parse(&.{}, .{ .timing = "content=off" }).pool_bytes);
    try std.testing.expectEqual(0, parse(&.{}, .{ .pool = "0" }).pool_bytes);
    try std.testing.expectEqual(512 << 20, parse(&.{}, .{ .pool = "512MiB" }).pool_bytes);
    try std.testing.expectEqual(26 << 20, parse(&.{}, .{ .runtime = "26MiB" }).runtime_bytes);
    try std.testing.expect(parse(&.{}, .{ .runtime = "much" }).problem != null);
    try std.testing.expectEqual(16, parse(&.{}, .{ .devices = "16" }).visible_count);
    try std.testing.expectEqual(1, parse(&.{}, .{}).visible_count);
}

test "parse renumbers visible devices and refuses the list when it is out of order" {
    const two = parse(&.{}, .{ .devices = "4", .visible = "1,3,9" });
    try std.testing.expectEqual(2, two.visible_count);
    try std.testing.expectEqual(3, two.visible[1]);
    try std.testing.expect(parse(&.{}, .{ .devices = "4", .visible = "3,1" }).visible_list_invalid);
    try std.testing.expect(parse(&.{}, .{ .devices = "4", .visible = "1,1" }).visible_list_invalid);
    try std.testing.expect(parse(&.{}, .{ .devices = "4", .visible = "" }).visible_list_invalid);
}

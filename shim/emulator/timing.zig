//! An optional model of the time that a device takes, to play a machine that is not at hand:
//!
//!     CAMEM_EMULATOR_TIMING="h2d=24GiB/s,d2h=22GiB/s,aclrtMapMem=120us,aclrtMallocHost=4GiB/s,content=off"
//!
//! - `h2d`, `d2h`, `d2d`: the bandwidth of a copy between host and device or within devices. Each device has one copy
//!   engine per direction. The engine serves the copies of all streams one after another.
//! - The name of an AscendCL call: the duration of each call (ns, us, ms or s), or a bandwidth if the call is in
//!   `sized`. Two entries for one call, a duration and a bandwidth, add up.
//! - `content=off`: no byte moves. Copies and fills only take their time, and neither device nor host memory is
//!   populated. So a machine with far less memory can play 60 GiB. Whatever is read from such memory is meaningless.
//!   With `content=on`, the default, a copy takes the longer of its real time and the modelled one.
//!
//! Whatever has no entry takes its real time. aclrtGetSocName names the model, so that reports can name it too.

const std = @import("std");
const call_names = @import("call_names.zig");
const clock = @import("clock.zig");
const parseSize = @import("sizes.zig").parseSize;

pub const Engine = enum { h2d, d2h, d2d };

/// Calls whose second argument is a number of bytes, and whose duration may grow with it.
const sized = [_][]const u8{ "aclrtMalloc", "aclrtMallocHost", "aclrtMallocPhysical", "aclrtMapMem" };

pub fn isSized(name: []const u8) bool {
    return call_names.indexOf(&sized, name) != null;
}

const Cost = struct {
    nanoseconds: ?u64 = null,
    bytes_per_second: ?u64 = null,

    fn of(cost: Cost, bytes: u64) u64 {
        const rate = cost.bytes_per_second orelse return cost.nanoseconds orelse 0;
        const transfer: u64 = @intCast(@min(@as(u128, bytes) * std.time.ns_per_s / rate, std.math.maxInt(u48)));
        return transfer + (cost.nanoseconds orelse 0);
    }
};

pub const Model = struct {
    is_on: bool = false,
    has_content: bool = true,
    calls: [call_names.max_count]Cost = @splat(.{}),
    engines: std.EnumArray(Engine, Cost) = .initFill(.{}),
};

pub fn parse(names: call_names.Names, text: []const u8) error{Unparsable}!Model {
    var model: Model = .{ .is_on = true };
    var entries = std.mem.splitScalar(u8, text, ',');
    while (entries.next()) |entry| {
        const equals = std.mem.indexOfScalar(u8, entry, '=') orelse return error.Unparsable;
        const name = std.mem.trim(u8, entry[0..equals], " ");
        try parseEntry(&model, names, name, std.mem.trim(u8, entry[equals + 1 ..], " "));
    }
    return model;
}

fn parseEntry(model: *Model, names: call_names.Names, name: []const u8, value: []const u8) error{Unparsable}!void {
    if (std.mem.eql(u8, name, "content")) {
        const choice = std.meta.stringToEnum(enum { on, off }, value) orelse return error.Unparsable;
        model.has_content = choice == .on;
        return;
    }
    if (std.meta.stringToEnum(Engine, name)) |engine| {
        return setOnce(&model.engines.getPtr(engine).bytes_per_second, try parseRate(value));
    }
    const index = call_names.indexOf(names, name) orelse return error.Unparsable;
    const cost = &model.calls[index];
    if (!std.mem.endsWith(u8, value, "/s")) return setOnce(&cost.nanoseconds, try parseDuration(value));
    if (!isSized(name)) return error.Unparsable;
    return setOnce(&cost.bytes_per_second, try parseRate(value));
}

fn setOnce(slot: *?u64, value: u64) error{Unparsable}!void {
    if (slot.* != null) return error.Unparsable;
    slot.* = value;
}

fn parseRate(text: []const u8) error{Unparsable}!u64 {
    if (!std.mem.endsWith(u8, text, "/s")) return error.Unparsable;
    return parseSize(text[0 .. text.len - 2]) catch error.Unparsable;
}

const max_seconds = 3600;

fn parseDuration(text: []const u8) error{Unparsable}!u64 {
    const unit = std.mem.indexOfNone(u8, text, "0123456789") orelse return error.Unparsable;
    const number = std.fmt.parseInt(u64, text[0..unit], 10) catch return error.Unparsable;
    const Unit = enum(u64) { ns = 1, us = std.time.ns_per_us, ms = std.time.ns_per_ms, s = std.time.ns_per_s };
    const factor = std.meta.stringToEnum(Unit, text[unit..]) orelse return error.Unparsable;
    const nanoseconds = std.math.mul(u64, number, @intFromEnum(factor)) catch return error.Unparsable;
    return if (nanoseconds <= max_seconds * std.time.ns_per_s) nanoseconds else error.Unparsable;
}

/// The time now, or 0 without a model.
pub fn begin(model: *const Model) u64 {
    return if (model.is_on) clock.now() else 0;
}

/// Ends a call that began at `begun`. Called without the lock.
pub fn finish(model: *const Model, call: usize, bytes: u64, begun: u64) void {
    if (model.is_on) clock.spinUntil(begun + model.calls[call].of(bytes));
}

/// For each copy engine of a device, when it will have served all its copies.
pub const Engines = std.EnumArray(Engine, u64);

/// Gives an engine a copy that can begin at `ready`, and returns when the copy ends. Called with the lock held.
pub fn schedule(model: *const Model, engines: *Engines, engine: Engine, bytes: u64, ready: u64) u64 {
    const cost = model.engines.get(engine);
    if (cost.bytes_per_second == null) return ready;
    const busy_until = engines.getPtr(engine);
    busy_until.* = @max(busy_until.*, ready) + cost.of(bytes);
    return busy_until.*;
}

const map = 0;
const unmap = 1;
const malloc_host = 2;
const test_names: call_names.Names = &.{ "aclrtMapMem", "aclrtUnmapMem", "aclrtMallocHost" };

test "parse refuses a model when any part of it is wrong" {
    for ([_][]const u8{
        "",                  "h2d",                             "h2d=",                 "h2d=24GiB",
        "h2d=0GiB/s",        "h2d=24GB/s",                      "h2d=1GiB/s,",          "x2d=1GiB/s",
        "content=maybe",     "aclrtMapMem=120",                 "aclrtMapMem=1h",       "aclrtMap=1us",
        "aclrtMapMem=4000s", "aclrtMapMem=1us,aclrtMapMem=2us", "aclrtUnmapMem=1GiB/s", "aclrtMapMem=us",
        "h2d=120us",         "h2d=1GiB/s,h2d=1GiB/s",           "aclrtMapMem=1.5us",    "aclrtMemcpyAsync.task=1us",
        "*=1us",
    }) |text| try std.testing.expectError(error.Unparsable, parse(test_names, text));
    const text = "h2d=24GiB/s, content=off,aclrtMapMem=120us,aclrtMapMem=1GiB/s,aclrtUnmapMem=1ms";
    const model = try parse(test_names, text);
    try std.testing.expect(!model.has_content);
    try std.testing.expectEqual(120_000, model.calls[map].of(0));
    try std.testing.expectEqual(120_000 + std.time.ns_per_s / 2, model.calls[map].of(512 << 20));
    try std.testing.expectEqual(std.time.ns_per_ms, model.calls[unmap].of(1 << 30));
    try std.testing.expectEqual(0, model.calls[malloc_host].of(1 << 30));
}

test "schedule queues a copy when its engine is busy" {
    const model = try parse(&.{}, "h2d=1GiB/s,d2h=2GiB/s");
    const second = std.time.ns_per_s;
    var engines: Engines = .initFill(0);
    try std.testing.expectEqual(5 * second, schedule(&model, &engines, .h2d, 1 << 30, 4 * second));
    try std.testing.expectEqual(6 * second, schedule(&model, &engines, .h2d, 1 << 30, 4 * second));
    try std.testing.expectEqual(4 * second + second / 2, schedule(&model, &engines, .d2h, 1 << 30, 4 * second));
    try std.testing.expectEqual(10 * second, schedule(&model, &engines, .h2d, 1 << 30, 9 * second));
    try std.testing.expectEqual(7 * second, schedule(&model, &engines, .d2d, 1 << 30, 7 * second));
}

test "finish returns late when the model gives the call a duration" {
    const model = try parse(test_names, "aclrtMapMem=2ms");
    const begun = begin(&model);
    finish(&model, map, 0, begun);
    try std.testing.expect(clock.now() >= begun + 2 * std.time.ns_per_ms);
    const off: Model = .{};
    try std.testing.expectEqual(0, begin(&off));
}

//! An optional model of the time that a device takes, for asking what a machine would do that one does not have:
//!
//!     CAMEM_EMULATOR_TIMING="h2d=24GiB/s,d2h=22GiB/s,aclrtMapMem=120us,aclrtMallocHost=4GiB/s,content=off"
//!
//! `h2d`, `d2h`, `d2d`: the bandwidth of a copy between host and device or within devices. Each device has one engine per
//! direction, which serves the copies of all streams one after the other.
//! A function of AscendCL: how long each call takes (ns, us, ms or s), or its bandwidth if it is one of `sized`; with both,
//! which are two entries, their sum.
//! `content=off`: no byte moves. Copies and fills only take their time, and neither device nor host memory is touched, so
//! that a machine with far less memory can play 60 GiB; whatever is read from memory is meaningless. `on` is the default:
//! then a copy takes the longer of the time that it takes here and that of the model.
//!
//! What has no entry takes the time that it takes. aclrtGetSocName says that there is a model, so that figures can.

const std = @import("std");
const sync = @import("sync.zig");
const faults = @import("faults.zig");
const parseSize = @import("config.zig").parseSize;

pub const Engine = enum { h2d, d2h, d2d };

/// Functions that take a number of bytes as their second argument, and time in proportion to it.
const sized = [_][]const u8{ "aclrtMalloc", "aclrtMallocHost", "aclrtMallocPhysical", "aclrtMapMem" };

pub fn isSized(name: []const u8) bool {
    for (sized) |candidate| {
        if (std.mem.eql(u8, candidate, name)) return true;
    }
    return false;
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
    calls: [faults.call_names.len]Cost = @splat(.{}),
    engines: std.EnumArray(Engine, Cost) = .initFill(.{}),
};

pub fn parse(text: []const u8) error{Unparsable}!Model {
    var model: Model = .{ .is_on = true };
    var entries = std.mem.splitScalar(u8, text, ',');
    while (entries.next()) |entry| {
        const equals = std.mem.indexOfScalar(u8, entry, '=') orelse return error.Unparsable;
        try parseEntry(&model, std.mem.trim(u8, entry[0..equals], " "), std.mem.trim(u8, entry[equals + 1 ..], " "));
    }
    return model;
}

fn parseEntry(model: *Model, name: []const u8, value: []const u8) error{Unparsable}!void {
    if (std.mem.eql(u8, name, "content")) {
        const choice = std.meta.stringToEnum(enum { on, off }, value) orelse return error.Unparsable;
        model.has_content = choice == .on;
        return;
    }
    if (std.meta.stringToEnum(Engine, name)) |engine| {
        return setOnce(&model.engines.getPtr(engine).bytes_per_second, try parseRate(value));
    }
    const index = faults.findCall(name) orelse return error.Unparsable;
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

/// When a call began, or 0 without a model.
pub fn begin(model: *const Model) u64 {
    return if (model.is_on) sync.now() else 0;
}

/// Called without the lock, at the end of a call.
pub fn finish(model: *const Model, call: usize, bytes: u64, begun: u64) void {
    if (model.is_on) sync.waitUntil(begun + model.calls[call].of(bytes));
}

/// When each engine of a device will have served what it was given.
pub const Engines = std.EnumArray(Engine, u64);

/// Gives an engine a copy that can begin at `ready`; when it will have ended. Called with the lock held.
pub fn schedule(model: *const Model, engines: *Engines, engine: Engine, bytes: u64, ready: u64) u64 {
    const cost = model.engines.get(engine);
    if (cost.bytes_per_second == null) return ready;
    const busy_until = engines.getPtr(engine);
    busy_until.* = @max(busy_until.*, ready) + cost.of(bytes);
    return busy_until.*;
}

test "a model is parsed whole or refused" {
    for ([_][]const u8{
        "",                  "h2d",                             "h2d=",                 "h2d=24GiB",       "h2d=0GiB/s",     "h2d=24GB/s",
        "h2d=1GiB/s,",       "x2d=1GiB/s",                      "content=maybe",        "aclrtMapMem=120", "aclrtMapMem=1h", "aclrtMap=1us",
        "aclrtMapMem=4000s", "aclrtMapMem=1us,aclrtMapMem=2us", "aclrtUnmapMem=1GiB/s", "aclrtMapMem=us",  "h2d=120us",      "h2d=1GiB/s,h2d=1GiB/s",
        "aclrtMapMem=1.5us", "aclrtMemcpyAsync.task=1us",       "*=1us",
    }) |text| try std.testing.expectError(error.Unparsable, parse(text));
    const model = try parse("h2d=24GiB/s, content=off,aclrtMapMem=120us,aclrtMapMem=1GiB/s,aclrtUnmapMem=1ms");
    try std.testing.expect(!model.has_content);
    const map = model.calls[faults.findCall("aclrtMapMem").?];
    try std.testing.expectEqual(120_000, map.of(0));
    try std.testing.expectEqual(120_000 + std.time.ns_per_s / 2, map.of(512 << 20));
    try std.testing.expectEqual(std.time.ns_per_ms, model.calls[faults.findCall("aclrtUnmapMem").?].of(1 << 30));
    try std.testing.expectEqual(0, model.calls[faults.findCall("aclrtMallocHost").?].of(1 << 30));
}

test "an engine serves one copy at a time, and idles when there is none" {
    const model = try parse("h2d=1GiB/s,d2h=2GiB/s");
    const second = std.time.ns_per_s;
    var engines: Engines = .initFill(0);
    try std.testing.expectEqual(5 * second, schedule(&model, &engines, .h2d, 1 << 30, 4 * second));
    try std.testing.expectEqual(6 * second, schedule(&model, &engines, .h2d, 1 << 30, 4 * second));
    try std.testing.expectEqual(4 * second + second / 2, schedule(&model, &engines, .d2h, 1 << 30, 4 * second));
    try std.testing.expectEqual(10 * second, schedule(&model, &engines, .h2d, 1 << 30, 9 * second));
    try std.testing.expectEqual(7 * second, schedule(&model, &engines, .d2d, 1 << 30, 7 * second));
}

test "a call takes the time that it is given" {
    const model = try parse("aclrtMapMem=2ms");
    const begun = begin(&model);
    finish(&model, faults.findCall("aclrtMapMem").?, 0, begun);
    try std.testing.expect(sync.now() >= begun + 2 * std.time.ns_per_ms);
    const off: Model = .{};
    try std.testing.expectEqual(0, begin(&off));
}

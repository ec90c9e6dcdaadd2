//! Version queries. They read the version files of the CANN installation at ASCEND_HOME_PATH, as the vendor's do.

const std = @import("std");
const acl = @import("acl");
const errors = @import("../errors.zig");
const files = @import("../files.zig");
const allocator = std.heap.c_allocator;

/// The size of the caller's buffer, the final zero included.
const max_text = 128;

const Version = struct { buffer: [max_text]u8 = @splat(0), length: usize = 0 };

pub fn aclrtGetVersion(major: ?*i32, minor: ?*i32, patch: ?*i32) acl.Error {
    const missing = "an argument is NULL";
    (major orelse return errors.fail(acl.code.invalid_param, missing)).* = 1;
    (minor orelse return errors.fail(acl.code.invalid_param, missing)).* = 17;
    (patch orelse return errors.fail(acl.code.invalid_param, missing)).* = 0;
    return acl.code.success;
}

pub fn aclsysGetVersionStr(package: ?[*:0]const u8, text: ?[*]u8) acl.Error {
    const name = package orelse return errors.fail(acl.code.invalid_param, "pkgName is NULL");
    const out = text orelse return errors.fail(acl.code.invalid_param, "versionStr is NULL");
    const found = find(std.mem.span(name)) orelse return notInstalled();
    @memcpy(out[0..found.length], found.buffer[0..found.length]);
    out[found.length] = 0;
    return acl.code.success;
}

pub fn aclsysGetVersionNum(package: ?[*:0]const u8, number: ?*i32) acl.Error {
    const name = package orelse return errors.fail(acl.code.invalid_param, "pkgName is NULL");
    const out = number orelse return errors.fail(acl.code.invalid_param, "versionNum is NULL");
    const found = find(std.mem.span(name)) orelse return notInstalled();
    out.* = pack(found.buffer[0..found.length]) catch
        return errors.fail(acl.code.internal_error, "the version has another format");
    return acl.code.success;
}

fn notInstalled() acl.Error {
    return errors.fail(acl.code.invalid_file, "no version file of the package below ASCEND_HOME_PATH");
}

fn find(name: []const u8) ?Version {
    const home = std.mem.span(std.c.getenv("ASCEND_HOME_PATH") orelse return null);
    return readInstalled(home, name) orelse readRenamed(home, name);
}

/// The spelling of package names changes between '-' and '_' from release to release.
fn readRenamed(home: []const u8, name: []const u8) ?Version {
    var swapped: [max_text]u8 = undefined;
    if (name.len > swapped.len) return null;
    for (name, swapped[0..name.len]) |from, *to| to.* = switch (from) {
        '-' => '_',
        '_' => '-',
        else => from,
    };
    return readInstalled(home, swapped[0..name.len]);
}

fn readInstalled(home: []const u8, name: []const u8) ?Version {
    var path: [4096]u8 = undefined;
    const full = std.fmt.bufPrintSentinel(&path, "{s}/share/info/{s}/version.info", .{ home, name }, 0) catch
        return null;
    const content = files.read(full) catch return null;
    defer allocator.free(content);
    var lines = std.mem.splitScalar(u8, content, '\n');
    while (lines.next()) |line| {
        const trimmed = std.mem.trim(u8, line, " \t\r");
        if (std.mem.startsWith(u8, trimmed, "Version=")) return copyOf(trimmed["Version=".len..]);
    }
    return null;
}

fn copyOf(text: []const u8) ?Version {
    if (text.len >= max_text) return null;
    var version: Version = .{ .length = text.len };
    @memcpy(version.buffer[0..text.len], text);
    return version;
}

const PreRelease = struct { name: []const u8, behind: i64 };
const pre_releases = [_]PreRelease{
    .{ .name = "alpha", .behind = 300 },
    .{ .name = "beta", .behind = 200 },
    .{ .name = "rc", .behind = 100 },
};

/// major * 10^7 + minor * 10^5 + patch * 10^3. A pre-release lies a little below, by its kind and index.
fn pack(text: []const u8) error{Malformed}!i32 {
    var rest = text;
    const major = try takeNumber(&rest);
    try takeDot(&rest);
    const minor = try takeNumber(&rest);
    try takeDot(&rest);
    const patch = try takeNumber(&rest);
    const base = major * 10_000_000 + minor * 100_000 + patch * 1000;
    return std.math.cast(i32, base + try preReleaseOffset(rest)) orelse error.Malformed;
}

fn takeNumber(rest: *[]const u8) error{Malformed}!i64 {
    var length: usize = 0;
    while (length < rest.len and std.ascii.isDigit(rest.*[length])) length += 1;
    if (length == 0 or length > 4) return error.Malformed;
    const number = std.fmt.parseInt(i64, rest.*[0..length], 10) catch return error.Malformed;
    rest.* = rest.*[length..];
    return number;
}

fn takeDot(rest: *[]const u8) error{Malformed}!void {
    if (rest.len == 0 or rest.*[0] != '.') return error.Malformed;
    rest.* = rest.*[1..];
}

fn preReleaseOffset(suffix: []const u8) error{Malformed}!i64 {
    if (suffix.len == 0) return 0;
    const label = std.mem.trimStart(u8, suffix, "-.");
    for (pre_releases) |kind| {
        if (!std.ascii.startsWithIgnoreCase(label, kind.name)) continue;
        var index = std.mem.trimStart(u8, label[kind.name.len..], ".");
        return -kind.behind + if (index.len == 0) 0 else try takeNumber(&index);
    }
    return error.Malformed;
}

pub const PackageVersion = extern struct {
    version: [128]u8 = @splat(0),
    major: [64]u8 = @splat(0),
    minor: [64]u8 = @splat(0),
    release: [64]u8 = @splat(0),
    patch: [64]u8 = @splat(0),
    reserved: [128]u8 = @splat(0),
};
comptime {
    std.debug.assert(@sizeOf(PackageVersion) == 512);
}

const package_runtime: c_int = 1;
const package_driver: c_int = 7;

/// Deprecated by the vendor. The emulator knows only the runtime's version.
pub fn aclsysGetCANNVersion(package: c_int, version: ?*PackageVersion) acl.Error {
    const out = version orelse return errors.fail(acl.code.invalid_param, "version is NULL");
    if (package < 0 or package > package_driver) return errors.fail(acl.code.invalid_param, "no such package");
    if (package != package_runtime) return notInstalled();
    const found = find("runtime") orelse return notInstalled();
    out.* = .{ .version = found.buffer };
    var parts = std.mem.splitScalar(u8, found.buffer[0..found.length], '.');
    for ([_]*[64]u8{ &out.major, &out.minor, &out.release }) |slot| {
        const part = parts.next() orelse break;
        const length = @min(part.len, slot.len - 1);
        @memcpy(slot[0..length], part[0..length]);
    }
    return acl.code.success;
}

test "pack orders versions and fails when the text is malformed" {
    try std.testing.expectEqual(90102000, try pack("9.1.2"));
    try std.testing.expectEqual(90200000 - 200 + 1, try pack("9.2.0-beta.1"));
    try std.testing.expectEqual(80500000 - 300 + 2, try pack("8.5.0.alpha002"));
    try std.testing.expectEqual(80000000 - 100 + 3, try pack("8.0.0.RC3"));
    for ([_][]const u8{ "", "nine", "9", "9.1", "9.1.0-final", "99999.1.0" }) |text|
        try std.testing.expectError(error.Malformed, pack(text));
}

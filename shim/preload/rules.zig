//! What the user says about memory by size and by how it was written: `size>=256MiB and written=memset: discard`.
//! Without a rule everything is offloaded.

const std = @import("std");
const Written = @import("memory.zig").Written;

/// What a sleep does with memory that a rule matches.
pub const Action = enum {
    offload,
    /// Its content is lost.
    discard,
    /// Its backup stays while it is awake, so that the next sleep copies nothing.
    immutable,
    /// It stays on the device.
    keep,

    /// The tag that says so to a controller.
    pub fn tag(self: Action) []const u8 {
        return switch (self) {
            .offload => "default",
            .discard => "discard",
            .immutable => "immutable",
            .keep => "sleep_persistent",
        };
    }
};

const Comparison = enum { equal, at_least, at_most, more, less };

const Size = struct {
    comparison: Comparison,
    bytes: u64,

    fn matches(self: Size, size_bytes: u64) bool {
        return switch (self.comparison) {
            .equal => size_bytes == self.bytes,
            .at_least => size_bytes >= self.bytes,
            .at_most => size_bytes <= self.bytes,
            .more => size_bytes > self.bytes,
            .less => size_bytes < self.bytes,
        };
    }
};

const Condition = union(enum) {
    size: Size,
    /// Exactly these ways, and no other.
    written: Written,
    device: u32,
};

const most_conditions = 8;

pub const Rule = struct {
    conditions: [most_conditions]Condition,
    count: usize,
    action: Action,

    pub fn matches(self: *const Rule, size_bytes: u64, device: u32, written: Written) bool {
        for (self.conditions[0..self.count]) |condition| {
            const holds = switch (condition) {
                .size => |size| size.matches(size_bytes),
                .written => |wanted| wanted == written,
                .device => |wanted| wanted == device,
            };
            if (!holds) return false;
        }
        return true;
    }

    /// Whether it is known before the first write if the rule matches.
    pub fn isForAllocations(self: *const Rule) bool {
        for (self.conditions[0..self.count]) |condition| if (condition == .written) return false;
        return true;
    }
};

/// Matches no memory: none has this size.
pub const nothing: Rule = .{
    .conditions = @splat(.{ .size = .{ .comparison = .less, .bytes = 0 } }),
    .count = 1,
    .action = .offload,
};

/// A rule as its user writes it; null where it does not parse.
pub fn parse(text: []const u8) ?Rule {
    const colon = std.mem.lastIndexOfScalar(u8, text, ':') orelse return null;
    const action = std.mem.trim(u8, text[colon + 1 ..], " \t");
    var rule: Rule = .{
        .conditions = undefined,
        .count = 0,
        .action = std.meta.stringToEnum(Action, action) orelse return null,
    };
    var parts = std.mem.splitSequence(u8, text[0..colon], " and ");
    while (parts.next()) |part| {
        if (rule.count == most_conditions) return null;
        rule.conditions[rule.count] = parseCondition(std.mem.trim(u8, part, " \t")) orelse return null;
        rule.count += 1;
    }
    return rule;
}

fn parseCondition(text: []const u8) ?Condition {
    const end = std.mem.indexOfAny(u8, text, "<>= \t") orelse return null;
    const name = text[0..end];
    const rest = std.mem.trim(u8, text[end..], " \t");
    const operators = .{
        .{ ">=", Comparison.at_least },
        .{ "<=", Comparison.at_most },
        .{ ">", Comparison.more },
        .{ "<", Comparison.less },
        .{ "=", Comparison.equal },
    };
    inline for (operators) |operator| {
        if (std.mem.startsWith(u8, rest, operator[0]))
            return conditionOf(name, operator[1], std.mem.trim(u8, rest[operator[0].len..], " \t"));
    }
    return null;
}

fn conditionOf(name: []const u8, comparison: Comparison, value: []const u8) ?Condition {
    if (std.mem.eql(u8, name, "size"))
        return .{ .size = .{ .comparison = comparison, .bytes = parseSize(value) orelse return null } };
    if (comparison != .equal) return null;
    if (std.mem.eql(u8, name, "device"))
        return .{ .device = std.fmt.parseInt(u32, value, 10) catch return null };
    if (std.mem.eql(u8, name, "written")) return .{ .written = parseWritten(value) orelse return null };
    return null;
}

/// `host`, `device`, `memset`, several joined by "+", or `none`.
fn parseWritten(text: []const u8) ?Written {
    if (std.mem.eql(u8, text, "none")) return .{};
    var written: Written = .{};
    var ways = std.mem.splitScalar(u8, text, '+');
    while (ways.next()) |way| {
        if (std.mem.eql(u8, way, "host")) {
            written.host = true;
        } else if (std.mem.eql(u8, way, "device")) {
            written.device = true;
        } else if (std.mem.eql(u8, way, "memset")) {
            written.fill = true;
        } else return null;
    }
    return written;
}

fn parseSize(text: []const u8) ?u64 {
    const units = .{ .{ "KiB", 10 }, .{ "MiB", 20 }, .{ "GiB", 30 }, .{ "TiB", 40 }, .{ "B", 0 }, .{ "", 0 } };
    inline for (units) |unit| {
        if (std.mem.endsWith(u8, text, unit[0])) {
            const digits = std.mem.trim(u8, text[0 .. text.len - unit[0].len], " ");
            const count = std.fmt.parseInt(u64, digits, 10) catch return null;
            return std.math.shlExact(u64, count, unit[1]) catch null;
        }
    }
    return null;
}

test "parse reads conditions and an action" {
    const rule = parse("size>=256MiB and written=memset: discard") orelse return error.Unparsed;
    try std.testing.expectEqual(Action.discard, rule.action);
    try std.testing.expect(rule.matches(256 << 20, 0, .{ .fill = true }));
    try std.testing.expect(!rule.matches((256 << 20) - 1, 0, .{ .fill = true }));
    try std.testing.expect(!rule.matches(256 << 20, 0, .{ .fill = true, .host = true }));
    const both = parse(" written = host+device and device=1 and size < 3 KiB : keep ") orelse return error.Unparsed;
    try std.testing.expect(both.matches(100, 1, .{ .host = true, .device = true }));
    try std.testing.expect(!both.matches(100, 0, .{ .host = true, .device = true }));
    try std.testing.expect(!both.matches(3072, 1, .{ .host = true, .device = true }));
    try std.testing.expect(!both.isForAllocations());
}

test "parse refuses what is no rule" {
    const wrong = [_][]const u8{
        "",
        "discard",
        "size>=256MiB",
        ": discard",
        "size: discard",
        "size>=MiB: discard",
        "size>=99999999999999999999GiB: discard",
        "size>=17179869184GiB: discard",
        "written>host: discard",
        "written=kernel: discard",
        "colour=red: discard",
        "size>=1 or size<2: discard",
        "size>=1: lose",
    };
    for (wrong) |text| try std.testing.expectEqual(null, parse(text));
}

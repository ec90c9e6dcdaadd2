//! What the environment says. `camem run` sets it; nothing in it is required.

const std = @import("std");
const core = @import("core");
const rules_module = @import("rules.zig");
const Session = core.session.Session;

pub const OnTouch = core.engine.OnTouch;

/// `CAMEM_ON_TOUCH`: what happens to a call that touches memory which is asleep.
pub var on_touch: OnTouch = .wake;

const most_rules = 64;
var parsed: [most_rules]rules_module.Rule = undefined;
var parsed_count: usize = 0;

pub fn allRules() []const rules_module.Rule {
    return parsed[0..parsed_count];
}

pub fn hasRules() bool {
    return parsed_count > 0;
}

/// Reads the variables. One that does not parse is reported on standard error, and is as if it were absent: the
/// program must run.
pub fn load() void {
    parsed_count = 0;
    var lines = std.mem.splitScalar(u8, rules(), '\n');
    while (lines.next()) |line| {
        if (parsed_count == parsed.len) {
            report("CAMEM_RULES", line, "only the 64 rules before it count");
            break;
        }
        // A line that is no rule matches nothing, and the others keep their numbers.
        parsed[parsed_count] = rules_module.parse(line) orelse blk: {
            if (line.len > 0) report("CAMEM_RULES", line, "it is no rule and is ignored; see docs/engines.md");
            break :blk rules_module.nothing;
        };
        parsed_count += 1;
    }
    if (rules().len == 0) parsed_count = 0;
    if (get("CAMEM_ON_TOUCH")) |text| on_touch = std.meta.stringToEnum(OnTouch, text) orelse blk: {
        report("CAMEM_ON_TOUCH", text, "it must be wake, hold or fail; wake is used");
        break :blk .wake;
    };
    has_reported = true;
}

/// The library starts anew in a forked child, and after the program has finalised AscendCL.
var has_reported = false;

fn report(comptime variable: []const u8, value: []const u8, comptime what: []const u8) void {
    if (has_reported) return;
    var buffer: [512]u8 = undefined;
    const shown = value[0..@min(value.len, 200)];
    const format = "camem: " ++ variable ++ " has \"{s}\": " ++ what ++ "\n";
    const text = std.fmt.bufPrint(&buffer, format, .{shown}) catch return;
    // Without standard error there is nobody to tell.
    _ = std.c.write(2, text.ptr, text.len);
}

pub fn apply(session: *Session) void {
    const folder = get("CAMEM_SPILL_DIR") orelse return;
    session.setSpillFolder(folder) catch return; // a controller sets the folder as well
}

/// `CAMEM_ENGINE_NAME`, or the program's name.
pub fn engineName() []const u8 {
    return get("CAMEM_ENGINE_NAME") orelse std.mem.span(program_invocation_short_name);
}

extern "c" var program_invocation_short_name: [*:0]const u8;

/// `CAMEM_RULES`, one a line.
pub fn rules() []const u8 {
    return get("CAMEM_RULES") orelse "";
}

fn get(name: [*:0]const u8) ?[]const u8 {
    const text = std.mem.span(std.c.getenv(name) orelse return null);
    return if (text.len == 0) null else text;
}

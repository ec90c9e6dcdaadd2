//! What the environment says. `camem run` sets it; nothing in it is required.

const std = @import("std");
const core = @import("core");
const Session = core.session.Session;

pub const OnTouch = core.engine.OnTouch;

/// `CAMEM_ON_TOUCH`: what happens to a call that touches memory which is asleep.
pub var on_touch: OnTouch = .wake;

/// Reads the variables. One that does not parse is as if it were absent: the program must run.
pub fn load() void {
    const text = get("CAMEM_ON_TOUCH") orelse return;
    on_touch = std.meta.stringToEnum(OnTouch, text) orelse return;
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

//! What the environment says. `camem run` sets it; nothing in it is required.

const std = @import("std");
const core = @import("core");
const Session = core.session.Session;

/// `CAMEM_ON_TOUCH`: what happens to a call that touches memory which is asleep.
pub const OnTouch = enum(u32) {
    /// The library wakes everything.
    wake,
    /// The call waits for a controller.
    hold,
    /// The call fails.
    fail,
};

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

fn get(name: [*:0]const u8) ?[]const u8 {
    const text = std.mem.span(std.c.getenv(name) orelse return null);
    return if (text.len == 0) null else text;
}

//! The names of AscendCL's calls. Faults and the timing model find a call by its name in text and by its index in
//! tables. The root file derives the names from the functions below `calls/` and passes them down.

const std = @import("std");

pub const Names = []const []const u8;

/// Room in the tables; the root file checks that it suffices.
pub const max_count = 160;

pub fn indexOf(names: Names, name: []const u8) ?usize {
    for (names, 0..) |candidate, index| {
        if (std.mem.eql(u8, candidate, name)) return index;
    }
    return null;
}

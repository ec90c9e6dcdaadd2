test {
    _ = @import("rules.zig");
    _ = @import("small.zig");
}

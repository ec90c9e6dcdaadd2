test {
    _ = @import("acl");
    _ = @import("abi.zig");
    _ = @import("loader.zig");
    _ = @import("portions.zig");
    _ = @import("registry.zig");
    _ = @import("session.zig");
    _ = @import("status.zig");
}

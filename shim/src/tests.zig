test {
    _ = @import("acl");
    _ = @import("abi.zig");
    _ = @import("attach.zig");
    _ = @import("loader.zig");
    _ = @import("registry_test.zig");
    _ = @import("segment.zig");
    _ = @import("segment_groups.zig");
    _ = @import("status.zig");
    _ = @import("sockets.zig");
    _ = @import("sync.zig");
    _ = @import("tags.zig");
}

test { _ = @import("acl"); }

//! AscendCL's initialisation, which its users in a process share: it is finalised only by who initialised it.

const acl = @import("acl");
const loader = @import("loader.zig");
const status = @import("status.zig");
const Failure = status.Failure;

/// Who has to undo `aclInit`.
pub const Initialization = enum {
    ours,
    counted,
    foreign,

    /// The initialisation that a failed attach could not give up: the next one with that library takes it over.
    var stray: ?struct {
        /// `aclInit` of the library.
        library: *const fn (?[*:0]const u8) callconv(.c) acl.Error,
        kind: Initialization,
    } = null;

    pub fn take(library: *const loader.Library, failure: *Failure) status.Error!Initialization {
        if (stray) |left| if (left.library == library.api.aclInit) {
            stray = null;
            return left.kind;
        };
        const code = library.api.aclInit(null);
        switch (code) {
            acl.code.success => return .ours,
            acl.code.repeat_initialize => return .counted,
            // Someone initialised AscendCL with a configuration file of their own: no count was taken.
            acl.code.invalid_param => {
                var count: u32 = 0;
                if (library.api.aclrtGetDeviceCount(&count) == acl.code.success) return .foreign;
            },
            else => {},
        }
        library.describe("aclInit", code, 0, 0, failure);
        return error.BackendUnavailable;
    }

    pub fn giveUp(self: Initialization, library: *const loader.Library, failure: *Failure) status.Error!void {
        const api = &library.api;
        if (self == .foreign) return;
        const call, const code = if (api.aclFinalizeReference) |finalizeReference|
            .{ "aclFinalizeReference", finalizeReference(null) }
        else if (self == .ours)
            .{ "aclFinalize", api.aclFinalize() }
        else
            return;
        if (code == acl.code.repeat_finalize) return; // somebody else has torn AscendCL down already
        return library.check(call, code, 0, 0, failure);
    }

    pub fn abandon(self: Initialization, library: *const loader.Library) void {
        var ignored: Failure = .{};
        self.giveUp(library, &ignored) catch {
            stray = .{ .library = library.api.aclInit, .kind = self };
        };
    }
};

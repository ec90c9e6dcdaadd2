//! Finds and opens the library that speaks AscendCL. Every path tried and why it failed is kept, so that a person
//! can see what happened; nothing is printed here.

const std = @import("std");
const acl = @import("acl");
const build_options = @import("build_options");
const status = @import("status.zig");

const api_fields = @typeInfo(acl.Api).@"struct".fields;

fn isOptional(comptime field: std.builtin.Type.StructField) bool {
    return @typeInfo(field.type) == .optional;
}

/// What was tried, one line each: path, tab, result. Cut when it grows beyond its buffer.
pub const Report = struct {
    text: [8192]u8 = undefined,
    length: usize = 0,

    pub fn add(self: *Report, path: []const u8, result: []const u8) void {
        const line = std.fmt.bufPrint(self.text[self.length..], "{s}\t{s}\n", .{ path, result }) catch return;
        self.length += line.len;
    }
};

pub const Library = struct {
    api: acl.Api,
    path: [1024]u8 = @splat(0),

    pub fn pathText(self: *const Library) []const u8 {
        return std.mem.sliceTo(&self.path, 0);
    }

    /// Turns a code that is not success into an error, with AscendCL's own message of this thread.
    pub fn check(
        self: *const Library,
        call: []const u8,
        code: acl.Error,
        address: u64,
        size_bytes: u64,
        failure: *status.Failure,
    ) status.Error!void {
        if (code == acl.code.success) return;
        self.describe(call, code, address, size_bytes, failure);
        return status.fromAcl(code);
    }

    pub fn describe(
        self: *const Library,
        call: []const u8,
        code: acl.Error,
        address: u64,
        size_bytes: u64,
        failure: *status.Failure,
    ) void {
        var message: []const u8 = "";
        if (self.api.aclGetRecentErrMsg) |recent| {
            if (recent()) |text| message = std.mem.span(text);
        }
        failure.describe(call, code, address, size_bytes, message);
    }

    /// Copies the names of the AscendCL symbols, one a line, "required" or "optional" and "present" or "absent" after
    /// tabs. Returns how long that is.
    pub fn copySymbols(self: *const Library, target: []u8) status.Error!u64 {
        var used: usize = 0;
        inline for (api_fields) |field| {
            const optional = comptime isOptional(field);
            const present = if (optional) @field(self.api, field.name) != null else true;
            const kind = if (optional) "optional" else "required";
            const presence = if (present) "present" else "absent";
            const words = .{ field.name, kind, presence };
            const line = std.fmt.bufPrint(target[used..], "{s}\t{s}\t{s}\n", words) catch return error.InvalidArgument;
            used += line.len;
        }
        return used;
    }
};

/// libacl_rt.so holds the runtime; libascendcl.so is the compatibility library beside it and the only one before CANN
/// 8.5.
const names = [_][:0]const u8{ "libacl_rt.so", "libascendcl.so" };
const folder_variables = [_][:0]const u8{ "ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME" };
const install_folders = [_][]const u8{
    "/usr/local/Ascend/cann",
    "/usr/local/Ascend/ascend-toolkit/latest",
    "/opt/Ascend/cann",
};

/// Opens `path`, or without one searches: the dynamic linker's own path, then where CANN says it is installed, then
/// where it usually is.
pub fn open(path: ?[*:0]const u8, report: *Report) status.Error!Library {
    if (build_options.link_ascendcl) return linked(report);
    if (path) |explicit| return tryOpen(explicit, report);
    var worst: status.Error = error.LibraryNotFound;
    for (names) |name| {
        return tryOpen(name, report) catch |err| {
            if (err == error.LibraryInvalid) worst = err;
            continue;
        };
    }
    var candidates: Candidates = .{};
    while (candidates.next()) |candidate| {
        return tryOpen(candidate, report) catch |err| {
            if (err == error.LibraryInvalid) worst = err;
            continue;
        };
    }
    return worst;
}

/// Walks `<folder>/lib64/<name>` over the folders named by the environment, the home folder and the usual ones.
const Candidates = struct {
    index: usize = 0,
    buffer: [1024]u8 = undefined,

    fn next(self: *Candidates) ?[*:0]const u8 {
        const folder_count = folder_variables.len + install_folders.len + 1;
        while (self.index < folder_count * names.len) {
            const folder_index = self.index / names.len;
            const name = names[self.index % names.len];
            self.index += 1;
            const folder, const suffix = folderAt(folder_index) orelse continue;
            return std.fmt.bufPrintZ(&self.buffer, "{s}{s}/lib64/{s}", .{ folder, suffix, name }) catch continue;
        }
        return null;
    }

    fn folderAt(index: usize) ?struct { []const u8, []const u8 } {
        if (index < folder_variables.len) return .{ environment(folder_variables[index]) orelse return null, "" };
        const installed = index - folder_variables.len;
        if (installed < install_folders.len) return .{ install_folders[installed], "" };
        return .{ environment("HOME") orelse return null, "/Ascend/cann" };
    }

    fn environment(name: [:0]const u8) ?[]const u8 {
        const value = std.mem.span(std.c.getenv(name) orelse return null);
        return if (value.len == 0) null else value;
    }
};

fn tryOpen(path: [*:0]const u8, report: *Report) status.Error!Library {
    const text = std.mem.span(path);
    const handle = std.c.dlopen(path, .{ .NOW = true, .GLOBAL = true }) orelse {
        report.add(text, if (std.c.dlerror()) |message| std.mem.span(message) else "cannot be opened");
        const exists = std.mem.indexOfScalar(u8, text, '/') != null and std.c.access(path, std.c.F_OK) == 0;
        return if (exists) error.LibraryInvalid else error.LibraryNotFound;
    };
    const library = fromSymbols(InHandle{ .handle = handle }, text, report) catch |err| {
        _ = std.c.dlclose(handle);
        return err;
    };
    keepLoaded(path);
    return library;
}

/// Keeps a library that is loaded: a runtime that closes its libraries as it ends must not unmap what threads run.
fn keepLoaded(path: [*:0]const u8) void {
    _ = std.c.dlopen(path, .{ .NOW = true, .NOLOAD = true, .NODELETE = true });
}

const DlInfo = extern struct {
    path: ?[*:0]const u8,
    base: ?*anyopaque,
    symbol: ?[*:0]const u8,
    address: ?*anyopaque,
};
extern "c" fn dladdr(address: ?*const anyopaque, info: *DlInfo) c_int;

/// The program or library that an address is in.
pub fn objectOf(address: ?*const anyopaque) ?DlInfo {
    var found: DlInfo = undefined;
    return if (dladdr(address, &found) == 0) null else found;
}

/// As `keepLoaded`, the library that this code is in.
pub fn keepOwnLibrary() void {
    const own = objectOf(&keepOwnLibrary) orelse return;
    if (own.path) |path| keepLoaded(path);
}

const InHandle = struct {
    handle: *anyopaque,

    pub fn find(self: InHandle, comptime name: [:0]const u8) ?*anyopaque {
        return std.c.dlsym(self.handle, name);
    }
};

/// The library at `path`, which `symbols.find` looks names up in.
pub fn fromSymbols(symbols: anytype, path: []const u8, report: *Report) status.Error!Library {
    var library: Library = .{ .api = undefined };
    status.copyText(&library.path, path);
    inline for (api_fields) |field| {
        const symbol: ?*anyopaque = symbols.find(field.name);
        if (comptime isOptional(field)) {
            @field(library.api, field.name) = @ptrCast(@alignCast(symbol));
        } else if (symbol) |found| {
            @field(library.api, field.name) = @ptrCast(@alignCast(found));
        } else {
            report.add(path, "is not AscendCL: it has no " ++ field.name);
            return error.LibraryInvalid;
        }
    }
    report.add(path, "opened");
    return library;
}

fn linked(report: *Report) status.Error!Library {
    var library: Library = .{ .api = undefined };
    status.copyText(&library.path, "libascendcl.so");
    inline for (api_fields) |field| {
        const linkage: std.builtin.GlobalLinkage = if (comptime isOptional(field)) .weak else .strong;
        @field(library.api, field.name) = @extern(field.type, .{ .name = field.name, .linkage = linkage });
    }
    report.add("libascendcl.so", "linked at build time");
    return library;
}

test "open reports a file that is not a library" {
    var report: Report = .{};
    try std.testing.expectError(error.LibraryInvalid, open("/dev/null", &report));
    try std.testing.expect(std.mem.startsWith(u8, report.text[0..report.length], "/dev/null\t"));
}

test "open names the symbol that a library lacks when it is not AscendCL" {
    var report: Report = .{};
    try std.testing.expectError(error.LibraryInvalid, open("libm.so.6", &report));
    try std.testing.expect(std.mem.indexOf(u8, report.text[0..report.length], "aclInit") != null);
}

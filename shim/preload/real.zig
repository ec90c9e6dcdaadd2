//! The functions that this library stands in front of. Each is looked up when it is first called: a program may load
//! AscendCL at any time, also where only the loading module sees it (RTLD_LOCAL).

const std = @import("std");
const build_options = @import("build_options");
const loader = @import("core").loader;

const next_object: *anyopaque = @ptrFromInt(std.math.maxInt(usize));

/// The function `name` of the library below, or null where no library that is loaded has it.
pub fn function(comptime name: [:0]const u8, comptime F: type) ?*const F {
    if (build_options.link_ascendcl) return @extern(?*const F, .{ .name = name, .linkage = .weak });
    const slot = struct {
        var address: Address = .init(0);
        const of = name; // one slot for each name
    };
    return @ptrFromInt(lookUp(&slot.address, slot.of) orelse return null);
}

/// Where a function is, or 0 before it was found.
pub const Address = std.atomic.Value(usize);

/// The address of a function, which is looked up once; null until a library that has it is loaded.
pub fn lookUp(address: *Address, name: [:0]const u8) ?usize {
    const known = address.load(.acquire);
    if (known != 0) return known;
    const found = @intFromPtr(find(name) orelse return null);
    address.store(found, .release);
    return found;
}

/// Looks a name up in the objects behind this one, then in every object that is loaded.
fn find(name: [:0]const u8) ?*anyopaque {
    if (std.c.dlsym(next_object, name)) |found| return found;
    var index: usize = 0;
    while (true) : (index += 1) {
        var object: Object = .{ .wanted = index };
        if (std.c.dl_iterate_phdr(Object.visit, &object) == 0) return null;
        if (object.path[0] == 0) continue; // the program itself, which sees what everybody sees
        if (findIn(@ptrCast(&object.path), name)) |found| return found;
    }
}

const Object = struct {
    wanted: usize,
    index: usize = 0,
    path: [std.os.linux.PATH_MAX]u8 = @splat(0),

    fn visit(info: *std.c.dl_phdr_info, _: usize, data: ?*anyopaque) callconv(.c) c_int {
        const self: *Object = @ptrCast(@alignCast(data.?));
        defer self.index += 1;
        if (self.index != self.wanted) return 0;
        const name = std.mem.span(info.name orelse "");
        const length = @min(name.len, self.path.len - 1);
        @memcpy(self.path[0..length], name[0..length]);
        return 1;
    }
};

/// A library that has the name is kept loaded, since its functions are.
fn findIn(path: [*:0]const u8, name: [:0]const u8) ?*anyopaque {
    const handle = std.c.dlopen(path, .{ .LAZY = true, .NOLOAD = true }) orelse return null;
    const found = std.c.dlsym(handle, name);
    if (found == null or isOurs(found)) {
        _ = std.c.dlclose(handle);
        return null;
    }
    return found;
}

fn isOurs(address: ?*const anyopaque) bool {
    const found = loader.objectOf(address) orelse return false;
    const own = loader.objectOf(&find) orelse return false;
    return found.base == own.base;
}

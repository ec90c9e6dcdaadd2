//! Captures of graphs. A capture may not be disturbed by a wait for its device, so the library waits for its end first.

const acl = @import("acl");
const contexts = @import("../contexts.zig");
const real = @import("../real.zig");
const refusal = @import("../refusal.zig");

pub fn aclmdlRICaptureBegin(stream: acl.Stream, mode: c_int) callconv(.c) acl.Error {
    const Call = fn (acl.Stream, c_int) callconv(.c) acl.Error;
    const call = real.function("aclmdlRICaptureBegin", Call) orelse return refusal.missing;
    contexts.beginCapture();
    const code = call(stream, mode);
    if (code != acl.code.success) contexts.endCapture();
    return code;
}

pub fn aclmdlRICaptureEnd(stream: acl.Stream, model: ?*?*anyopaque) callconv(.c) acl.Error {
    const Call = fn (acl.Stream, ?*?*anyopaque) callconv(.c) acl.Error;
    const call = real.function("aclmdlRICaptureEnd", Call) orelse return refusal.missing;
    const code = call(stream, model);
    const goes_on = code == acl.code.rt_stream_not_captured or code == acl.code.invalid_param or
        code == acl.code.rt_invalid_handle or code == acl.code.rt_param_invalid;
    if (!goes_on) contexts.endCapture();
    return code;
}

//! Graphs: what a stream is given between begin and end is recorded instead of executed, and replayed as a whole.
//! Of the capture modes only the rule about the ending thread is emulated: no other call is refused meanwhile.

const acl = @import("acl");
const context_module = @import("../context.zig");
const errors = @import("../errors.zig");
const graph_module = @import("../graph.zig");
const handles = @import("../handles.zig");
const lock = @import("../lock.zig");
const stream_module = @import("../stream.zig");
const Graph = graph_module.Graph;
const Stream = stream_module.Stream;

const invalid = acl.code.invalid_param;

pub fn aclmdlRICaptureBegin(handle: acl.Stream, mode: c_int) acl.Error {
    if (handle == null) return errors.fail(invalid, "stream is NULL");
    lock.enter();
    defer lock.leave();
    if (stream_module.isStale(handle)) return stream_module.stale();
    if (mode < 0 or mode > graph_module.CaptureMode.relaxed)
        return errors.fail(acl.code.rt_param_invalid, "unknown capture mode");
    var stream: *Stream = undefined;
    const code = resolveCapturable(handle, &stream);
    if (code != acl.code.success) return code;
    if (stream.capture != null) return stream_module.captured();
    stream.capture = graph_module.create(stream.context, mode) catch return errors.outOfHostMemory();
    return acl.code.success;
}

fn resolveCapturable(handle: acl.Stream, out: **Stream) acl.Error {
    const code = context_module.resolveOwnStream(handle, out);
    if (code != acl.code.success) return code;
    if (out.*.is_default) return errors.fail(acl.code.rt_feature_not_supported, "the default stream");
    return acl.code.success;
}

/// The caller owns the graph, which aclmdlRIDestroy or the end of the context frees.
pub fn aclmdlRICaptureEnd(handle: acl.Stream, model: ?*?*anyopaque) acl.Error {
    if (handle == null) return errors.fail(invalid, "stream is NULL");
    lock.enter();
    defer lock.leave();
    if (stream_module.isStale(handle)) return stream_module.stale();
    var stream: *Stream = undefined;
    const code = resolveCapturable(handle, &stream);
    if (code != acl.code.success) return code;
    const graph = stream.capture orelse
        return errors.fail(acl.code.rt_stream_not_captured, "the stream is not captured");
    const out = model orelse return errors.fail(acl.code.rt_param_invalid, "modelRI is NULL");
    out.* = null;
    stream.capture = null;
    if (!graph.mayEnd()) {
        graph.destroy();
        return errors.fail(acl.code.rt_stream_capture_wrong_thread, "another thread began the capture");
    }
    graph.handle = graph_module.registry.add(graph) catch {
        graph.destroy();
        return errors.outOfHostMemory();
    };
    out.* = handles.toPointer(graph.handle);
    return acl.code.success;
}

pub fn aclmdlRIExecuteAsync(model: ?*anyopaque, handle: acl.Stream) acl.Error {
    if (model == null) return errors.fail(invalid, "modelRI is NULL");
    lock.enter();
    defer lock.leave();
    const graph = graph_module.registry.get(model) orelse return staleGraph();
    var stream: *Stream = undefined;
    const code = context_module.resolveStream(handle, &stream);
    if (code != acl.code.success) return code;
    if (stream.capture != null) return stream_module.captured();
    return stream.replay(graph);
}

fn staleGraph() acl.Error {
    return errors.fail(acl.code.rt_invalid_handle, "no such graph, or destroyed already");
}

/// Replays that are queued already still run.
pub fn aclmdlRIDestroy(model: ?*anyopaque) acl.Error {
    if (model == null) return errors.fail(invalid, "modelRI is NULL");
    lock.enter();
    defer lock.leave();
    const graph = graph_module.registry.get(model) orelse return staleGraph();
    const context = context_module.current() orelse return context_module.noContext();
    if (graph.context != context.handle)
        return errors.fail(acl.code.rt_model_context, "the graph belongs to another context");
    graph_module.remove(graph);
    return acl.code.success;
}

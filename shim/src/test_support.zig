//! What tests and the stress program share.

const abi = @import("abi.zig");

/// The step of a plan that does `action` to every segment of a group.
pub fn stepOf(group: abi.SegmentGroup, action: abi.Action) abi.PlanStep {
    return .{
        .segments = group.segments,
        .segment_bytes = group.segment_bytes,
        .tag = group.tag,
        .device = group.device,
        .state = group.state,
        .unreleased = group.unreleased,
        .clean = group.clean,
        .backed_up = group.backed_up,
        .action = @intFromEnum(action),
    };
}

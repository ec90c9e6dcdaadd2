//! The parts of the shim that the preload library is built from.

pub const attach = @import("attach.zig");
pub const program_memory = @import("program_memory.zig");
pub const control_server = @import("control_server.zig");
pub const engine = @import("engine.zig");
pub const heap = @import("heap.zig");
pub const loader = @import("loader.zig");
pub const plans = @import("plans.zig");
pub const registry = @import("registry.zig");
pub const runtime = @import("runtime.zig");
pub const segment_groups = @import("segment_groups.zig");
pub const segments = @import("segment.zig");
pub const session = @import("session.zig");
pub const sockets = @import("sockets.zig");
pub const status = @import("status.zig");
pub const sync = @import("sync.zig");
pub const vmm = @import("vmm.zig");

//! All unit tests of the emulator, for `zig build test`.

test {
    _ = @import("address_window.zig");
    _ = @import("calls/access_test.zig");
    _ = @import("calls/context_test.zig");
    _ = @import("calls/copy_batch_test.zig");
    _ = @import("calls/copy_test.zig");
    _ = @import("calls/data_type.zig");
    _ = @import("calls/device_test.zig");
    _ = @import("calls/event_test.zig");
    _ = @import("calls/external_allocator_test.zig");
    _ = @import("calls/graph_test.zig");
    _ = @import("calls/host_memory_test.zig");
    _ = @import("calls/init_test.zig");
    _ = @import("calls/ipc_key_test.zig");
    _ = @import("calls/last_error.zig");
    _ = @import("calls/malloc_physical_test.zig");
    _ = @import("calls/malloc_test.zig");
    _ = @import("calls/mapping_test.zig");
    _ = @import("calls/pointer_test.zig");
    _ = @import("calls/reservation_test.zig");
    _ = @import("calls/shareable_handle_test.zig");
    _ = @import("calls/stream_test.zig");
    _ = @import("calls/value_test.zig");
    _ = @import("calls/version.zig");
    _ = @import("calls/version_test.zig");
    _ = @import("config.zig");
    _ = @import("emulator.zig");
    _ = @import("faults.zig");
    _ = @import("files.zig");
    _ = @import("free_list.zig");
    _ = @import("handles.zig");
    _ = @import("host_range.zig");
    _ = @import("initialization.zig");
    _ = @import("physical.zig");
    _ = @import("range_table.zig");
    _ = @import("shared_budget.zig");
    _ = @import("sizes.zig");
    _ = @import("sync.zig");
    _ = @import("timing.zig");
}

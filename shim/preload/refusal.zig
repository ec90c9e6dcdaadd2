//! The codes of AscendCL that the library returns by itself.

const acl = @import("acl");

/// The library below has no such function.
pub const missing: acl.Error = acl.code.rt_feature_not_supported;

/// The memory is asleep and is not woken for this call.
pub const asleep: acl.Error = acl.code.rt_device_mem_error;

/// A handle that is not valid, or no longer.
pub const stale_handle: acl.Error = acl.code.rt_invalid_handle;

/// A range that cannot be mapped or released as it is.
pub const bad_range: acl.Error = acl.code.rt_drv_internal_error;

/// What an operator returns where the runtime refuses its work.
pub const operator: acl.Error = 361001;

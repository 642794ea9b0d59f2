//! What every handle of the C ABI points at: the tag of the backend that made it, a field of the
//! object.

pub const Backend = enum(usize) { cpu, cuda };

pub const Device = struct { backend: Backend };
pub const Stream = struct { backend: Backend };
pub const Event = struct { backend: Backend };
pub const Graph = struct { backend: Backend };

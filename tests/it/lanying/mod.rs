//! The Lanying API, call by call.

mod calls;

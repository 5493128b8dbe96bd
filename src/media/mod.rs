//! Recognises files, makes thumbnails, and measures voice messages: bytes in, bytes out.
//!
//! Everything here is synchronous, and limited by its arguments. It knows no files, clocks, threads or caches. The caller
//! has the pool that runs it, the memory for all decoders together, and the program that decodes video and audio
//! (`files/derive.rs`, `files/ffmpeg.rs`).

pub mod sniff;
pub mod thumbnail;
pub mod voice;

mod active_type;
mod content_type;
mod cost;
mod decode;
mod dimensions;
mod error;
mod kind;
mod limits;
mod window;

#[cfg(test)]
mod lossless_tests;
#[cfg(test)]
mod quality_tests;
#[cfg(test)]
mod sniff_tests;
#[cfg(test)]
mod thumbnail_tests;

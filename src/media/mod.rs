//! Bytes in, bytes out: what a file is, and how a picture becomes a small one.
//!
//! `kind` lists the kinds of files and what may be done with each; [`sniff`] tells them by their first bytes;
//! `content_type` decides which type is stored, `active_type` which never is; `dimensions` reads a picture's size from its header, through
//! the small buffer of `window`, so that a bomb is refused before anything is allocated, be it of pixels or of prefix codes; `cost` says
//! how much memory its decoding takes; `decode` turns the five decodable formats into pixels;
//! [`thumbnail`] puts these together; [`voice`] walks AMR. All of it is synchronous and bounded by what is
//! passed in: no file, no clock, no thread, no cache is known here. The pool that runs it, its memory budget
//! and single flight are the caller's; so is what a program of its own does for video and voice.

pub mod sniff;
pub mod thumbnail;
pub mod voice;

mod active_type;
mod content_type;
mod cost;
mod decode;
mod dimensions;
mod kind;
mod window;

#[cfg(test)]
mod lossless_tests;
#[cfg(test)]
mod quality_tests;
#[cfg(test)]
mod sniff_tests;
#[cfg(test)]
mod thumbnail_tests;

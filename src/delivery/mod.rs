//! Delivers a file: a [`View`] of it and a plan in; status, headers and bytes on the wire out.
//!
//! 1. An API parses the request into a [`View`] and opens the file. [`View::make`] chooses the [`Content`]: the stored
//!    file or a derivative.
//! 2. [`deliver`] asks `http::plan` for the answer to conditions and ranges, and renders it. The headers of the content
//!    are rendered once and kept with the open file; the [`CachePolicy`] is added.
//! 3. hyper polls the [`Body`]. It yields slices of the mapped file, after a blocking thread has read cold pages in
//!    (`disk.rs`), or memory of this process where the bytes must be read here (`copies.rs`).
//! 4. hyper passes the slices on to the connection's transport by address. [`Loans`] finds the file of a slice, and the
//!    kernel sends it by `sendfile`.
//!
//! Who may see the file was decided before. Requests are parsed and errors are rendered in `api/`.

mod body;
mod cache_policy;
mod content;
mod copies;
mod disk;
mod loans;
mod response;
mod view;

pub use self::{
    body::Body,
    cache_policy::CachePolicy,
    content::{Content, etag},
    loans::{FileBody, Loans, SendFile},
    response::{Request, deliver},
    view::{NotConvertible, View},
};

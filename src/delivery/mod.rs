//! Delivers a file: a plan and a file in; status, headers and bytes on the wire out.

mod body;
mod copies;
mod deliver;
mod disk;
mod lent;
mod turns;

pub use self::{
    body::Body,
    deliver::{Content, Keep, Request, deliver},
    lent::{LendTo, Lent},
};

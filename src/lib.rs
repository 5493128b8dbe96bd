//! chatfiles: the file service of a chat backend. `ARCHITECTURE.md` has the map.
//!
//! The order below is that of the layers: a module imports only those below its own line.

pub mod cli;

pub mod app;

pub mod config;

pub mod server;

pub mod routes;

pub mod api;

pub mod delivery;

pub mod files;

pub mod retention;

pub mod auth;
pub mod http;
pub mod limit;
pub mod media;

pub mod tenant;

pub mod store;

pub mod client_network;
pub mod derivative;
pub mod durable;
pub mod error;
pub mod fair_queue;
pub mod http_client;
pub mod logging;
pub mod metrics;
pub mod secret;
pub mod settings;
pub mod time;
pub mod trace_parent;

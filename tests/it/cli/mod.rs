//! The command line: settings, commands, and the server as its own process.

mod commands;
mod examples;
mod secrets;
mod settings;
mod weak_secrets;
mod welcome;

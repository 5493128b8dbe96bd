//! The command line: settings, commands, and the output of a starting server.

mod commands;
mod examples;
mod secrets;
mod settings;
mod weak_secrets;
mod welcome;

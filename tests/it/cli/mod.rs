//! The command line: settings, commands, and the output of a starting server.

mod commands;
mod examples;
mod exit_codes;
mod help;
mod secrets;
mod settings;
mod units;
mod version;
mod weak_secrets;
mod welcome;

//! The binary: the allocator, and the command line's exit code.

use std::process::ExitCode;

/// Small allocations, made on one thread and freed on another: what mimalloc is made for.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    chatfiles::cli::main()
}

//! The binary: sets the allocator and runs the command line.

use std::process::ExitCode;

/// mimalloc is fast for small allocations that one thread makes and another one frees.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    chatfiles::cli::main()
}

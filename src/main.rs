//! The `spindex` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    spindex::cli::main()
}

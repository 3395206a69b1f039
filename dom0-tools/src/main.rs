//! `vmcrypt`: what VMCrypt does on this host, what dom0 can see of a guest, and the keys of guests' owners.

// Everything is printed by the two macros of `cli`, which escape it.
#![deny(clippy::print_stdout, clippy::print_stderr)]

#[macro_use]
mod cli;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use cli::{inspect, key, measure, status, sweep};

/// What VMCrypt does on this host, and what dom0 can see of a guest
#[derive(Parser)]
#[command(
    version,
    after_help = "Exit status: 0 all is well, 1 something is wrong, 3 --deny-hits was given and needles were found."
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Status(status::Status),
    Sweep(sweep::Sweep),
    Inspect(inspect::Inspect),
    Measure(measure::Measure),
    #[command(subcommand)]
    Key(key::Key),
}

fn main() -> ExitCode {
    let result = match Cli::parse().verb {
        Verb::Status(verb) => verb.run(),
        Verb::Sweep(verb) => verb.run(),
        Verb::Inspect(verb) => verb.run(),
        Verb::Measure(verb) => verb.run(),
        Verb::Key(verb) => verb.run(),
    };
    result.unwrap_or_else(|error| {
        complain!("{error:#}");
        ExitCode::FAILURE
    })
}

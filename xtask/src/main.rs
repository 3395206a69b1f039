//! Every developer command of VMCrypt: `cargo xtask VERB`.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

mod bench;
mod c_program;
mod demo;
mod doors;
mod e2e;
mod header;
mod image;
mod instructions;
mod link_gate;
mod lint;
mod shell;
mod test;
mod xen;

/// Build, test and show VMCrypt.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Demo(demo::Args),
    Test(test::Args),
    Xen(xen::Args),
    Image(image::Args),
    E2e(e2e::Args),
    Shell(shell::Args),
    Bench(bench::Args),
    Header(header::Args),
    Doors(doors::Args),
    LinkGate(link_gate::Args),
    Instructions(instructions::Args),
    Lint(lint::Args),
}

fn main() -> ExitCode {
    match run(Cli::parse().verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Result<()> {
    match verb {
        Verb::Demo(args) => demo::run(&args),
        Verb::Test(args) => test::run(&args),
        Verb::Xen(args) => xen::run(&args),
        Verb::Image(args) => image::run(&args),
        Verb::E2e(args) => e2e::run(&args),
        Verb::Shell(args) => shell::run(&args),
        Verb::Bench(args) => bench::run(&args),
        Verb::Header(args) => header::run(&args),
        Verb::Doors(args) => doors::run(&args),
        Verb::LinkGate(args) => link_gate::run(&args),
        Verb::Instructions(args) => instructions::run(&args),
        Verb::Lint(args) => lint::run(&args),
    }
}

//! What an evil dom0 does: bare hypercalls that no toolstack makes, and the registry of attacks that are made of them.

mod answer;
mod attacks;
mod building;
mod calls;
mod cli;
mod export;
mod frames;
mod fuzz;
mod launch;
mod lent;
mod maps;
mod prey;
mod race;
mod registers;
mod replicas;
pub mod ways;

pub use cli::run;

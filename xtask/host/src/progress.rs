//! Telling a person what is going on.
//!
//! On a terminal a step is one line with a spinner that ends as one line with the time taken. Elsewhere (CI logs)
//! only the last line is printed. Everything goes to stderr: stdout belongs to results.

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

/// One step of a longer job. Dropped without [`Step::done`] it counts as failed.
#[derive(Debug)]
pub struct Step {
    name: String,
    bar: ProgressBar,
    start: Instant,
    over: bool,
}

impl Step {
    /// Begin a step of unknown length.
    pub fn new(name: impl Into<String>) -> Self {
        Self::with_bar(
            name.into(),
            ProgressBar::new_spinner(),
            "{spinner} {prefix} {elapsed} {wide_msg:.dim}",
        )
    }

    /// Begin a step of `length` parts; tell it with [`Step::set`].
    pub fn counted(name: impl Into<String>, length: u64) -> Self {
        Self::with_bar(
            name.into(),
            ProgressBar::new(length),
            "{spinner} {prefix} {elapsed} [{bar:30}] {pos}/{len} {wide_msg:.dim}",
        )
    }

    fn with_bar(name: String, bar: ProgressBar, template: &str) -> Self {
        if !std::io::stderr().is_terminal() {
            bar.set_draw_target(indicatif::ProgressDrawTarget::hidden());
        }
        bar.set_style(ProgressStyle::with_template(template).expect("the templates above are valid"));
        bar.set_prefix(name.clone());
        bar.enable_steady_tick(Duration::from_millis(120));
        Self {
            name,
            bar,
            start: Instant::now(),
            over: false,
        }
    }

    /// Show what the step does at this moment.
    pub fn note(&self, message: impl Into<String>) {
        self.bar.set_message(message.into());
    }

    /// Show how far a counted step has come.
    pub fn set(&self, position: u64) {
        self.bar.set_position(position);
    }

    /// Print a line above the progress line.
    pub fn println(&self, line: impl AsRef<str>) {
        self.bar.suspend(|| eprintln!("{}", line.as_ref()));
    }

    /// End the step well. `result` says what came out of it; it may be empty.
    pub fn done(mut self, result: impl AsRef<str>) {
        self.end("ok", result.as_ref());
    }

    fn end(&mut self, verdict: &str, result: &str) {
        self.over = true;
        self.bar.finish_and_clear();
        let gap = if result.is_empty() { "" } else { ": " };
        eprintln!(
            "{verdict:>4}  {}{gap}{result} ({})",
            self.name,
            seconds(self.start.elapsed())
        );
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if !self.over {
            self.end("FAIL", "");
        }
    }
}

/// A duration as people read it.
pub fn seconds(time: Duration) -> String {
    match time.as_secs_f64() {
        s if s < 60.0 => format!("{s:.1} s"),
        s => format!("{} min {:02} s", s as u64 / 60, s as u64 % 60),
    }
}

//! Panics that are caught on purpose, and those that get out.
//!
//! libFuzzer's hook ends the process at any panic. Those of CEL's parser and evaluator are caught where they are called: only
//! one that nobody catches is a finding.

use std::panic::{AssertUnwindSafe, catch_unwind, set_hook};
use std::sync::Mutex;

/// The last panic, wherever it was.
static LAST: Mutex<String> = Mutex::new(String::new());

/// Lets panics be caught.
pub fn init() {
    set_hook(Box::new(|panic| {
        if let Ok(mut last) = LAST.lock() {
            *last = panic.to_string();
        }
    }));
}

/// Ends the process at a panic that gets out.
pub fn run(input: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(input)).is_err() {
        let last = LAST.lock().map(|last| last.clone()).unwrap_or_default();
        eprintln!("{last}");
        std::process::abort();
    }
}

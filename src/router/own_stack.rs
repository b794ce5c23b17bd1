//! A stack for work that may recurse deeper than the caller's stack allows.

/// Runs `work` on a thread of its own with a stack of so many bytes, and waits for it. `None` if it panicked or no thread
/// could be had.
pub(crate) fn on_own_stack<T: Send>(bytes: usize, work: impl FnOnce() -> T + Send) -> Option<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(bytes).spawn_scoped(scope, work);
        thread.ok()?.join().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_comes_back_and_a_panic_does_not() {
        assert_eq!(on_own_stack(1 << 20, || 7), Some(7));
        assert_eq!(on_own_stack(1 << 20, || -> u8 { panic!("on purpose") }), None);
    }
}

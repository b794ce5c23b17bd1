//! Which tests run at the same time: one alone, or all that may be beside others.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// What runs. Not a lock of readers and writers: where a writer that waits holds up readers, one of them runs for minutes
/// while the others wait for it.
struct Running {
    alone: bool,
    beside: usize,
}

static RUNNING: Mutex<Running> = Mutex::new(Running { alone: false, beside: 0 });
static ENDED: Condvar = Condvar::new();

/// A test's, until it is dropped.
pub struct Turn {
    alone: bool,
}

/// One at a time: a test that measures what the server takes, or that changes what all namespaces share.
pub fn alone() -> Turn {
    wait(|running| running.alone || running.beside > 0).alone = true;
    Turn { alone: true }
}

/// Beside others of this kind: a test that waits for most of its time, and looks at nothing but its own namespace.
pub fn beside_others() -> Turn {
    wait(|running| running.alone).beside += 1;
    Turn { alone: false }
}

fn wait(taken: impl Fn(&Running) -> bool) -> MutexGuard<'static, Running> {
    let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    ENDED.wait_while(running, |running| taken(running)).unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        if self.alone {
            running.alone = false;
        } else {
            running.beside -= 1;
        }
        drop(running);
        ENDED.notify_all();
    }
}

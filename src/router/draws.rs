//! Random draws that spread load: good enough for that, and no lock between the cores.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

/// How far a draw moves a thread's state (SplitMix64).
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;
/// How far from each other threads begin. With one beginning for all they would choose the same endpoints in turn.
const APART: u64 = 0xD134_2543_DE82_EF95;

static THREADS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static STATE: Cell<u64> = Cell::new(THREADS.fetch_add(1, Ordering::Relaxed).wrapping_mul(APART));
}

/// Draws below a bound, by a generator of this thread (SplitMix64).
#[expect(clippy::cast_possible_truncation, reason = "the remainder is below a usize")]
pub fn draw(seed: u64, bound: usize) -> usize {
    let state = STATE.get().wrapping_add(STEP);
    STATE.set(state);
    let mut z = state ^ seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) % (bound.max(1) as u64)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_do_not_draw_the_same() {
        let drawn = || std::thread::spawn(|| (0..64).map(|_| draw(1, 2)).collect::<Vec<_>>()).join().unwrap();
        let all: Vec<_> = (0..8).map(|_| drawn()).collect();
        for (n, draws) in all.iter().enumerate() {
            let ones = draws.iter().sum::<usize>();
            assert!((12..=52).contains(&ones), "{ones} of 64");
            for other in &all[..n] {
                let same = draws.iter().zip(other).filter(|(a, b)| a == b).count();
                assert!((12..=52).contains(&same), "{same} of 64 draws are the same");
            }
        }
    }
}

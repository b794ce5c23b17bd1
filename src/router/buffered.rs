//! How many bytes of request bodies a router holds at a time, bounded.
//!
//! A body is in memory from its first byte to the end of its answer, since another step may need it. Bytes count when
//! they come, not when they are announced: whoever announces much and sends nothing takes nothing from others.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes that are held, of so many.
#[derive(Debug)]
pub struct Buffered {
    held: AtomicUsize,
    most: usize,
}

/// The bytes of one request; given back when it is dropped. Without a bound it counts nothing.
#[derive(Debug, Default)]
pub struct Hold<'a> {
    of: Option<&'a Buffered>,
    bytes: usize,
}

impl Buffered {
    /// None are held.
    #[must_use]
    pub const fn new(most: usize) -> Self {
        Self { held: AtomicUsize::new(0), most }
    }
}

impl<'a> Hold<'a> {
    /// Nothing yet.
    #[must_use]
    pub const fn new(of: Option<&'a Buffered>) -> Self {
        Self { of, bytes: 0 }
    }

    /// Holds more bytes. `false`: there is no room, and nothing more is held.
    #[must_use]
    pub fn grow(&mut self, bytes: usize) -> bool {
        let Some(of) = self.of else { return true };
        let room = |held: usize| held.checked_add(bytes).filter(|held| *held <= of.most);
        let grown = of.held.try_update(Ordering::Relaxed, Ordering::Relaxed, room).is_ok();
        self.bytes += if grown { bytes } else { 0 };
        grown
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        if let Some(of) = self.of {
            of.held.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_room_takes_none_and_what_ends_gives_back() {
        let buffered = Buffered::new(10);
        let (mut a, mut b) = (Hold::new(Some(&buffered)), Hold::new(Some(&buffered)));
        assert!(a.grow(6) && b.grow(4) && !a.grow(1) && !b.grow(usize::MAX));
        drop(a);
        assert!(b.grow(6) && !b.grow(1));
        drop(b);
        assert_eq!(buffered.held.load(Ordering::Relaxed), 0);
        assert!(Hold::new(None).grow(usize::MAX));
    }
}

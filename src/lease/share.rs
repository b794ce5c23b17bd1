//! Fair shares: max-min, in whole units.

/// The most that each of these gets so that all get no more than there is and nobody with less than it gets less than it
/// asks: `u64::MAX` if there is enough for all. What is left over is less than the number of those that ask for more.
pub(super) fn level(there_is: u64, asks: impl Iterator<Item = u64> + Clone) -> u64 {
    let mut level = 0;
    loop {
        let (mut small, mut large) = (0_u64, 0_u64);
        for ask in asks.clone() {
            if ask <= level {
                small = small.saturating_add(ask);
            } else {
                large += 1;
            }
        }
        if large == 0 {
            return u64::MAX;
        }
        let next = there_is.saturating_sub(small) / large;
        if next <= level {
            return level;
        }
        level = next;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    #[test]
    fn who_asks_for_little_gets_it_and_the_others_share_the_rest() {
        let level = |there_is, asks: &[u64]| super::level(there_is, asks.iter().copied());
        assert_eq!(level(10, &[2, 20, 20]), 4);
        assert_eq!(level(10, &[2, 3, 20]), 5);
        assert_eq!(level(10, &[2, 3, 5]), u64::MAX);
        assert_eq!(level(2, &[1, 1, 1]), 0);
        assert_eq!(level(0, &[]), u64::MAX);
    }

    proptest! {
        #[test]
        fn all_that_there_is_is_shared(there_is in 0_u64..1_000, asks in prop::collection::vec(0_u64..200, 0..20)) {
            let level = super::level(there_is, asks.iter().copied());
            let given: u64 = asks.iter().map(|ask| *ask.min(&level)).sum();
            let more = asks.iter().filter(|ask| **ask > level).count();
            prop_assert!(given <= there_is);
            prop_assert!(more == 0 || there_is - given < u64::try_from(more).unwrap());
        }
    }
}

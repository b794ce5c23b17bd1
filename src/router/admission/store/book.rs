//! What a router has to tell its store: pure, the caller brings the time.
//!
//! What was taken while the store was away counts there as well when it is back, and all that was taken lately if it has
//! forgotten it. What may have been told already is told again, unless it gives something back.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::router::admission::room::Amounts;

/// Seconds that the store counts: see common.lua.
const KEPT: u64 = 62;
/// Most ends that are remembered while the store is away. Of others it thinks that they go on, until they must have ended.
const MOST: usize = 10_000;

/// What requests tell.
pub(super) enum Message {
    /// One was admitted, with so much reserved; `known` to the store already.
    Taken { id: u64, reserve: Option<usize>, amounts: Amounts, known: bool, at: Instant },
    /// It ended, and used so much more than was reserved (less: below 0).
    Ended {
        id: u64,
        reserve: Option<usize>,
        /// When it was taken.
        at: Instant,
        more: [i64; 4],
        now: Instant,
    },
    /// One may be counted there, and was not made.
    Doubtful { id: u64 },
}

/// What there is to tell of the account, or of a reserve.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct News {
    /// Tokens that were used, of three kinds.
    pub(super) tokens: [i64; 3],
    /// How many seconds ago so many requests were taken.
    pub(super) requests: Vec<(u64, i64)>,
    /// Requests that go on.
    pub(super) at_work: Vec<u64>,
    /// Requests that have ended.
    pub(super) gone: Vec<u64>,
}

#[derive(Clone, Copy, Default)]
struct Second {
    at: u64,
    told: [i64; 4],
    untold: [i64; 4],
}

#[derive(Default)]
struct Part {
    /// In which something was taken, or ended; the newest last.
    seconds: VecDeque<Second>,
    /// Requests that go on; whether the store knows of them.
    open: BTreeMap<u64, bool>,
    gone: Vec<u64>,
}

impl Part {
    fn second(&mut self, at: u64) -> &mut Second {
        let place = self.seconds.partition_point(|second| second.at < at);
        if self.seconds.get(place).is_none_or(|second| second.at != at) {
            self.seconds.insert(place, Second { at, ..Second::default() });
        }
        &mut self.seconds[place]
    }

    fn forget_before(&mut self, oldest: u64) {
        while self.seconds.pop_front_if(|second| second.at < oldest).is_some() {}
    }

    fn gone(&mut self, id: u64) {
        if self.gone.len() < MOST {
            self.gone.push(id);
        }
    }

    fn has_news(&self) -> bool {
        let untold = |second: &Second| second.untold != [0; 4];
        !self.gone.is_empty() || self.open.values().any(|known| !known) || self.seconds.iter().any(untold)
    }
}

/// What is to be told.
pub(super) struct Book {
    begin: Instant,
    /// The account, then its reserves.
    parts: Vec<Part>,
    /// The name of what the store remembered last.
    memory: Option<String>,
}

impl Book {
    pub(super) fn new(reserves: usize, now: Instant) -> Self {
        Self { begin: now, parts: (0..=reserves).map(|_| Part::default()).collect(), memory: None }
    }

    fn time(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.begin)
    }

    fn both(&mut self, reserve: Option<usize>) -> impl Iterator<Item = &mut Part> {
        let own = reserve.map(|reserve| reserve + 1);
        self.parts.iter_mut().enumerate().filter(move |(at, _)| *at == 0 || Some(*at) == own).map(|(_, part)| part)
    }

    /// Notes what a request tells.
    pub(super) fn note(&mut self, message: &Message) {
        match *message {
            Message::Taken { id, reserve, amounts, known, at } => {
                let second = self.time(at).as_secs();
                for part in self.both(reserve) {
                    part.forget_before(second.saturating_sub(KEPT));
                    let at = part.second(second);
                    let counts = if known { &mut at.told } else { &mut at.untold };
                    for (count, amount) in counts.iter_mut().zip(amounts) {
                        *count = count.saturating_add(i64::try_from(amount).unwrap_or(i64::MAX));
                    }
                    part.open.insert(id, known);
                }
            }
            Message::Ended { id, reserve, at, more, now } => {
                let (taken, ended) = (self.time(at).as_secs(), self.time(now).as_secs());
                for part in self.both(reserve) {
                    let [requests, tokens @ ..] = more;
                    if requests != 0 {
                        part.second(taken).untold[0] += requests;
                    }
                    for (count, more) in part.second(ended).untold[1..].iter_mut().zip(tokens) {
                        *count = count.saturating_add(more);
                    }
                    if part.open.remove(&id) == Some(true) {
                        part.gone(id);
                    }
                }
            }
            Message::Doubtful { id } => self.parts.iter_mut().for_each(|part| part.gone(id)),
        }
    }

    /// Whether there is anything to tell.
    pub(super) fn has_news(&self) -> bool {
        self.parts.iter().any(Part::has_news)
    }

    /// Whether what the store remembers is what it was told before.
    pub(super) fn is_remembered(&self, memory: &str) -> bool {
        self.memory.as_deref() == Some(memory)
    }

    /// What there is to tell, with all requests that go on if `all_at_work`, and all of the last minute if it is `forgotten`.
    pub(super) fn news(&mut self, all_at_work: bool, forgotten: bool, now: Instant) -> Vec<News> {
        let time = self.time(now);
        let oldest = time.as_secs().saturating_sub(KEPT);
        let news = self.parts.iter_mut().map(|part| {
            part.forget_before(oldest);
            let mut news = News::default();
            for second in &part.seconds {
                let mut counts = second.untold;
                if forgotten {
                    counts.iter_mut().zip(second.told).for_each(|(count, told)| *count = count.saturating_add(told));
                }
                let [requests, tokens @ ..] = counts;
                for (sum, count) in news.tokens.iter_mut().zip(tokens) {
                    *sum = sum.saturating_add(count);
                }
                // Rounded so that what was taken counts for longer than it must, and what is given back for less.
                let ago = match requests {
                    0 => continue,
                    1.. => time.saturating_sub(Duration::from_secs(second.at + 1)).as_secs(),
                    _ => time.as_secs() - second.at.min(time.as_secs()) + 1,
                };
                news.requests.push((ago, requests));
            }
            news.at_work = part.open.iter().filter(|(_, known)| all_at_work || !**known).map(|(id, _)| *id).collect();
            news.gone.clone_from(&part.gone);
            news
        });
        news.collect()
    }

    /// All of the last [`news`](Self::news) was told.
    pub(super) fn told(&mut self, memory: String) {
        self.memory = Some(memory);
        for part in &mut self.parts {
            for Second { told, untold, .. } in &mut part.seconds {
                for (told, untold) in told.iter_mut().zip(untold) {
                    *told = told.saturating_add(std::mem::take(untold));
                }
            }
            part.open.values_mut().for_each(|known| *known = true);
            part.gone.clear();
        }
    }

    /// The last [`news`](Self::news) may have been told or not. Nothing is given back twice.
    pub(super) fn unsure(&mut self) {
        for Second { told, untold, .. } in self.parts.iter_mut().flat_map(|part| &mut part.seconds) {
            for (told, untold) in told.iter_mut().zip(untold).filter(|(_, untold)| **untold < 0) {
                *told = told.saturating_add(std::mem::take(untold));
            }
        }
        // It may know of them now, so it has to be told of their end.
        self.parts.iter_mut().flat_map(|part| part.open.values_mut()).for_each(|known| *known = true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn taken(id: u64, known: bool, at: Instant) -> Message {
        Message::Taken { id, reserve: None, amounts: [1, 100, 60, 40], known, at }
    }

    #[test]
    fn what_the_store_does_not_know_is_told_once_and_all_of_it_when_it_forgot() {
        let t0 = Instant::now();
        let mut book = Book::new(0, t0);
        book.note(&taken(1, true, t0 + ms(500)));
        assert!(!book.has_news());
        book.note(&taken(2, false, t0 + ms(3_200)));
        assert!(book.has_news());
        let only = [News { tokens: [100, 60, 40], requests: vec![(1, 1)], at_work: vec![2], gone: vec![] }];
        assert_eq!(book.news(false, false, t0 + ms(5_100)), only);
        // Once more if nobody knows whether it came through.
        book.unsure();
        assert_eq!(book.news(false, false, t0 + ms(5_100))[0].requests, [(1, 1)]);
        book.told("a".into());
        assert!(!book.has_news() && book.is_remembered("a") && !book.is_remembered("b"));
        let all = book.news(true, true, t0 + ms(5_100));
        assert_eq!(
            (all[0].tokens[0], &all[0].requests[..], &all[0].at_work[..]),
            (200, &[(4, 1), (1, 1)][..], &[1, 2][..])
        );
        assert_eq!(book.news(true, true, t0 + ms(66_000))[0].requests, [], "that is long ago");
    }

    #[test]
    fn what_is_given_back_is_never_given_back_twice() {
        let t0 = Instant::now();
        let mut book = Book::new(1, t0);
        let amounts = [1, 100, 60, 40];
        book.note(&Message::Taken { id: 7, reserve: Some(0), amounts, known: true, at: t0 + ms(900) });
        // Nobody was asked.
        let ended = Message::Ended {
            id: 7,
            reserve: Some(0),
            at: t0 + ms(900),
            more: [-1, -100, -60, -40],
            now: t0 + ms(1_100),
        };
        book.note(&ended);
        let news = News { tokens: [-100, -60, -40], requests: vec![(2, -1)], at_work: vec![], gone: vec![7] };
        let told = book.news(false, false, t0 + ms(1_200));
        assert_eq!((&told[0], told.len()), (&news, 2));
        assert_eq!(told[0], told[1], "its reserve has it back as well");
        book.unsure();
        let again = book.news(false, false, t0 + ms(1_200));
        assert_eq!((again[0].tokens, &again[0].requests[..], &again[0].gone[..]), ([0; 3], &[][..], &[7][..]));
    }
}

//! What a provider really grants, whoever asks: its own buckets and its own count of requests at a time.
//!
//! A router that knows the account's quota never sees a 429 from it. Others do: that is what they are compared by.

use std::time::{Duration, Instant};

use crate::lease::bucket::Bucket;
use crate::routing::table::Quota;

/// What a client is told that has to wait for somebody else's request.
const BUSY: Duration = Duration::from_secs(1);

/// An account as its provider counts it.
#[derive(Debug)]
pub struct Provider {
    /// Requests, tokens, tokens of input, tokens of output.
    buckets: [Option<Bucket>; 4],
    places: Option<u32>,
    in_flight: u32,
}

impl Provider {
    /// A full quota.
    #[must_use]
    pub fn new(quota: &Quota, now: Instant) -> Self {
        let limits = [
            quota.requests_per_minute,
            quota.tokens_per_minute,
            quota.input_tokens_per_minute,
            quota.output_tokens_per_minute,
        ];
        let buckets = limits.map(|limit| limit.map(|limit| Bucket::new(limit, now)));
        Self { buckets, places: quota.max_concurrent, in_flight: 0 }
    }

    /// Takes a request, by the tokens that it turns out to use.
    ///
    /// # Errors
    /// 429, with its Retry-After.
    pub fn ask(&mut self, input: u32, output: u32, now: Instant) -> Result<(), Duration> {
        let (input, output) = (u64::from(input), u64::from(output));
        let amounts = [1, input + output, input, output];
        if self.places.is_some_and(|places| self.in_flight >= places) {
            return Err(BUSY);
        }
        let mut wait = Duration::ZERO;
        for (bucket, amount) in self.buckets.iter_mut().zip(amounts) {
            let Some(bucket) = bucket else { continue };
            bucket.fill(now);
            // What is larger than the bucket waits until it is full.
            wait = wait.max(bucket.wait(amount).unwrap_or_else(|| bucket.until_full().max(BUSY)));
        }
        if !wait.is_zero() {
            return Err(wait);
        }
        for (bucket, amount) in self.buckets.iter_mut().zip(amounts) {
            bucket.iter_mut().for_each(|bucket| bucket.take(amount));
        }
        self.in_flight += 1;
        Ok(())
    }

    /// A request that was taken has ended.
    pub fn ended(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_no_when_a_bucket_or_the_places_run_out_and_takes_nothing_then() {
        let t0 = Instant::now();
        let quota = Quota {
            requests_per_minute: Some(2),
            output_tokens_per_minute: Some(60),
            max_concurrent: Some(1),
            ..Quota::default()
        };
        let mut provider = Provider::new(&quota, t0);
        assert_eq!(provider.ask(500, 59, t0), Ok(()));
        assert_eq!(provider.ask(1, 1, t0), Err(BUSY));
        provider.ended();
        assert_eq!(provider.ask(1, 2, t0), Err(Duration::from_secs(1)));
        assert_eq!(provider.ask(1, 1, t0), Ok(()));
        provider.ended();
        assert_eq!(provider.ask(1, 1, t0), Err(Duration::from_secs(30)));
    }
}

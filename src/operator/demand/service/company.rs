//! Requests that have company for a part of their time only.
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "small numbers above 0"
)]

use std::collections::VecDeque;

use super::tests::{Draws, report, time};
use super::*;
use crate::routing::counts::{BANDS, band_of};

/// A request at a server: tokens of output, when it came, and the integrals of company and of its square until then.
#[derive(Clone, Copy)]
struct Request {
    tokens: f64,
    came: f64,
    sum: f64,
    squares: f64,
}

/// A server with so many slots that serves what comes by chance, `rate` a second: each call with its seconds, and the mean and the
/// variance of the requests that were there meanwhile.
fn served([alpha, beta]: [f64; 2], slots: usize, rate: f64, count: usize) -> Vec<(f64, f64, f64, f64)> {
    let (mut draws, mut done) = (Draws(11), Vec::new());
    let (mut now, mut next, mut sum, mut squares) = (0.0, 0.0, 0.0, 0.0);
    let (mut waiting, mut working) = (VecDeque::new(), Vec::<(f64, Request)>::new());
    while done.len() < count {
        let pace = alpha + beta * float(working.len() as u64);
        let ends = working.iter().map(|(left, _)| left * pace).fold(f64::INFINITY, f64::min);
        let passed = f64::min(next - now, ends);
        let there = float((working.len() + waiting.len()) as u64);
        (now, sum, squares) = (now + passed, there.mul_add(passed, sum), (there * there).mul_add(passed, squares));
        working.iter_mut().for_each(|(left, _)| *left -= passed / pace);
        working.retain(|(left, request)| {
            let seconds = now - request.came;
            let mean = (sum - request.sum) / seconds;
            if *left < 1e-9 {
                let variance = (squares - request.squares) / seconds - mean * mean;
                done.push((request.tokens, seconds, mean, variance.max(0.0)));
            }
            *left >= 1e-9
        });
        if now >= next {
            let tokens = (1.0 - 20.0 * (1.0 - draws.next()).ln()).round();
            waiting.push_back(Request { tokens, came: now, sum, squares });
            next = now - (1.0 - draws.next()).ln() / rate;
        }
        while working.len() < slots
            && let Some(request) = waiting.pop_front()
        {
            working.push((request.tokens, request));
        }
    }
    done
}

#[test]
fn company_counts_by_how_much_it_slows_and_not_by_how_long_it_stays() {
    for (slots, server) in [(2, [0.004, 0.008]), (4, [0.002, 0.009]), (4, [0.02, 0.002])] {
        let declared = u32::try_from(slots).ok();
        let most = float(slots as u64) / (21.0 * (server[0] + server[1] * float(slots as u64)));
        let mut counts = TierCounts { endpoints: 1, bands: vec![Band::default(); BANDS], ..TierCounts::default() };
        let mut calls = Calls::default();
        report(&mut calls, "a", 1, &counts, 1);
        for (number, (tokens, seconds, mean, variance)) in
            served(server, slots, 0.7 * most, 4000).into_iter().enumerate()
        {
            let band = &mut counts.bands[band_of(mean)];
            band.calls += 1;
            band.micros += (seconds * 1e6) as u64;
            band.output += tokens as u64;
            band.load += (1000.0 * tokens * mean) as u64;
            band.spread += (1000.0 * tokens * variance) as u64;
            if number % 10 == 0 {
                report(&mut calls, "a", 1, &counts, 2 + number as i64 / 10);
            }
        }
        let service = calls.service(declared).expect("a service time");
        for b in 1..=slots {
            let b = float(b as u64);
            let ratio = time(service, 0.0, 20.0, b) / (20.0 * (server[0] + server[1] * b));
            assert!((0.96..1.04).contains(&ratio), "{ratio} at {b} of {slots}, {server:?}: {service:?}");
        }
    }
}

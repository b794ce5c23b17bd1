//! Periods of a budget: calendar hours, days and months of a time zone.

use jiff::civil::Time;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{Span, Timestamp, Zoned};

use crate::api::routing_policy::Per;

/// A period, from its begin up to its end, in seconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Period {
    /// Its first second.
    pub begin: i64,
    /// The first second after it.
    pub end: i64,
}

/// A time zone by its IANA name, of the database that is compiled in. `None`: there is none of this name.
#[must_use]
pub fn zone(name: &str) -> Option<TimeZone> {
    TimeZoneDatabase::bundled().get(name).ok()
}

impl Period {
    /// The period that a time is in. Days of 23 and 25 hours are days.
    #[must_use]
    pub fn of(per: Per, zone: &TimeZone, now: Timestamp) -> Self {
        let now = now.to_zoned(zone.clone());
        let begin = match per {
            // By the clock's hand: an hour that comes twice is two.
            Per::Hour => {
                let into = i64::from(now.minute()) * 60 + i64::from(now.second());
                let begin = now.timestamp().as_second() - into;
                return Self { begin, end: begin + 3_600 };
            }
            Per::Day => now.start_of_day().ok(),
            Per::Month => now.first_of_month().ok().and_then(|first| first.start_of_day().ok()),
        };
        let step = if per == Per::Day { Span::new().days(1) } else { Span::new().months(1) };
        let next = |begin: &Zoned| {
            let date = begin.date().checked_add(step).ok()?;
            date.to_datetime(Time::midnight()).to_zoned(zone.clone()).ok()
        };
        let seconds = |time: &Zoned| time.timestamp().as_second();
        let begin = begin.unwrap_or(now);
        // The end of time is the end of the period.
        let end = next(&begin).map_or(i64::MAX, |end| seconds(&end));
        Self { begin: seconds(&begin), end }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn period(per: Per, zone: &str, now: &str) -> (String, i64) {
        let Period { begin, end } = Period::of(per, &super::zone(zone).expect("a zone"), now.parse().expect("a time"));
        (Timestamp::from_second(begin).expect("a time").to_string(), end - begin)
    }

    #[test]
    fn periods_are_those_of_the_calendar_and_the_zone() {
        for (per, zone, now, begin, seconds) in [
            (Per::Hour, "UTC", "2026-11-24T10:59:59.9Z", "2026-11-24T10:00:00Z", 3_600),
            (Per::Hour, "Asia/Kolkata", "2026-11-24T10:20:00Z", "2026-11-24T09:30:00Z", 3_600),
            (Per::Day, "UTC", "2026-11-24T00:00:00Z", "2026-11-24T00:00:00Z", 86_400),
            (Per::Day, "America/New_York", "2026-11-01T12:00:00Z", "2026-11-01T04:00:00Z", 90_000),
            (Per::Day, "Europe/Berlin", "2026-03-29T12:00:00Z", "2026-03-28T23:00:00Z", 82_800),
            (Per::Month, "UTC", "2028-02-29T23:59:59Z", "2028-02-01T00:00:00Z", 29 * 86_400),
            (Per::Month, "Europe/Berlin", "2026-12-31T23:30:00Z", "2026-12-31T23:00:00Z", 31 * 86_400),
        ] {
            assert_eq!(period(per, zone, now), (begin.to_owned(), seconds), "{per:?} {zone} {now}");
        }
    }
}

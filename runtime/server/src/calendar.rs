//! Dates and times in UTC, as APIs write them.

use std::time::{SystemTime, UNIX_EPOCH};

const DAY: u64 = 86_400;

/// The Gregorian date so many days after 1970-01-01: `2026-01-31`.
#[must_use]
pub fn date_of_day(days: u64) -> String {
    // Years that start in March put the leap day last; 400 of them have 146,097 days.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    format!("{:04}-{month:02}-{day:02}", era * 400 + year + next)
}

/// Today's date in UTC.
pub(crate) fn today() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    date_of_day(since.map_or(0, |since| since.as_secs()) / DAY)
}

/// A time so many seconds after 1970 began, as in RFC 3339: `2026-01-31T12:00:00Z`.
pub(crate) fn rfc3339(seconds: u64) -> String {
    let (date, second) = (date_of_day(seconds / DAY), seconds % DAY);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    format!("{date}T{hour:02}:{minute:02}:{:02}Z", second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_of_seconds_has_its_time() {
        for (seconds, time) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_826_554, "2000-02-29T12:15:54Z"),
            (1_798_761_599, "2026-12-31T23:59:59Z"),
        ] {
            assert_eq!(rfc3339(seconds), time);
        }
    }
}

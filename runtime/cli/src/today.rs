//! Dates for the system message: today's, and those of `--date`.

use std::time::{SystemTime, UNIX_EPOCH};

use ossmith_server::date_of_day;

/// `YYYY-MM-DD` in UTC.
pub(crate) fn date() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    date_of_day(seconds / 86_400)
}

/// A flag's `YYYY-MM-DD`, as it was given.
///
/// # Errors
/// A sentence, if the text is not a date.
pub(crate) fn parse(text: &str) -> Result<String, String> {
    let number = |digits: &str| {
        let all_digits = digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse::<u32>().ok().filter(|_| all_digits)
    };
    let parts: Vec<&str> = text.split('-').collect();
    let [year, month, day] = parts[..] else { return Err(WANTED.to_owned()) };
    let sized = (year.len(), month.len(), day.len()) == (4, 2, 2);
    let (Some(year), Some(month), Some(day), true) =
        (number(year), number(month), number(day), sized)
    else {
        return Err(WANTED.to_owned());
    };
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 => 28 + u32::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => 0,
    };
    if (1..=days).contains(&day) { Ok(text.to_owned()) } else { Err("no such day".to_owned()) }
}

const WANTED: &str = "write year, month and day: 2026-01-31";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_not_a_date_is_refused() {
        for date in ["2026-01-31", "2024-02-29", "2000-02-29", "1999-12-01"] {
            assert_eq!(parse(date).as_deref(), Ok(date));
        }
        for text in ["", "today", "2026-1-31", "2026-01", "+026-01-01", "2026-01-01-01"] {
            assert_eq!(parse(text), Err(WANTED.to_owned()), "{text}");
        }
        for text in
            ["2026-02-29", "2100-02-29", "2026-04-31", "2026-13-01", "2026-00-10", "2026-01-00"]
        {
            assert_eq!(parse(text), Err("no such day".to_owned()), "{text}");
        }
    }

    #[test]
    fn days_have_their_dates() {
        for (days, date) in [
            (0, "1970-01-01"),
            (58, "1970-02-28"),
            (59, "1970-03-01"),
            (11_016, "2000-02-29"),
            (11_017, "2000-03-01"),
            (20_778, "2026-11-21"),
            (47_540, "2100-02-28"),
            (47_541, "2100-03-01"),
        ] {
            assert_eq!(date_of_day(days), date, "day {days}");
        }
    }
}

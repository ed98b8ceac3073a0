//! How ranks exchange sums: words that carry a value and say which exchange it belongs to, so that a receiver needs no flag
//! beside them, and where each word stands in a mailbox.
//!
//! A rank writes its part of a sum into the mailbox of every other one and reads its own mailbox until each word has the
//! epoch of the exchange. Epochs grow by one, and odd and even ones have places of their own: a rank can be one exchange
//! ahead of another, and not two, because the second needs the other's part of the first. So nothing is ever reset.

use ossmith_device_fn::device_fn;

/// A value and its epoch as one word, which is written and read at once.
#[device_fn]
#[must_use]
pub fn exchange_word(value: f32, epoch: u32) -> u64 {
    ((epoch as u64) << 32) | (value.to_bits() as u64)
}

/// The epoch of a word.
#[device_fn]
#[must_use]
pub fn exchange_epoch(word: u64) -> u32 {
    (word >> 32) as u32
}

/// The value of a word.
#[device_fn]
#[must_use]
pub fn exchange_value(word: u64) -> f32 {
    f32::from_bits(word as u32)
}

/// The epoch after another. A mailbox begins with words of epoch 0, which none has: after the last comes 2, so that odd and
/// even ones alternate.
#[device_fn]
#[must_use]
pub fn next_epoch(epoch: u32) -> u32 {
    let last = epoch == 0xffff_ffff;
    if last { 2 } else { epoch + 1 }
}

/// Where the word of rank `source` for an element of a token's row stands in a mailbox of `ranks` ranks with room for
/// `tokens` rows of `width` elements.
#[device_fn]
#[must_use]
pub fn exchange_place(
    epoch: u32,
    source: u32,
    token: u32,
    element: u32,
    ranks: u32,
    tokens: u32,
    width: u32,
) -> u32 {
    (((epoch & 1) * ranks + source) * tokens + token) * width + element
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn words_hold_value_and_epoch() {
        for value in [0.0, -0.0, 1.5, f32::MIN_POSITIVE, -3.0e38, f32::INFINITY] {
            for epoch in [1, 2, 0x8000_0000, u32::MAX] {
                let word = exchange_word(value, epoch);
                assert_eq!(exchange_epoch(word), epoch);
                assert_eq!(exchange_value(word).to_bits(), value.to_bits());
            }
        }
    }

    #[test]
    fn epochs_alternate_and_are_never_zero() {
        let mut epoch = u32::MAX - 3;
        for _ in 0..8 {
            let next = next_epoch(epoch);
            assert!(next != 0 && (next ^ epoch) & 1 == 1, "{next} after {epoch}");
            epoch = next;
        }
    }

    #[test]
    fn every_word_has_a_place_of_its_own() {
        let (ranks, tokens, width) = (3, 4, 5);
        let mut seen = vec![false; (2 * ranks * tokens * width) as usize];
        for epoch in 6..8 {
            for source in 0..ranks {
                for token in 0..tokens {
                    for element in 0..width {
                        let place =
                            exchange_place(epoch, source, token, element, ranks, tokens, width);
                        let seen = &mut seen[place as usize];
                        assert!(!std::mem::replace(seen, true), "{place} twice");
                    }
                }
            }
        }
        assert!(seen.iter().all(|&seen| seen));
    }

    /// The protocol of `epilogue/exchange.cuh` on threads: relaxed writes and reads of single words, no reset, steps of
    /// different numbers of tokens, epochs that pass the last one. Where a thread waits is left to the scheduler.
    #[test]
    fn ranks_that_run_apart_get_the_same_sums() {
        const WIDTH: u32 = 24;
        const TOKENS: u32 = 3;
        const EXCHANGES: u32 = 400;
        for ranks in [2_u32, 4] {
            let words = || (0..2 * ranks * TOKENS * WIDTH).map(|_| AtomicU64::new(0)).collect();
            let mailboxes: Vec<Vec<AtomicU64>> = (0..ranks).map(|_| words()).collect();
            let part = |rank: u32, exchange: u32, token: u32, element: u32| {
                let bits = crate::random_word(rank + 1, exchange, token * WIDTH + element);
                (bits >> 8) as f32 * 10f32.powi(rank as i32 - 6)
            };
            let run = |rank: u32| -> Vec<u32> {
                let (mut sums, mut epoch) = (Vec::new(), u32::MAX - EXCHANGES / 2);
                for exchange in 0..EXCHANGES {
                    epoch = next_epoch(epoch);
                    let tokens = 1 + exchange % TOKENS;
                    let place = |source, token, element| {
                        exchange_place(epoch, source, token, element, ranks, TOKENS, WIDTH) as usize
                    };
                    for (token, element) in (0..tokens * WIDTH).map(|i| (i / WIDTH, i % WIDTH)) {
                        let own = part(rank, exchange, token, element);
                        for peer in (0..ranks).filter(|&peer| peer != rank) {
                            let word = &mailboxes[peer as usize][place(rank, token, element)];
                            word.store(exchange_word(own, epoch), Ordering::Relaxed);
                        }
                        let mut sum = 0.0;
                        for source in 0..ranks {
                            let word = &mailboxes[rank as usize][place(source, token, element)];
                            sum += if source == rank {
                                own
                            } else {
                                loop {
                                    let word = word.load(Ordering::Relaxed);
                                    if exchange_epoch(word) == epoch {
                                        break exchange_value(word);
                                    }
                                    std::thread::yield_now();
                                }
                            };
                        }
                        sums.push(sum.to_bits());
                    }
                }
                sums
            };
            let results: Vec<Vec<u32>> = std::thread::scope(|scope| {
                let threads: Vec<_> =
                    (0..ranks).map(|rank| scope.spawn(move || run(rank))).collect();
                threads.into_iter().map(|thread| thread.join().expect("a rank")).collect()
            });
            let mut expected = Vec::new();
            for exchange in 0..EXCHANGES {
                for i in 0..(1 + exchange % TOKENS) * WIDTH {
                    let (token, element) = (i / WIDTH, i % WIDTH);
                    let sum =
                        (0..ranks).fold(0.0, |sum, r| sum + part(r, exchange, token, element));
                    expected.push(f32::to_bits(sum));
                }
            }
            assert!(results.iter().all(|result| *result == expected), "{ranks} ranks");
        }
    }
}

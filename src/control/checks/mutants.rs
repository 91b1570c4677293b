//! Hostile answers for unit tests: what a server says, with some bytes changed, left out or doubled. For tests only.

use crate::decide::balance::next_random;

/// Answers for one test.
const COUNT: usize = 20_000;

/// Calls `check` with changed and cut forms of `answer`, the same for the same seed.
pub fn each(answer: &[u8], mut check: impl FnMut(&[u8])) {
    let seed = std::env::var("SLUICE_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0x5eed_c4ec);
    eprintln!("SLUICE_TEST_SEED={seed}");
    let mut dice = seed;
    let mut roll = |below: usize| {
        dice = next_random(dice);
        (dice >> 16) as usize % below.max(1)
    };
    for _ in 0..COUNT {
        let mut mutant = answer.to_vec();
        for _ in 0..=roll(3) {
            let at = roll(mutant.len());
            match roll(4) {
                _ if mutant.is_empty() => {}
                0 => _ = mutant.remove(at),
                1 => mutant.insert(at, mutant[at]),
                2 => mutant[at] ^= 1 << roll(8),
                _ => mutant[at] = roll(256) as u8,
            }
        }
        let cut = roll(mutant.len() + 1);
        check(&mutant);
        check(&mutant[..cut]);
    }
}

//! Adding up many words with the widest registers that this processor has: what checksums of super-frames are made of.

/// The sum of both halves of all words, each in this machine's byte order; 64 bits hold the carries of 16 GiB.
#[inline]
pub fn total(words: &[[u8; 8]]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if words.len() >= WORTH_IT && std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: this processor has AVX2, as was just found.
        return unsafe { by_avx2(words) };
    }
    added(words)
}

/// Words from which on the call is paid back.
#[cfg(target_arch = "x86_64")]
const WORTH_IT: usize = 16;

/// The same code, compiled for registers of 32 bytes.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn by_avx2(words: &[[u8; 8]]) -> u64 {
    added(words)
}

#[inline(always)]
fn added(words: &[[u8; 8]]) -> u64 {
    let halves = |word: u64| (word & 0xffff_ffff).wrapping_add(word >> 32);
    words.iter().fold(0, |total: u64, word| total.wrapping_add(halves(u64::from_ne_bytes(*word))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_come_to_the_same() {
        let words: Vec<[u8; 8]> =
            (0..300_u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_ne_bytes()).collect();
        for len in 0..words.len() {
            let one_by_one: u64 = words[..len]
                .iter()
                .flat_map(|word| word.as_chunks::<4>().0)
                .map(|half| u64::from(u32::from_ne_bytes(*half)))
                .sum();
            assert_eq!(total(&words[..len]), one_by_one);
            assert_eq!(added(&words[..len]), one_by_one);
        }
    }
}

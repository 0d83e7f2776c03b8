//! The half-MD4 hash by which directory indexes order names.

const INITIAL: [u32; 4] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];

/// The hash of a name: the part that the index stores, and the part that breaks ties.
pub(crate) fn half_md4(name: &[u8], seed: &[u32; 4]) -> (u32, u32) {
    let mut state = if *seed == [0; 4] { INITIAL } else { *seed };
    let mut rest = name;
    while !rest.is_empty() {
        transform(&mut state, &words(rest));
        rest = &rest[rest.len().min(32)..];
    }
    let hash = state[1] & !1;
    // The all-ones hash marks the end of a directory.
    let hash = if hash == 0xffff_fffe { 0xffff_fffc } else { hash };
    (hash, state[2])
}

/// The next 32 bytes as eight big-endian words, padded with the number of bytes that are left.
fn words(rest: &[u8]) -> [u32; 8] {
    // At most 255, the longest name.
    let length = u8::try_from(rest.len()).unwrap_or(u8::MAX);
    let pad = u32::from_le_bytes([length; 4]);
    let mut words = [pad; 8];
    for (word, bytes) in words.iter_mut().zip(rest.chunks(4)) {
        *word = bytes.iter().fold(pad, |word, byte| (word << 8).wrapping_add(u32::from(*byte)));
    }
    words
}

fn transform(state: &mut [u32; 4], input: &[u32; 8]) {
    type Mix = fn(u32, u32, u32) -> u32;
    let rounds: [(Mix, u32, [usize; 8], [u32; 4]); 3] = [
        (|x, y, z| z ^ (x & (y ^ z)), 0, [0, 1, 2, 3, 4, 5, 6, 7], [3, 7, 11, 19]),
        (
            |x, y, z| (x & y).wrapping_add((x ^ y) & z),
            0x5a82_7999,
            [1, 3, 5, 7, 0, 2, 4, 6],
            [3, 5, 9, 13],
        ),
        (|x, y, z| x ^ y ^ z, 0x6ed9_eba1, [3, 7, 2, 6, 1, 5, 0, 4], [3, 9, 11, 15]),
    ];
    let [mut a, mut b, mut c, mut d] = *state;
    for (mix, constant, order, shifts) in rounds {
        for (step, index) in order.into_iter().enumerate() {
            let sum = a
                .wrapping_add(mix(b, c, d))
                .wrapping_add(input[index])
                .wrapping_add(constant)
                .rotate_left(shifts[step % 4]);
            (a, b, c, d) = (d, sum, b, c);
        }
    }
    for (word, value) in state.iter_mut().zip([a, b, c, d]) {
        *word = word.wrapping_add(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values are debugfs's: `dx_hash -h half_md4 NAME`.
    #[test]
    fn agrees_with_debugfs() {
        for (name, hash) in [
            ("a", (0xd5fa_7d7a, 0xacb4_8187)),
            ("hello.txt", (0xa26e_1d86, 0x133b_3f98)),
            ("a_name_that_is_longer_than_thirty-two_bytes_by_far", (0xec8e_8186, 0x9c0d_b667)),
        ] {
            assert_eq!(half_md4(name.as_bytes(), &[0; 4]), hash, "{name}");
        }
    }
}

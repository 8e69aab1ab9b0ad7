//! What a NIC does that was given the workers' key and redirection table.

use dataplane::packet::Protocol;
use dataplane::shard::Shard;

/// The worker that gets a frame, and the hash that comes with it.
pub(crate) fn receiver(shard: &Shard, frame: &[u8]) -> (usize, u32) {
    let hash = toeplitz(&shard.rss_key(), &hashed_fields(frame));
    let reta = shard.reta();
    (usize::from(reta[hash as usize % reta.len()]), hash)
}

/// What a NIC hashes: addresses, and ports where the packet has them and is no
/// fragment.
fn hashed_fields(frame: &[u8]) -> Vec<u8> {
    let (addresses, protocol, l4) = match frame[12] {
        0x08 => (
            &frame[26..34],
            if frame[20] & 0x3f == 0 && frame[21] == 0 { frame[23] } else { 0 },
            34,
        ),
        _ => (&frame[22..54], frame[20], 54),
    };
    let mut input = addresses.to_vec();
    if Protocol::from_number(protocol).is_some() {
        input.extend(&frame[l4..l4 + 4]);
    }
    input
}

/// Toeplitz by its definition: for each set bit of the input, the 32 bits of
/// the key that begin there.
fn toeplitz(key: &[u8], input: &[u8]) -> u32 {
    let mut hash = 0;
    for (i, byte) in input.iter().enumerate() {
        for bit in (0..8).filter(|bit| byte & (0x80 >> bit) != 0) {
            let window = (0..5).fold(0_u64, |w, n| (w << 8) | u64::from(key[i + n]));
            hash ^= (window >> (8 - bit)) as u32;
        }
    }
    hash
}

//! PostgreSQL's extended hash functions, bit for bit.
//!
//! The source is `src/common/hashfn.c` of PostgreSQL (Bob Jenkins' lookup3) and the support functions of the types
//! in `src/backend/access/hash/hashfunc.c`. PostgreSQL stores partitioned tables by these functions, so it never
//! changes them; neither may we, because a root key's partition follows from them. Words are read little-endian on
//! every machine, which is what PostgreSQL does on the little-endian machines that it is run on today.

/// `hash_bytes_extended`: the 64-bit hash of `bytes`.
pub(crate) fn hash_bytes_extended(bytes: &[u8], seed: u64) -> u64 {
    let mut state = State::new(bytes.len() as u32, seed);
    let mut blocks = bytes.chunks_exact(12);
    for block in &mut blocks {
        state.add(word(&block[..4]), word(&block[4..8]), word(&block[8..]));
        state.mix();
    }
    let mut tail = [0; 12];
    let rest = blocks.remainder();
    // The lowest byte of the third word is left out: lookup3 keeps it for the length.
    for (at, byte) in rest.iter().enumerate() {
        tail[if at < 8 { at } else { at + 1 }] = *byte;
    }
    state.add(word(&tail[..4]), word(&tail[4..8]), word(&tail[8..]));
    state.finish()
}

/// `hash_bytes_uint32_extended`: the 64-bit hash of one word.
pub(crate) fn hash_uint32_extended(value: u32, seed: u64) -> u64 {
    let mut state = State::new(4, seed);
    state.add(value, 0, 0);
    state.finish()
}

/// `hashint8extended`. `hashint4extended` and `hashint2extended` give the same for equal values.
pub(crate) fn hash_int8_extended(value: i64, seed: u64) -> u64 {
    let low = value as u32;
    let high = (value >> 32) as u32;
    hash_uint32_extended(low ^ if value >= 0 { high } else { !high }, seed)
}

/// The three words of lookup3.
struct State {
    a: u32,
    b: u32,
    c: u32,
}

impl State {
    fn new(length: u32, seed: u64) -> State {
        let start = 0x9e37_79b9_u32.wrapping_add(length).wrapping_add(3_923_095);
        let mut state = State { a: start, b: start, c: start };
        if seed != 0 {
            state.add((seed >> 32) as u32, seed as u32, 0);
            state.mix();
        }
        state
    }

    fn add(&mut self, a: u32, b: u32, c: u32) {
        self.a = self.a.wrapping_add(a);
        self.b = self.b.wrapping_add(b);
        self.c = self.c.wrapping_add(c);
    }

    fn mix(&mut self) {
        let State { mut a, mut b, mut c } = *self;
        a = a.wrapping_sub(c) ^ c.rotate_left(4);
        c = c.wrapping_add(b);
        b = b.wrapping_sub(a) ^ a.rotate_left(6);
        a = a.wrapping_add(c);
        c = c.wrapping_sub(b) ^ b.rotate_left(8);
        b = b.wrapping_add(a);
        a = a.wrapping_sub(c) ^ c.rotate_left(16);
        c = c.wrapping_add(b);
        b = b.wrapping_sub(a) ^ a.rotate_left(19);
        a = a.wrapping_add(c);
        c = c.wrapping_sub(b) ^ b.rotate_left(4);
        b = b.wrapping_add(a);
        *self = State { a, b, c };
    }

    fn finish(self) -> u64 {
        let State { mut a, mut b, mut c } = self;
        c = (c ^ b).wrapping_sub(b.rotate_left(14));
        a = (a ^ c).wrapping_sub(c.rotate_left(11));
        b = (b ^ a).wrapping_sub(a.rotate_left(25));
        c = (c ^ b).wrapping_sub(b.rotate_left(16));
        a = (a ^ c).wrapping_sub(c.rotate_left(4));
        b = (b ^ a).wrapping_sub(a.rotate_left(14));
        c = (c ^ b).wrapping_sub(b.rotate_left(24));
        (u64::from(b) << 32) | u64::from(c)
    }
}

/// Four bytes as a little-endian word.
fn word(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |word, byte| (word << 8) | u32::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    // What PostgreSQL 15.18 answers to `select hashint8extended(1007, 0)` and so on. These never change.
    const INTEGERS: &[(i64, i64)] = &[
        (0, 4154612158245552303),
        (1, -3670598878359251130),
        (-1, -1888257769727981238),
        (2, 3647684041653542134),
        (-2, 495194309054116481),
        (7, -3288951424994980865),
        (42, 8010225493015854792),
        (1007, -7690314776253928062),
        (2044, -7092747225357905563),
        (7777, 9167832657430074000),
        (-1007, -8199843844811621817),
        (32767, 1790040721271588170),
        (-32768, 8455483389771436374),
        (2147483647, -9109110466470504941),
        (-2147483648, 1977219185673256887),
        (2147483648, 1977219185673256887),
        (-2147483649, -9109110466470504941),
        (4294967295, -1888257769727981238),
        (4294967296, -3670598878359251130),
        (-4294967296, 4154612158245552303),
        (1234567890123456789, -1348933112428498873),
        (9223372036854775807, 1977219185673256887),
        (-9223372036854775808, -9109110466470504941),
    ];

    const TEXTS: &[(&str, i64)] = &[
        ("", -6939563903564495251),
        ("a", 3591986179850072241),
        ("ab", 2833316173711343549),
        ("abc", -6747756470228489321),
        ("abcd", -1038429303365892052),
        ("1007", 1271076695880238296),
        ("abcdefg", -6158032784613548338),
        ("abcdefgh", -8882191227074733005),
        ("abcdefghi", -3278210106038014113),
        ("abcdefghij", -3183301415634409076),
        ("abcdefghijk", 3112909444737856467),
        ("abcdefghijkl", -7556637188122330412),
        ("abcdefghijklm", 8871624171452417744),
        ("abcdefghijklmnopqrstuvwx", -1933194731779935345),
        ("abcdefghijklmnopqrstuvwxyz", -6612928417832572997),
        ("Zürich", 6325084439750968862),
        ("東京都", 2166097642991333332),
        ("🌳 tree", -8397489497855890903),
        ("alice@example.com", -4418616537726101056),
        (" lead and trail ", -5977698646839448232),
    ];

    #[test]
    fn integers_hash_as_in_postgresql() {
        for (value, hash) in INTEGERS {
            assert_eq!(hash_int8_extended(*value, 0) as i64, *hash, "{value}");
        }
    }

    #[test]
    fn texts_hash_as_in_postgresql() {
        for (text, hash) in TEXTS {
            assert_eq!(hash_bytes_extended(text.as_bytes(), 0) as i64, *hash, "{text:?}");
        }
        assert_eq!(hash_bytes_extended("x".repeat(100).as_bytes(), 0) as i64, -6927006773748011226);
    }

    #[test]
    fn seeds_count_as_in_postgresql() {
        assert_eq!(hash_int8_extended(1007, 5) as i64, -7854806585459191503);
        assert_eq!(hash_int8_extended(1007, 1234567890123456789) as i64, 2903557330216644677);
        assert_eq!(hash_bytes_extended(b"abcdefghijklm", -3_i64 as u64) as i64, 4492016121564755283);
    }
}

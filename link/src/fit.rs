//! How much goes out in one message.

use prost::Message;

/// How many requests or answers go out in one message.
pub const MAX_COALESCED: usize = 512;

/// How many of these make the next message: as many as fit into `max_bytes`, but one at least.
pub fn fitting<'a, M: Message + 'a>(waiting: impl IntoIterator<Item = &'a M>, max_bytes: usize) -> usize {
    let mut bytes = 0;
    let fits = |message: &&M| {
        bytes += message.encoded_len();
        bytes <= max_bytes
    };
    waiting.into_iter().take(MAX_COALESCED).take_while(fits).count().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_bounded_by_count_and_by_bytes_and_never_empty() {
        let texts = vec!["0123456789".to_owned(); 1000];
        let one = texts[0].encoded_len();
        assert_eq!(fitting(&texts, usize::MAX), MAX_COALESCED);
        assert_eq!(fitting(&texts, 3 * one), 3);
        assert_eq!(fitting(&texts, 1), 1, "one that is too large alone goes alone");
    }
}

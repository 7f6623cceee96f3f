//! Generated names.

use rand::RngExt as _;

/// No vowels, no look-alikes: what generated names are made of.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// A generated name is a prefix of at most so many bytes…
const MAX_PREFIX: usize = 58;
/// …and so many random characters.
const SUFFIX: usize = 5;

/// `prefix` and five random characters.
pub(super) fn generate(prefix: &str) -> String {
    let mut end = prefix.len().min(MAX_PREFIX);
    while !prefix.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{}", &prefix[..end], random(SUFFIX))
}

/// Random characters that are safe in names.
fn random(length: usize) -> String {
    let mut rng = rand::rng();
    (0..length).map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())])).collect()
}

/// Characters of the same alphabet for a number: a name for a hash.
pub(crate) fn safe_encode(mut number: u64, length: usize) -> String {
    (0..length)
        .map(|_| {
            let digit = (number % ALPHABET.len() as u64) as usize;
            number /= ALPHABET.len() as u64;
            char::from(ALPHABET[digit])
        })
        .collect()
}

/// `prefix` and five random characters: a name inside an object.
pub(crate) fn with_random_suffix(prefix: &str) -> String {
    generate(prefix)
}

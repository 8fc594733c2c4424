//! Meeting codes: `abc-defg-hij`, ten letters of 23, so 45 bits: with the limits on guessing, years per hit.

use rand::Rng;
use std::fmt;

/// Without i, l and o, which people read as 1 and 0 when a code is dictated.
const LETTERS: &[u8; 23] = b"abcdefghjkmnpqrstuvwxyz";
const LENGTH: usize = 10;

/// A code in its written form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MeetingCode(String);

impl MeetingCode {
    /// A new code from a cryptographic generator.
    pub(crate) fn generate(rng: &mut (impl Rng + rand::CryptoRng)) -> Self {
        let letters: Vec<u8> = (0..LENGTH)
            .map(|_| LETTERS[rng.random_range(0..LETTERS.len())])
            .collect();
        MeetingCode(written(&letters))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MeetingCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn written(letters: &[u8]) -> String {
    let mut out = String::with_capacity(LENGTH + 2);
    for (index, letter) in letters.iter().enumerate() {
        if index == 3 || index == 7 {
            out.push('-');
        }
        out.push(char::from(*letter));
    }
    out
}

/// What a person typed, as a code: any case, with or without hyphens and spaces. `None` if it cannot be one.
pub(crate) fn normalise(typed: &str) -> Option<MeetingCode> {
    if typed.len() > 64 {
        return None;
    }
    let letters: Vec<u8> = typed
        .bytes()
        .filter(|byte| !matches!(byte, b'-' | b' ' | b'_'))
        .map(|byte| byte.to_ascii_lowercase())
        .collect();
    let fits = letters.len() == LENGTH && letters.iter().all(|letter| letter.is_ascii_lowercase());
    fits.then(|| MeetingCode(written(&letters)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_look_as_promised_and_do_not_repeat() {
        let mut rng = rand::rng();
        let codes: std::collections::BTreeSet<String> = (0..1000).map(|_| MeetingCode::generate(&mut rng).0).collect();
        assert_eq!(codes.len(), 1000);
        for code in &codes {
            let parts: Vec<usize> = code.split('-').map(str::len).collect();
            assert_eq!(parts, [3, 4, 3]);
            assert_eq!(normalise(code).unwrap().as_str(), code);
        }
    }

    #[test]
    fn people_type_codes_in_many_ways() {
        for typed in ["abcdefghjk", "ABC-DEFG-HJK", " abc defg hjk ", "abc_defghjk"] {
            assert_eq!(normalise(typed).unwrap().as_str(), "abc-defg-hjk");
        }
        for wrong in [
            "",
            "abc",
            "abc-defg-hj1",
            "abc-defg-hjkl",
            "äbc-defg-hjk",
            &"a".repeat(100),
        ] {
            assert!(normalise(wrong).is_none(), "{wrong}");
        }
    }
}

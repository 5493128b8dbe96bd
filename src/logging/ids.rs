//! Replaces the ids of files in log lines with fingerprints, for servers on which an id alone opens a file.
//!
//! This works on the finished line, because ids occur in paths, in errors and in lines of the store, and because future
//! log lines must be safe, too.

use std::borrow::Cow;

use crate::secret::fingerprint;

/// Hexadecimal digits between the dashes of a UUID.
const GROUPS: [usize; 5] = [8, 4, 4, 4, 12];
/// The group that begins with the version, and the version of the ids.
const VERSION: (usize, u8) = (2, b'7');

/// Replaces each UUID of version 7 with `sha256:` and its fingerprint. Accepts upper and lower case, and dashes that are
/// percent-encoded.
pub(super) fn masked(line: &[u8]) -> Cow<'_, [u8]> {
    let mut masked = Vec::new();
    let (mut copied, mut at) = (0, 0);
    while at + GROUPS[0] < line.len() {
        // Almost no position begins an id.
        match id_at(&line[at..]) {
            None => at += 1,
            Some((id, length)) => {
                masked.extend_from_slice(&line[copied..at]);
                masked.extend_from_slice(b"sha256:");
                masked.extend_from_slice(fingerprint(&id).as_bytes());
                at += length;
                copied = at;
            }
        }
    }
    if copied == 0 {
        return Cow::Borrowed(line);
    }
    masked.extend_from_slice(&line[copied..]);
    Cow::Owned(masked)
}

/// The id at the start of the text, in its canonical form, and its length in the text.
fn id_at(text: &[u8]) -> Option<(String, usize)> {
    let mut id = String::new();
    let mut at = 0;
    for (index, digits) in GROUPS.into_iter().enumerate() {
        if index > 0 {
            at += dash(text.get(at..)?)?;
            id.push('-');
        }
        let group = text.get(at..at + digits)?;
        let is_version = index != VERSION.0 || group[0] == VERSION.1;
        if !is_version || !group.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        id.extend(
            group
                .iter()
                .map(|digit| char::from(digit.to_ascii_lowercase())),
        );
        at += digits;
    }
    Some((id, at))
}

/// The length of the dash at the start of the text.
fn dash(text: &[u8]) -> Option<usize> {
    match text {
        [b'-', ..] => Some(1),
        [b'%', b'2', b'd' | b'D', ..] => Some(3),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "01a22a77-f25c-793f-9e3e-aaf850cbdcf2";

    fn text(line: &str) -> String {
        String::from_utf8(masked(line.as_bytes()).into_owned()).unwrap()
    }

    #[test]
    fn ids_become_fingerprints() {
        let shown = format!("sha256:{}", fingerprint(ID));
        for (line, expected) in [
            (format!("id={ID}"), format!("id={shown}")),
            (ID.to_owned(), shown.clone()),
            (format!("{ID}{ID}"), format!("{shown}{shown}")),
            (ID.to_uppercase(), shown.clone()),
            (ID.replace('-', "%2D"), shown.clone()),
            (ID.replacen('-', "%2d", 2), shown.clone()),
            (format!("/x{ID}/"), format!("/x{shown}/")),
            // Digits before and after the id.
            (format!("ff{ID}00"), format!("ff{shown}00")),
            (format!("{ID}-170x170 é"), format!("{shown}-170x170 é")),
        ] {
            assert_eq!(text(&line), expected);
        }
    }

    #[test]
    fn leaves_other_texts_unchanged() {
        for line in [
            "",
            "INFO stored request=2cae1b945e3c65bd bytes=137476",
            // Another version; truncated; other separators.
            "01a22a77-f25c-493f-9e3e-aaf850cbdcf2",
            &ID[..35],
            &ID.replace('-', "_"),
            "2026-11-30T03:20:33.671031Z  INFO a-b-c-d-e",
        ] {
            assert!(
                matches!(masked(line.as_bytes()), Cow::Borrowed(_)),
                "{line}"
            );
        }
    }
}

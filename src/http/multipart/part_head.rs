//! Finds the headers of each part in a form and unfolds them, so that multer sees every header on one line.
//!
//! In MIME, a long header may continue on a line that begins with a space or a tab (RFC 5322 §2.2.3). Mail libraries write
//! long file names that way and most servers accept it, but multer's header parser does not. This file does not interpret
//! the headers.

use bytes::{Buf, Bytes};
use memchr::memmem::{self, Finder};

/// Bytes of the headers of one part, including the line of the boundary.
pub(super) const PART_HEAD_BYTES_MAX: usize = 16 * 1024;

/// Splits a form into pieces. The unfolded headers of a part are a piece of their own.
///
/// Memory: the headers of one part, up to [`PART_HEAD_BYTES_MAX`] and one piece of input.
pub(super) struct PartHeads {
    /// `\r\n--boundary`: the end of the content of a part.
    delimiter: Finder<'static>,
    place: Place,
    /// The end of the previous pieces, shorter than a delimiter: a delimiter may begin in it.
    tail: Vec<u8>,
    is_first: bool,
}

/// The position in the form.
enum Place {
    /// Before the first boundary, or in the content of a part.
    Content,
    /// After a boundary: the rest of its line and the headers of the part, as far as received.
    Head(Vec<u8>),
    /// After the last boundary.
    End,
}

/// The headers of one part are longer than [`PART_HEAD_BYTES_MAX`].
#[derive(Debug)]
pub(super) struct TooLong;

impl PartHeads {
    pub(super) fn new(boundary: &str) -> Self {
        Self {
            delimiter: Finder::new(&format!("\r\n--{boundary}")).into_owned(),
            place: Place::Content,
            tail: Vec::new(),
            is_first: true,
        }
    }

    pub(super) fn delimiter(&self) -> &Finder<'static> {
        &self.delimiter
    }

    /// Whether the next bytes are content of a part.
    pub(super) fn is_content(&self) -> bool {
        matches!(self.place, Place::Content) && !self.is_first
    }

    /// Content bypassed this parser. No delimiter begins in its last bytes.
    pub(super) fn passed_by(&mut self) {
        self.tail.clear();
    }

    /// Takes the next piece from the front of `rest`: at most `bytes_max` bytes of content, or all headers of a part.
    /// `None` if more bytes are needed; `rest` is empty then.
    pub(super) fn next(
        &mut self,
        rest: &mut Bytes,
        bytes_max: usize,
    ) -> Result<Option<Bytes>, TooLong> {
        while !rest.is_empty() {
            match &mut self.place {
                Place::Content => return Ok(Some(self.content(rest, bytes_max))),
                Place::End => return Ok(Some(rest.split_to(rest.len().min(bytes_max)))),
                Place::Head(head) => {
                    if let Some(is_last) = take_head(head, rest) {
                        let head = unfold(std::mem::take(head));
                        self.place = if is_last { Place::End } else { Place::Content };
                        return Ok(Some(head));
                    }
                    if head.len() > PART_HEAD_BYTES_MAX {
                        return Err(TooLong);
                    }
                }
            }
        }
        Ok(None)
    }

    /// The incomplete headers of a form that broke off.
    pub(super) fn finish(&mut self) -> Option<Bytes> {
        match std::mem::replace(&mut self.place, Place::End) {
            Place::Head(head) if !head.is_empty() => Some(head.into()),
            _ => None,
        }
    }

    /// Content up to the end of the next delimiter, or all of it.
    fn content(&mut self, rest: &mut Bytes, bytes_max: usize) -> Bytes {
        let piece = &rest[..rest.len().min(bytes_max)];
        let end = self.delimiter_end(piece);
        let piece = rest.split_to(end.unwrap_or(piece.len()));
        if end.is_some() {
            self.is_first = false;
            self.tail.clear();
            self.place = Place::Head(Vec::new());
        } else {
            let kept_max = self.delimiter.needle().len() - 1;
            self.tail
                .extend_from_slice(&piece[piece.len().saturating_sub(kept_max)..]);
            self.tail.drain(..self.tail.len().saturating_sub(kept_max));
        }
        piece
    }

    /// Where the first delimiter ends in `piece`. It may begin in the previous pieces.
    fn delimiter_end(&self, piece: &[u8]) -> Option<usize> {
        let first;
        let (needle, finder) = if self.is_first {
            // The first boundary needs no line end before it.
            let needle = &self.delimiter.needle()[2..];
            first = Finder::new(needle);
            (needle, &first)
        } else {
            (self.delimiter.needle(), &self.delimiter)
        };
        if !self.tail.is_empty() {
            let mut seam = self.tail.clone();
            seam.extend_from_slice(&piece[..piece.len().min(needle.len() - 1)]);
            if let Some(at) = finder.find(&seam) {
                return Some(at + needle.len() - self.tail.len());
            }
        }
        finder.find(piece).map(|at| at + needle.len())
    }
}

/// Moves bytes of `rest` to the headers of a part, up to their end. Once they are complete, returns whether this is the end
/// of the form.
fn take_head(head: &mut Vec<u8>, rest: &mut Bytes) -> Option<bool> {
    let before = head.len();
    // In steps, so that content behind short headers is not copied.
    head.extend_from_slice(&rest[..rest.len().min(1024)]);
    let Some((end, is_last)) = head_end(head, before) else {
        rest.advance(head.len() - before);
        return None;
    };
    // The end may precede the new bytes: `--` alone is enough.
    let end = end.max(before);
    rest.advance(end - before);
    head.truncate(end);
    Some(is_last)
}

/// The end of the headers, and whether it is the end of the form. It is not in the first `seen` bytes.
fn head_end(head: &[u8], seen: usize) -> Option<(usize, bool)> {
    if head.starts_with(b"--") {
        return Some((2, true));
    }
    let line_end = memmem::find(head, b"\r\n")? + 2;
    let from = line_end.max(seen.saturating_sub(3));
    let at = memmem::find(head.get(from..)?, b"\r\n\r\n")?;
    Some((from + at + 4, false))
}

/// Removes line ends before a space or a tab (RFC 5322 §2.2.3), except in the first line, which is the boundary's.
fn unfold(head: Vec<u8>) -> Bytes {
    let is_fold = |at: usize, head: &[u8]| matches!(head[at..], [b'\r', b'\n', b' ' | b'\t', ..]);
    let Some(line) = memmem::find(&head, b"\r\n").map(|at| at + 2) else {
        return head.into();
    };
    if !(line..head.len()).any(|at| is_fold(at, &head)) {
        return head.into();
    }
    let mut unfolded = head[..line].to_vec();
    let mut at = line;
    while at < head.len() {
        if is_fold(at, &head) {
            at += 2;
        } else {
            unfolded.push(head[at]);
            at += 1;
        }
    }
    unfolded.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The output for a form that arrives in pieces of these lengths, repeated.
    fn parsed(form: &[u8], cuts: &[usize], bytes_max: usize) -> Result<Vec<u8>, TooLong> {
        let mut heads = PartHeads::new("b");
        let (mut out, mut at) = (Vec::new(), 0);
        for cut in cuts.iter().cycle() {
            if at == form.len() {
                break;
            }
            let end = (at + cut).min(form.len());
            let mut rest = Bytes::copy_from_slice(&form[at..end]);
            at = end;
            while let Some(piece) = heads.next(&mut rest, bytes_max)? {
                assert!(!piece.is_empty());
                out.extend_from_slice(&piece);
            }
            assert!(rest.is_empty());
        }
        out.extend(heads.finish().into_iter().flatten());
        Ok(out)
    }

    fn check(form: &str, expected: &str) {
        for cut in 1..=form.len() {
            for bytes_max in [1, 3, 1024] {
                let found = parsed(form.as_bytes(), &[cut], bytes_max).unwrap();
                assert_eq!(String::from_utf8_lossy(&found), expected, "pieces of {cut}");
            }
        }
    }

    #[test]
    fn unfolds_part_headers_alone() {
        check(
            "pre\r\n fold\r\n--b\r\nA: 1\r\n 2\r\n\t3\r\nB: 4\r\n\r\nx\r\n y\r\n--b \t\r\nC: 5\r\n\r\n\r\n z\r\n--b--\r\n end",
            "pre\r\n fold\r\n--b\r\nA: 1 2\t3\r\nB: 4\r\n\r\nx\r\n y\r\n--b \t\r\nC: 5\r\n\r\n\r\n z\r\n--b--\r\n end",
        );
        // A fold of white space alone, and one before the end.
        check(
            "--b\r\nA: 1\r\n \r\n 2\r\n\r\nx\r\n--b--",
            "--b\r\nA: 1  2\r\n\r\nx\r\n--b--",
        );
    }

    #[test]
    fn keeps_lines_without_folds() {
        for form in [
            // The first line of the headers continues nothing.
            "--b\r\n A: 1\r\n\r\nx\r\n--b--",
            // No headers: multer takes the part's first lines for them.
            "--b\r\n\r\nx\r\n--b--",
            "--b\r\nA: 1\n 2\r\n\r\nx\r\n--b--",
            "--bb\r\n--b\r\r\n",
            "--b",
            "--b-",
            "--b\r\nA: 1\r\n 2",
            "no boundary\r\n at all",
            "",
        ] {
            check(form, form);
        }
    }

    #[test]
    fn rejects_endless_headers() {
        let form = format!("--b\r\nA: {}", "x".repeat(2 * PART_HEAD_BYTES_MAX));
        for cut in [1, 1000, form.len()] {
            assert!(parsed(form.as_bytes(), &[cut], 1024).is_err(), "{cut}");
        }
        let form = format!(
            "--b\r\nA: {}\r\n\r\n",
            "x".repeat(PART_HEAD_BYTES_MAX - 100)
        );
        check_whole(&form);
    }

    fn check_whole(form: &str) {
        let found = parsed(form.as_bytes(), &[700, 3], 1024).unwrap();
        assert!(found == form.as_bytes());
    }

    proptest! {
        #[test]
        fn cuts_change_nothing(
            form in "(--b|\r\n--b|\r\n|\r|\n| |\t|-|A: 1|x){0,40}",
            cuts in proptest::collection::vec(1_usize..9, 1..6),
            bytes_max in 1_usize..50,
        ) {
            let whole = parsed(form.as_bytes(), &[form.len().max(1)], usize::MAX);
            let cut = parsed(form.as_bytes(), &cuts, bytes_max);
            prop_assert_eq!(whole.unwrap(), cut.unwrap());
        }
    }
}

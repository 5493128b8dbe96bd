//! Parses `multipart/form-data` with multer, and bounds multer's memory.
//!
//! multer 3.1 reads until its source is pending, and limits part headers only by the size of the whole stream. So the
//! source here supplies one piece at a time, and [`Form`] counts the bytes that multer reads between two parts. multer
//! also copies every byte. So in the middle of a part, when multer buffers nothing, large slices of the body without a
//! delimiter bypass it (`Source::poll_bulk`). multer parses delimiters, part headers and small pieces.
//!
//! Which fields a form may have is decided by each API.

mod part_head;

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::Stream;
use hyper::{HeaderMap, header};
use multer::{Field, Multipart};
use parking_lot::Mutex;

use self::part_head::{PART_HEAD_BYTES_MAX, PartHeads, TooLong};
use super::{body::RequestBody, disposition::parse_filename};
use crate::error::{Error, Kind, Result};

/// Bytes that multer gets at once.
const PIECE_BYTES: usize = 64 * 1024;
/// Bytes that multer gets at once while it looks for the next part.
const HEAD_PIECE_BYTES: usize = 1024;
/// Smaller slices of the body go through multer, which copies them: a slice of a few bytes may keep a whole read buffer
/// of 64 KiB alive.
const BULK_BYTES_MIN: usize = 32 * 1024;
/// Bytes of ignored fields in one form.
const IGNORED_BYTES_MAX: usize = 64 * 1024;
/// The most parts of one form.
const PARTS_MAX: u32 = 64;
/// Bytes after the last boundary.
const EPILOGUE_BYTES_MAX: u64 = 64 * 1024;
/// The longest boundary (RFC 2046 §5.1.1).
const BOUNDARY_BYTES_MAX: usize = 70;

/// Bytes that a form may have in addition to the file: other fields, boundaries, part headers.
pub const FORM_OVERHEAD_BYTES: u64 = 64 * 1024;

/// A form, read part by part.
pub struct Form<'r> {
    multipart: Multipart<'r>,
    field: Option<Field<'r>>,
    source: Shared<'r>,
    /// The next bytes of the current part may bypass multer, which buffers none of them.
    is_bulk: bool,
    parts: u32,
    ignored_bytes: usize,
}

/// The head of a part.
#[derive(Debug)]
pub struct Part {
    /// The name of the form field; empty without a name.
    pub name: String,
    /// The file name: its last path component, without control characters.
    pub file_name: Option<String>,
    /// The declared media type, unchecked.
    pub content_type: Option<String>,
}

/// The bytes of the form, for multer and for [`Form`] itself.
struct Source<'r> {
    body: &'r mut RequestBody,
    rest: Bytes,
    /// Finds the beginning and end of part headers.
    heads: PartHeads,
    /// Size of the one piece that multer may read; 0 if it may read none.
    granted: usize,
    /// multer asked for more than was granted. Nothing will wake it, so it must be polled again.
    exhausted: bool,
    /// Bytes that multer got since the end of the last part.
    given: usize,
    /// The last piece does not end in the beginning of a delimiter, so multer yields all of its content.
    is_closed: bool,
}

/// The source, shared with multer, which owns its stream and requires `Send`. One task polls both, so the lock is never
/// waited for.
struct Shared<'r>(Arc<Mutex<Source<'r>>>);

/// Supplies multer with one piece for each grant.
impl Stream for Shared<'_> {
    type Item = Result<Bytes>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let source = &mut *self.0.lock();
        if source.granted == 0 {
            source.exhausted = true;
            return Poll::Pending;
        }
        let is_head = !source.heads.is_content();
        let piece = match ready!(source.poll_piece(cx)) {
            Some(Ok(piece)) => piece,
            end => return Poll::Ready(end),
        };
        source.granted = 0;
        source.given += piece.len();
        let delimiter = source.heads.delimiter().needle();
        // After part headers, multer buffers nothing of the part. After content, it may hold back the last bytes.
        source.is_closed = source.heads.is_content()
            && (is_head || piece.len() >= delimiter.len() && open_bytes(&piece, delimiter) == 0);
        Poll::Ready(Some(Ok(piece)))
    }
}

impl Source<'_> {
    /// The next piece for multer: all headers of a part, or at most `granted` bytes of content.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        loop {
            if self.rest.is_empty() {
                match ready!(self.body.poll_data(cx)) {
                    Some(Ok(data)) => self.rest = data,
                    Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                    None => return Poll::Ready(self.heads.finish().map(Ok)),
                }
            }
            match self.heads.next(&mut self.rest, self.granted) {
                Ok(Some(piece)) => return Poll::Ready(Some(Ok(piece))),
                Ok(None) => {}
                Err(TooLong) => return Poll::Ready(Some(Err(head_too_long()))),
            }
        }
    }

    /// Sets the size of the next piece. To be called before multer is polled.
    fn grant(&mut self, granted: usize) {
        (self.granted, self.exhausted) = (granted, false);
    }

    /// Content of the current part that bypasses multer, without a copy; `None` if multer must continue.
    fn poll_bulk(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>>> {
        if self.rest.is_empty() {
            match ready!(self.body.poll_data(cx)) {
                Some(data) => self.rest = data?,
                None => return Poll::Ready(Ok(None)),
            }
        }
        if self.rest.len() < BULK_BYTES_MIN {
            return Poll::Ready(Ok(None));
        }
        let delimiter = self.heads.delimiter();
        let bytes = match delimiter.find(&self.rest) {
            Some(at) => at,
            None => self.rest.len() - open_bytes(&self.rest, delimiter.needle()),
        };
        if bytes == 0 {
            return Poll::Ready(Ok(None));
        }
        self.heads.passed_by();
        Poll::Ready(Ok(Some(self.rest.split_to(bytes))))
    }
}

/// How many of the last bytes may be the beginning of a delimiter. Its first byte is its only `\r`.
fn open_bytes(data: &[u8], delimiter: &[u8]) -> usize {
    let tail = &data[data.len().saturating_sub(delimiter.len() - 1)..];
    match memchr::memrchr(b'\r', tail) {
        Some(at) if delimiter.starts_with(&tail[at..]) => tail.len() - at,
        _ => 0,
    }
}

impl<'r> Form<'r> {
    /// Parses the body as a form. The boundary is in the `Content-Type` of `headers`.
    ///
    /// # Errors
    /// `UnsupportedMediaType` for another type; `InvalidArgument` for a boundary that is missing, repeated or longer
    /// than RFC 2046 allows.
    pub fn new(headers: &HeaderMap, body: &'r mut RequestBody) -> Result<Self> {
        let boundary = boundary(headers)?;
        let source = Arc::new(Mutex::new(Source {
            body,
            rest: Bytes::new(),
            heads: PartHeads::new(&boundary),
            granted: 0,
            exhausted: false,
            given: 0,
            is_closed: false,
        }));
        Ok(Self {
            multipart: Multipart::new(Shared(source.clone()), boundary),
            field: None,
            source: Shared(source),
            is_bulk: false,
            parts: 0,
            ignored_bytes: 0,
        })
    }

    /// The next part. Discards the rest of the current one.
    ///
    /// # Errors
    /// `InvalidArgument` for a malformed form and one that exceeds a limit; errors of the body.
    pub async fn next_part(&mut self) -> Result<Option<Part>> {
        while let Some(chunk) = self.chunk().await? {
            self.ignored_bytes += chunk.len();
            if self.ignored_bytes > IGNORED_BYTES_MAX {
                return Err(Error::invalid(format!(
                    "the part of the form with the file must be named `file`; all other parts may have at most \
                     {IGNORED_BYTES_MAX} bytes."
                )));
            }
        }
        self.field = None;
        self.source.0.lock().given = 0;
        let field = std::future::poll_fn(|cx| self.poll_field(cx)).await?;
        let Some(field) = field else { return Ok(None) };
        self.parts += 1;
        if self.parts > PARTS_MAX {
            return Err(Error::invalid(format!(
                "a form may have at most {PARTS_MAX} parts."
            )));
        }
        let headers = field.headers();
        let lines = headers.iter();
        let head_bytes: usize = lines
            .map(|(name, value)| name.as_str().len() + value.len() + 4)
            .sum();
        if head_bytes > PART_HEAD_BYTES_MAX {
            return Err(head_too_long());
        }
        let disposition = headers.get(header::CONTENT_DISPOSITION);
        let content_type = headers.get(header::CONTENT_TYPE);
        let part = Part {
            name: field.name().unwrap_or_default().to_owned(),
            file_name: disposition.and_then(|value| parse_filename(value.as_bytes())),
            content_type: content_type.and_then(|value| Some(value.to_str().ok()?.to_owned())),
        };
        self.field = Some(field);
        Ok(Some(part))
    }

    /// The next bytes of the current part; `None` at its end.
    ///
    /// # Errors
    /// As [`Form::next_part`].
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        std::future::poll_fn(|cx| self.poll_chunk(cx)).await
    }

    /// The next part, read in small pieces: multer would buffer everything that is there.
    fn poll_field(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Field<'r>>>> {
        loop {
            if self.source.0.lock().given > PART_HEAD_BYTES_MAX {
                return Poll::Ready(Err(head_too_long()));
            }
            self.source.0.lock().grant(HEAD_PIECE_BYTES);
            match self.multipart.poll_next_field(cx) {
                Poll::Ready(field) => return Poll::Ready(field.map_err(form_error)),
                Poll::Pending if self.source.0.lock().exhausted => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>>> {
        let Some(field) = &mut self.field else {
            return Poll::Ready(Ok(None));
        };
        // First, the bytes that multer has already buffered.
        let mut granted = 0;
        loop {
            if self.is_bulk {
                let bytes = ready!(self.source.0.lock().poll_bulk(cx))?;
                if bytes.is_some() {
                    return Poll::Ready(Ok(bytes));
                }
                (self.is_bulk, granted) = (false, PIECE_BYTES);
            }
            self.source.0.lock().grant(granted);
            match Pin::new(&mut *field).poll_next(cx) {
                // multer yields an empty chunk at the end of a part.
                Poll::Ready(Some(Ok(chunk))) if chunk.is_empty() => {}
                Poll::Ready(chunk) => {
                    return Poll::Ready(chunk.transpose().map_err(form_error));
                }
                Poll::Pending => {
                    let source = self.source.0.lock();
                    if !source.exhausted {
                        return Poll::Pending;
                    }
                    self.is_bulk = granted == 0 && source.is_closed;
                    granted = PIECE_BYTES;
                }
            }
        }
    }

    /// The current part as text of at most `bytes_max` bytes.
    ///
    /// # Errors
    /// `InvalidArgument` if it is longer or not UTF-8.
    pub async fn text(&mut self, bytes_max: usize) -> Result<String> {
        let mut text = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            if text.len() + chunk.len() > bytes_max {
                return Err(Error::invalid(format!(
                    "a form field may have at most {bytes_max} bytes."
                )));
            }
            text.extend_from_slice(&chunk);
        }
        String::from_utf8(text).map_err(|_| Error::invalid("a form field is not UTF-8."))
    }
}

/// Limits a form to a file of at most `bytes_max` bytes. Returns the announced length, and rejects one that is too
/// large before anything is read.
///
/// # Errors
/// `TooLarge`.
pub fn bound(body: &mut RequestBody, bytes_max: u64) -> Result<Option<u64>> {
    let whole_max = bytes_max.saturating_add(FORM_OVERHEAD_BYTES);
    body.limit(whole_max);
    match body.announced() {
        Some(length) if length > whole_max => Err(Kind::TooLarge.into()),
        length => Ok(length),
    }
}

/// Reads what follows the last boundary: nothing, with real clients.
///
/// # Errors
/// `InvalidArgument` if it does not end; errors of the body.
pub async fn finish(body: &mut RequestBody) -> Result<()> {
    let mut epilogue = 0;
    while let Some(data) = body.data().await {
        epilogue += data?.len() as u64;
        if epilogue > EPILOGUE_BYTES_MAX {
            return Err(Error::invalid(
                "the form continues after its last boundary.",
            ));
        }
    }
    Ok(())
}

fn head_too_long() -> Error {
    Error::invalid(format!(
        "the headers of a part, or the bytes before the first boundary, may have at most {PART_HEAD_BYTES_MAX} bytes."
    ))
}

/// Unwraps our own errors from those of multer. All others mean that the form is malformed.
fn form_error(error: multer::Error) -> Error {
    match error {
        multer::Error::StreamReadFailed(source) => match source.downcast::<Error>() {
            Ok(error) => *error,
            Err(source) => Error::internal(source),
        },
        error => Error::invalid(format!("the form is malformed: {error}.")),
    }
}

/// The `boundary` parameter of the `Content-Type` (RFC 2046 §5.1.1).
fn boundary(headers: &HeaderMap) -> Result<String> {
    let unsupported = || Error::from(Kind::UnsupportedMediaType);
    let value = headers.get(header::CONTENT_TYPE).ok_or_else(unsupported)?;
    let value = value.to_str().map_err(|_| unsupported())?;
    let (media_type, parameters) = value.split_once(';').unwrap_or((value, ""));
    if !media_type
        .trim()
        .eq_ignore_ascii_case("multipart/form-data")
    {
        return Err(unsupported());
    }
    let mut found = None;
    for (name, value) in Parameters(parameters) {
        if name.eq_ignore_ascii_case("boundary") && found.replace(value).is_some() {
            return Err(Error::invalid("the boundary is given twice."));
        }
    }
    let found = found.ok_or_else(|| Error::invalid("the form's Content-Type has no boundary."))?;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(&byte);
    if found.is_empty()
        || found.len() > BOUNDARY_BYTES_MAX
        || !found.bytes().all(allowed)
        || found.ends_with(' ')
    {
        return Err(Error::invalid(
            "the boundary must have 1 to 70 characters that RFC 2046 allows.",
        ));
    }
    Ok(found.to_owned())
}

/// Iterates over `; name=value; name="value"`. No escapes: a boundary has no character that needs one.
struct Parameters<'a>(&'a str);

impl<'a> Iterator for Parameters<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.0.trim_start_matches([';', ' ', '\t']);
        let (name, rest) = rest.split_once('=')?;
        let (value, rest) = match rest.trim_start().strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => rest.split_once(';').unwrap_or((rest, "")),
        };
        self.0 = rest;
        Some((name.trim(), value.trim_matches([' ', '\t'])))
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn of(content_type: &str) -> Result<String, Kind> {
        let mut headers = HeaderMap::new();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_str(content_type).unwrap(),
        );
        boundary(&headers).map_err(|error| error.kind())
    }

    #[test]
    fn parses_boundary_as_clients_send_it() {
        for (content_type, expected) in [
            ("multipart/form-data; boundary=abc", "abc"),
            ("Multipart/Form-Data;boundary=\"a b'c\"", "a b'c"),
            (
                "multipart/form-data; charset=utf-8; BOUNDARY=----WebKitFormBoundary7MA4",
                "----WebKitFormBoundary7MA4",
            ),
            ("multipart/form-data; boundary=abc; charset=utf-8", "abc"),
        ] {
            assert_eq!(of(content_type).as_deref(), Ok(expected), "{content_type}");
        }
    }

    #[test]
    fn rejects_missing_repeated_or_long_boundary() {
        let (b70, b71) = ("b".repeat(70), "b".repeat(71));
        assert_eq!(of(&format!("multipart/form-data; boundary={b70}")), Ok(b70));
        for content_type in [
            "multipart/form-data",
            "multipart/form-data; boundary=",
            "multipart/form-data; boundary=a; boundary=a",
            "multipart/form-data; boundary=a; Boundary=b",
            "multipart/form-data; boundary=a\"b",
            &format!("multipart/form-data; boundary={b71}"),
        ] {
            assert_eq!(
                of(content_type),
                Err(Kind::InvalidArgument),
                "{content_type}"
            );
        }
    }

    #[test]
    fn other_types_are_unsupported() {
        for content_type in [
            "application/json",
            "multipart/mixed; boundary=a",
            "text/plain; boundary=a",
            "",
        ] {
            assert_eq!(
                of(content_type),
                Err(Kind::UnsupportedMediaType),
                "{content_type}"
            );
        }
    }
}

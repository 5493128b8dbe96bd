//! Processes the body of a response: discards, keeps or compares it.

use std::sync::Arc;

use super::{Answer, Expected, Failure, REFUSAL_BYTES_MAX};

/// Receives the bytes of one body.
#[derive(Debug)]
pub(super) struct Sink {
    kind: Kind,
    /// Number of bytes received.
    bytes: u64,
    kept: Vec<u8>,
}

#[derive(Debug)]
enum Kind {
    Discard { length: Option<u64> },
    Collect { bytes_max: usize },
    Refusal,
    Equals(Arc<dyn Expected>),
}

impl Sink {
    pub(super) fn new(answer: &Answer) -> Self {
        Self::of(match answer {
            Answer::Discard { length } => Kind::Discard { length: *length },
            Answer::Collect { bytes_max } => Kind::Collect {
                bytes_max: *bytes_max,
            },
            Answer::Equals(expected) => Kind::Equals(Arc::clone(expected)),
        })
    }

    /// Keeps the start of the body of a refusal.
    pub(super) fn refusal() -> Self {
        Self::of(Kind::Refusal)
    }

    fn of(kind: Kind) -> Self {
        Self {
            kind,
            bytes: 0,
            kept: Vec::new(),
        }
    }

    /// Whether the bytes are ignored, so that [`skip`](Self::skip) can replace [`take`](Self::take).
    pub(super) fn is_blind(&self) -> bool {
        matches!(self.kind, Kind::Discard { .. })
    }

    /// Number of bytes received.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn kept(&self) -> &[u8] {
        &self.kept
    }

    /// Counts bytes that were discarded in the kernel.
    pub(super) fn skip(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let offset = self.bytes;
        self.bytes += bytes.len() as u64;
        let is_right = match &mut self.kind {
            Kind::Discard { .. } => true,
            Kind::Collect { bytes_max } => {
                let fits = self.bytes <= *bytes_max as u64;
                if fits {
                    self.kept.extend_from_slice(bytes);
                }
                fits
            }
            Kind::Refusal => {
                let room = REFUSAL_BYTES_MAX - self.kept.len();
                self.kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
                true
            }
            Kind::Equals(expected) => {
                self.bytes <= expected.length() && expected.matches(offset, bytes)
            }
        };
        if is_right {
            Ok(())
        } else {
            Err(Failure::WrongBody)
        }
    }

    /// Checks the body at its end.
    pub(super) fn end(&self) -> Result<(), Failure> {
        let is_right = match &self.kind {
            Kind::Discard { length } => length.is_none_or(|length| length == self.bytes),
            Kind::Collect { .. } | Kind::Refusal => true,
            Kind::Equals(expected) => expected.length() == self.bytes,
        };
        if is_right {
            Ok(())
        } else {
            Err(Failure::WrongBody)
        }
    }
}

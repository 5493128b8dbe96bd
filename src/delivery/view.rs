//! What of a file a request asks for, and the choice or making of that content.
//!
//! Each API parses its own parameters into one [`View`], once per request.

use std::sync::Arc;

use super::Content;
use crate::{
    derivative::{BoundingBox, Derivative, VoiceFormat},
    error::{Kind, Result},
    fair_queue::Claimant,
    files::{Files, OpenFile},
};

/// What of a file a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// The file as it is stored.
    Original,
    /// The thumbnail of an image, or the cover of a video, which is its first frame. It fits the box; `None` stands for
    /// the box that was set at the upload.
    Thumbnail(Option<BoundingBox>),
    /// A voice in this format.
    Voice(VoiceFormat, NotConvertible),
}

/// What to send if a voice cannot be converted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotConvertible {
    /// An error.
    Refuse,
    /// The file as it is stored.
    SendOriginal,
}

impl View {
    /// Whether a derivative is asked for, which has a rate limit of its own.
    pub fn is_derivative(self) -> bool {
        self != Self::Original
    }

    /// This view of a given file: the original if it is no voice, or has the format already.
    #[must_use]
    pub fn of(self, file: &OpenFile) -> Self {
        let is_convertible = match self {
            Self::Voice(format, _) => file.kind.converts_to(format),
            Self::Original | Self::Thumbnail(_) => true,
        };
        match is_convertible {
            true => self,
            false => Self::Original,
        }
    }

    /// Chooses the content, or makes it when it is the claimant's turn.
    ///
    /// # Errors
    /// `NoThumbnail`, `NotConvertible`; `Unavailable` if too many derivatives wait to be made.
    pub async fn make(
        self,
        files: &Files,
        file: Arc<OpenFile>,
        claimant: Claimant,
    ) -> Result<Content> {
        let made = match self.of(&file) {
            Self::Original => return Ok(Content::Original(file)),
            Self::Thumbnail(fit) => {
                let fit = fit.unwrap_or(file.object.meta.thumbnail);
                let thumbnail = Derivative::Thumbnail(fit);
                files.derivative(&file, thumbnail, claimant).await
            }
            Self::Voice(format, not_convertible) => {
                let voice = Derivative::Voice(format);
                match files.derivative(&file, voice, claimant).await {
                    Err(error)
                        if error.kind() == Kind::NotConvertible
                            && not_convertible == NotConvertible::SendOriginal =>
                    {
                        return Ok(Content::Original(file));
                    }
                    made => made,
                }
            }
        };
        Ok(Content::of(made?, file))
    }
}

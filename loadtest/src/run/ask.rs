//! Builds requests for a file, with the expected responses.

use std::{sync::Arc, time::Instant};

use super::{
    api::{self, Api, Endpoint, Origin, WRONG_TOKEN},
    content::{Content, Part},
    files::{Draft, File, Maker, Validator},
    template::Values,
};
use crate::client::{Answer, Expected as _, Outcome, Request, Status};

/// Maximum length of the response to an upload.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Builds requests for one server.
#[derive(Debug)]
pub(crate) struct Asker {
    /// The endpoints.
    pub(crate) api: Api,
    /// The server as named in requests.
    pub(crate) origin: Origin,
    /// The token; empty if none is needed.
    pub(crate) token: String,
    /// Generates file contents.
    pub(crate) maker: Maker,
    /// Whether every received byte is compared.
    pub(crate) is_verifying: bool,
}

impl Asker {
    /// An upload of a new file with its name and content. The response is kept only if the file must be found again.
    pub(crate) fn upload(
        &self,
        draft: &Draft,
        keep: bool,
        intended: Instant,
    ) -> (Request, String, Content) {
        let content = self.maker.content(draft);
        let name = self.maker.name(draft);
        let values = Values {
            token: &self.token,
            name: &name,
            content_type: self.maker.content_type(draft),
            ..Values::default()
        };
        let upload = &self.api.upload;
        let (head, body) =
            upload.request(&self.origin, &values, content.pieces(), content.length());
        let mut request = Request {
            body,
            ..Request::new(head, intended)
        };
        if keep {
            request.answer = Answer::Collect {
                bytes_max: ANSWER_BYTES_MAX,
            };
        }
        (request, name, content)
    }

    /// The uploaded file, from the response.
    pub(crate) fn uploaded(
        &self,
        draft: Draft,
        name: String,
        content: &Content,
        outcome: &Outcome<'_>,
    ) -> Result<File, String> {
        let (id, secret) = self.api.upload.answer(outcome.body, &name)?;
        Ok(File::new(draft, content, name, id, secret))
    }

    /// A download of the whole file.
    pub(crate) fn download(&self, file: &File, intended: Instant) -> Request {
        let head = self.head("GET", &self.api.download, file, &self.token);
        let answer = if self.is_verifying {
            Answer::Equals(Arc::new(self.maker.content(&file.draft)))
        } else {
            Answer::Discard {
                length: Some(file.length),
            }
        };
        Request {
            answer,
            ..Request::new(api::end(head), intended)
        }
    }

    /// A download of `length` bytes from offset `from`, which must lie within the file.
    pub(crate) fn range(&self, file: &File, from: u64, length: u64, intended: Instant) -> Request {
        let mut head = self.head("GET", &self.api.download, file, &self.token);
        let last = from + length - 1;
        head.extend_from_slice(format!("Range: bytes={from}-{last}\r\n").as_bytes());
        let answer = if self.is_verifying {
            let content = self.maker.content(&file.draft);
            Answer::Equals(Arc::new(Part {
                content,
                from,
                length,
            }))
        } else {
            Answer::Discard {
                length: Some(length),
            }
        };
        Request {
            answer,
            ..Request::new(api::end(head), intended)
        }
    }

    /// A request for the file's thumbnail.
    pub(crate) fn thumbnail(&self, file: &File, intended: Instant) -> Request {
        let endpoint = self.api.thumbnail.as_ref().unwrap_or(&self.api.download);
        let head = self.head("GET", endpoint, file, &self.token);
        Request::new(api::end(head), intended)
    }

    /// A conditional download with the file's validator.
    pub(crate) fn conditional(&self, file: &File, intended: Instant) -> Request {
        let mut head = self.head("GET", &self.api.download, file, &self.token);
        let header = match &file.validator {
            Some(Validator::Tag(tag)) => format!("If-None-Match: {tag}\r\n"),
            Some(Validator::Date(date)) => format!("If-Modified-Since: {date}\r\n"),
            None => String::new(),
        };
        head.extend_from_slice(header.as_bytes());
        Request::new(api::end(head), intended)
    }

    /// A HEAD request for the file.
    pub(crate) fn head_only(&self, file: &File, intended: Instant) -> Request {
        let head = self.head("HEAD", &self.api.download, file, &self.token);
        Request::new(api::end(head), intended)
    }

    /// A download with an invalid token.
    pub(crate) fn wrong_token(&self, file: &File, intended: Instant) -> Request {
        let head = self.head("GET", &self.api.download, file, WRONG_TOKEN);
        Request::new(api::end(head), intended)
    }

    fn head(&self, method: &str, endpoint: &Endpoint, file: &File, token: &str) -> Vec<u8> {
        let values = Values {
            token,
            id: &file.id,
            secret: &file.secret,
            name: &file.name,
            content_type: self.maker.content_type(&file.draft),
        };
        api::head(&self.origin, method, endpoint, &values)
    }
}

/// The validator in the response to a HEAD.
pub(crate) fn validator(outcome: &Outcome<'_>) -> Option<Validator> {
    let tag = || {
        outcome
            .header("etag")
            .map(|tag| Validator::Tag(tag.to_owned()))
    };
    let date = || {
        outcome
            .header("last-modified")
            .map(|date| Validator::Date(date.to_owned()))
    };
    tag().or_else(date)
}

/// Sets the expected statuses.
pub(crate) fn expecting(request: Request, expect: &'static [u16]) -> Request {
    Request {
        status: Status::OneOf(expect),
        ..request
    }
}

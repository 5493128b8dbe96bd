//! Requests for the engine: what is sent for a file, and what must come back.

use std::{sync::Arc, time::Instant};

use super::{
    api::{self, Api, Endpoint, Origin, WRONG_TOKEN},
    content::{Content, Part},
    files::{Draft, File, Maker, Validator},
    template::Values,
};
use crate::client::{Answer, Expected as _, Outcome, Request, Status};

/// Bytes of the answer to an upload.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Makes requests for one server.
#[derive(Debug)]
pub(crate) struct Asker {
    /// How it is asked.
    pub(crate) api: Api,
    /// Where it is.
    pub(crate) origin: Origin,
    /// What opens it; empty where it needs none.
    pub(crate) token: String,
    /// What files hold.
    pub(crate) maker: Maker,
    /// Whether every byte that comes back is compared.
    pub(crate) is_verifying: bool,
}

impl Asker {
    /// The upload of a new file, whose name and bytes come with it. The answer is kept where the file is to be found
    /// again.
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

    /// The file that an upload made, from the answer.
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

    /// The whole file.
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

    /// `length` bytes of the file, from `from` on; the file must have them.
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

    /// The file's thumbnail.
    pub(crate) fn thumbnail(&self, file: &File, intended: Instant) -> Request {
        let endpoint = self.api.thumbnail.as_ref().unwrap_or(&self.api.download);
        let head = self.head("GET", endpoint, file, &self.token);
        Request::new(api::end(head), intended)
    }

    /// The file, unless it is the one that its validator names.
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

    /// The head of the answer that has the file.
    pub(crate) fn head_only(&self, file: &File, intended: Instant) -> Request {
        let head = self.head("HEAD", &self.api.download, file, &self.token);
        Request::new(api::end(head), intended)
    }

    /// The file, with a token that is none.
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

/// What the answer to a HEAD says about the file's version.
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

/// Expects these statuses, and these only.
pub(crate) fn expecting(request: Request, expect: &'static [u16]) -> Request {
    Request {
        status: Status::OneOf(expect),
        ..request
    }
}

//! The requests of an API: templates of paths and headers, and the request heads made from them. The Easemob API is
//! built in as one set of templates; a scenario can define another one.

use bytes::Bytes;

use super::template::{Template, Values};

/// Boundary of forms. Generated files do not contain it.
const BOUNDARY: &str = "----loadtest-5b1f0c9e7a";
/// Token of requests that must be refused.
pub(crate) const WRONG_TOKEN: &str = "not-a-token";

/// The endpoints of a server.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    /// Uploads a file.
    pub(crate) upload: Upload,
    /// Downloads a file.
    pub(crate) download: Endpoint,
    /// Requests a thumbnail, if the server has them.
    pub(crate) thumbnail: Option<Endpoint>,
    /// Path that issues tokens as in the Easemob API.
    pub(crate) token_path: Option<String>,
}

/// A path and its headers.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    /// The path in the request line.
    pub(crate) path: Template,
    /// Header names and values.
    pub(crate) headers: Vec<(String, Template)>,
}

/// How to upload a file.
#[derive(Debug, Clone)]
pub(crate) struct Upload {
    /// Usually `POST` or `PUT`.
    pub(crate) method: String,
    /// Path and headers.
    pub(crate) endpoint: Endpoint,
    /// Name of the form field with the file; if `None`, the body is the file.
    pub(crate) multipart: Option<String>,
    /// JSON pointer (RFC 6901) to the file's id in the response; if `None`, the id is the file's name.
    pub(crate) id: Option<String>,
    /// JSON pointer to the file's secret; if `None`, there is no secret.
    pub(crate) secret: Option<String>,
}

impl Api {
    /// The Easemob API of one tenant; uploads may restrict access to clients with the file's secret.
    pub(crate) fn easemob(org: &str, app: &str, is_restricted: bool) -> Self {
        let template = |text: &str| Template::parse(text).expect("a constant template");
        let endpoint = |path: &str, headers: &[(&str, &str)]| {
            let header = |(name, value): &(&str, &str)| ((*name).to_owned(), template(value));
            let headers = headers.iter().map(header).collect();
            let path = template(&format!("/{org}/{app}{path}"));
            Endpoint { path, headers }
        };
        let token = ("Authorization", "Bearer {token}");
        let secret = is_restricted.then_some(("share-secret", "{secret}"));
        let with = |more: &[(&'static str, &'static str)]| {
            let headers = [token].into_iter().chain(secret);
            let headers: Vec<_> = headers.chain(more.iter().copied()).collect();
            endpoint("/chatfiles/{id}", &headers)
        };
        let restrict = is_restricted.then_some(("restrict-access", "true"));
        let upload = [token].into_iter().chain(restrict).collect::<Vec<_>>();
        Self {
            upload: Upload {
                method: "POST".to_owned(),
                endpoint: endpoint("/chatfiles", &upload),
                multipart: Some("file".to_owned()),
                id: Some("/entities/0/uuid".to_owned()),
                secret: is_restricted.then(|| "/entities/0/share-secret".to_owned()),
            },
            download: with(&[]),
            thumbnail: Some(with(&[("thumbnail", "true")])),
            token_path: Some(format!("/{org}/{app}/token")),
        }
    }

    /// All endpoints.
    pub(crate) fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        [&self.upload.endpoint, &self.download]
            .into_iter()
            .chain(&self.thumbnail)
    }
}

impl Endpoint {
    /// Whether a path or header contains this variable.
    pub(crate) fn needs(&self, variable: super::template::Variable) -> bool {
        let headers = self.headers.iter().map(|(_, value)| value);
        headers
            .chain([&self.path])
            .any(|template| template.needs(variable))
    }
}

/// The server as named in requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    /// Value of the `Host` header.
    pub(crate) host: String,
    /// Prefix of every path: empty, or `/…` without a trailing slash.
    pub(crate) prefix: String,
}

/// Starts a head with the request line, `Host` and the headers of the endpoint. The caller may append headers and then
/// calls [`end`].
pub(crate) fn head(
    origin: &Origin,
    method: &str,
    endpoint: &Endpoint,
    values: &Values<'_>,
) -> Vec<u8> {
    let mut head = Vec::with_capacity(768);
    head.extend_from_slice(method.as_bytes());
    head.push(b' ');
    head.extend_from_slice(origin.prefix.as_bytes());
    endpoint.path.write(values, &mut head);
    head.extend_from_slice(b" HTTP/1.1\r\nHost: ");
    head.extend_from_slice(origin.host.as_bytes());
    head.extend_from_slice(b"\r\n");
    for (name, value) in &endpoint.headers {
        head.extend_from_slice(name.as_bytes());
        head.extend_from_slice(b": ");
        value.write(values, &mut head);
        head.extend_from_slice(b"\r\n");
    }
    head
}

/// Ends a head.
pub(crate) fn end(mut head: Vec<u8>) -> Bytes {
    head.extend_from_slice(b"\r\n");
    head.into()
}

impl Upload {
    /// Head and body of an upload of these pieces, `length` bytes in total.
    pub(crate) fn request(
        &self,
        origin: &Origin,
        values: &Values<'_>,
        pieces: &[Bytes],
        length: u64,
    ) -> (Bytes, Vec<Bytes>) {
        let mut head = head(origin, &self.method, &self.endpoint, values);
        let Some(field) = &self.multipart else {
            head.extend_from_slice(format!("Content-Length: {length}\r\n").as_bytes());
            return (end(head), pieces.to_vec());
        };
        let (name, content_type) = (values.name, values.content_type);
        let before = format!(
            "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{field}\"; filename=\"{name}\"\r\n\
             Content-Type: {content_type}\r\n\r\n"
        );
        let after = format!("\r\n--{BOUNDARY}--\r\n");
        let length = length + (before.len() + after.len()) as u64;
        head.extend_from_slice(
            format!(
                "Content-Type: multipart/form-data; boundary={BOUNDARY}\r\nContent-Length: {length}\r\n"
            )
            .as_bytes(),
        );
        let file = pieces.iter().cloned();
        let body = [before.into()]
            .into_iter()
            .chain(file)
            .chain([after.into()]);
        (end(head), body.collect())
    }

    /// Extracts the id and the secret from the response.
    pub(crate) fn answer(&self, body: &[u8], name: &str) -> Result<(String, String), String> {
        if self.id.is_none() && self.secret.is_none() {
            return Ok((name.to_owned(), String::new()));
        }
        let json: serde_json::Value = serde_json::from_slice(body)
            .map_err(|error| format!("the response to an upload is not JSON: {error}"))?;
        let at = |pointer: &Option<String>, otherwise: &str| match pointer {
            None => Ok(otherwise.to_owned()),
            Some(pointer) => match json.pointer(pointer).and_then(|value| value.as_str()) {
                // These values go into later request heads, so they must not contain line ends.
                Some(text) if !text.chars().any(char::is_control) => Ok(text.to_owned()),
                _ => Err(format!(
                    "the response to an upload has no text at {pointer}"
                )),
            },
        };
        Ok((at(&self.id, name)?, at(&self.secret, "")?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin() -> Origin {
        Origin {
            host: "h:1".to_owned(),
            prefix: "/p".to_owned(),
        }
    }

    fn text(bytes: &[u8]) -> String {
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[test]
    fn easemob_requests_follow_contract() {
        let api = Api::easemob("o", "a", true);
        let values = Values {
            token: "T",
            id: "U",
            secret: "S",
            ..Values::default()
        };
        let thumbnail = api.thumbnail.as_ref().unwrap();
        assert_eq!(
            text(&end(head(&origin(), "GET", thumbnail, &values))),
            "GET /p/o/a/chatfiles/U HTTP/1.1\r\nHost: h:1\r\nAuthorization: Bearer T\r\nshare-secret: S\r\n\
             thumbnail: true\r\n\r\n"
        );
        let values = Values {
            token: "T",
            name: "n.amr",
            content_type: "audio/amr",
            ..Values::default()
        };
        let file = [Bytes::from_static(b"ab"), Bytes::from_static(b"c")];
        let (head, body) = api.upload.request(&origin(), &values, &file, 3);
        let body = text(&body.concat());
        assert!(text(&head).starts_with("POST /p/o/a/chatfiles HTTP/1.1\r\n"));
        assert!(text(&head).contains("\r\nrestrict-access: true\r\n"));
        assert!(text(&head).ends_with(&format!("\r\nContent-Length: {}\r\n\r\n", body.len())));
        assert!(body.contains(
            "name=\"file\"; filename=\"n.amr\"\r\nContent-Type: audio/amr\r\n\r\nabc\r\n--"
        ));
        let answer = br#"{"entities":[{"uuid":"u","share-secret":"s"}]}"#;
        assert_eq!(
            api.upload.answer(answer, "n"),
            Ok(("u".to_owned(), "s".to_owned()))
        );
        for wrong in [
            &b"<html>"[..],
            b"{}",
            br#"{"entities":[{"uuid":"a\nb","share-secret":"s"}]}"#,
        ] {
            assert!(api.upload.answer(wrong, "n").is_err());
        }
    }

    #[test]
    fn unrestricted_file_has_no_secret() {
        let api = Api::easemob("o", "a", false);
        let head = head(&origin(), "GET", &api.download, &Values::default());
        assert!(!text(&head).contains("share-secret"));
        let answer = br#"{"entities":[{"uuid":"u"}]}"#;
        assert_eq!(
            api.upload.answer(answer, "n"),
            Ok(("u".to_owned(), String::new()))
        );
    }

    #[test]
    fn raw_upload_is_file_alone() {
        let path = Template::parse("/{name}").unwrap();
        let upload = Upload {
            method: "PUT".to_owned(),
            endpoint: Endpoint {
                path,
                headers: Vec::new(),
            },
            multipart: None,
            id: None,
            secret: None,
        };
        let values = Values {
            name: "n",
            ..Values::default()
        };
        let (head, body) = upload.request(&origin(), &values, &[Bytes::from_static(b"abc")], 3);
        assert_eq!(
            text(&head),
            "PUT /p/n HTTP/1.1\r\nHost: h:1\r\nContent-Length: 3\r\n\r\n"
        );
        assert_eq!(body.concat(), b"abc");
        assert_eq!(upload.answer(b"", "n"), Ok(("n".to_owned(), String::new())));
    }
}

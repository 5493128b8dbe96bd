//! The part of the Easemob API that the chat scenario uses, with a rate limit per address.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex},
};

use crate::server::{Answer, Files, Request};

const PATH: &str = "/easemob-demo/chatdemoui/chatfiles";
/// Maximum HEAD requests per address; further ones are refused. The fill makes fewer.
const HEADS_MAX: u32 = 200;

/// Faults of the server.
#[derive(Default, Clone, Copy)]
pub(crate) struct Faults {
    /// Thumbnails are text.
    pub(crate) thumbnails: bool,
    /// Ranges start one byte late.
    pub(crate) ranges: bool,
    /// HEAD reports another length.
    pub(crate) heads: bool,
    /// Any token is accepted.
    pub(crate) tokens: bool,
}

/// Responds as the server.
pub(crate) fn answer(faults: Faults) -> impl Fn(&Request) -> Answer + Send + Sync + 'static {
    let files = Arc::new(Files::default());
    let heads: Mutex<HashMap<IpAddr, u32>> = Mutex::default();
    move |request| {
        if request.path == "/easemob-demo/chatdemoui/token" {
            return token(request);
        }
        let Some(id) = request.path.strip_prefix(PATH) else {
            return Answer::new(404, "no such path");
        };
        if request.header("authorization") != "Bearer user-token" && !faults.tokens {
            return Answer::new(401, "{\"error\":\"auth_bad_access_token\"}");
        }
        if request.method == "POST" {
            return upload(&files, request);
        }
        if request.header("share-secret") != "secret" {
            return Answer::new(403, "{\"error\":\"forbidden_op\"}");
        }
        if request.method == "HEAD" {
            let mut heads = heads.lock().unwrap();
            let count = heads.entry(request.peer).or_default();
            *count += 1;
            if *count > HEADS_MAX {
                return Answer::new(503, "{\"error\":\"reach_limit\"}");
            }
        }
        let Some(mut file) = files.get(id) else {
            return Answer::new(404, "no such file");
        };
        if request.header("thumbnail") == "true" {
            let kind = if faults.thumbnails {
                "text/plain"
            } else {
                "image/jpeg"
            };
            return Answer::new(200, "small").with("Content-Type", kind);
        }
        let tag = format!("\"{id}\"");
        if request.header("if-none-match") == tag {
            return Answer::new(304, "");
        }
        if let Some((first, last)) = request
            .header("range")
            .strip_prefix("bytes=")
            .and_then(|range| range.split_once('-'))
        {
            let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
            let late = usize::from(faults.ranges && last + 1 < file.len());
            return Answer::new(206, &file[first + late..=last + late]);
        }
        if request.method == "HEAD" && faults.heads {
            file.push(0);
        }
        Answer::new(200, file).with("ETag", tag)
    }
}

fn token(request: &Request) -> Answer {
    let question: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
    match question["grant_type"].as_str().unwrap() {
        "client_credentials" if question["client_secret"] == "sesame" => {
            Answer::new(200, "{\"access_token\":\"app-token\"}")
        }
        "inherit"
            if request.header("authorization") == "Bearer app-token"
                && question["username"] == "alice" =>
        {
            Answer::new(200, "{\"access_token\":\"user-token\"}")
        }
        _ => Answer::new(400, "{\"error\":\"invalid_grant\"}"),
    }
}

fn upload(files: &Files, request: &Request) -> Answer {
    assert_eq!(request.header("restrict-access"), "true");
    let boundary = request
        .header("content-type")
        .strip_prefix("multipart/form-data; boundary=")
        .unwrap();
    let end = format!("\r\n--{boundary}--\r\n");
    let find = |part: &[u8]| {
        request
            .body
            .windows(part.len())
            .position(|window| window == part)
    };
    let start = find(b"\r\n\r\n").unwrap() + 4;
    let head = std::str::from_utf8(&request.body[..start]).unwrap();
    assert!(
        head.starts_with(&format!("--{boundary}\r\n")) && head.contains("name=\"file\""),
        "{head}"
    );
    assert!(request.body.ends_with(end.as_bytes()));
    let file = &request.body[start..request.body.len() - end.len()];
    let id = uuid(file);
    files.put(&format!("/{id}"), file.to_vec());
    let answer = serde_json::json!({"entities": [{"uuid": id, "share-secret": "secret"}]});
    Answer::new(200, answer.to_string())
}

/// A UUID made from these bytes.
fn uuid(bytes: &[u8]) -> String {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

//! A client of the Lanying API: requests a ticket, posts the form, downloads by the link.

use serde_json::Value;

use super::{Answer, Form, TestServer};

/// The `app_id` of the default tenant.
pub const APP_ID: &str = "welovemaxim";

/// A user with a token.
pub struct Client<'s> {
    pub server: &'s TestServer,
    pub token: String,
}

impl TestServer {
    /// A client of the Lanying API as a user of the default tenant.
    pub fn lanying(&self, user: &str) -> Client<'_> {
        Client {
            server: self,
            token: self.token(user),
        }
    }
}

impl Client<'_> {
    /// Sends `GET /file/{call}` with token and `app_id` in headers; `call` includes the query.
    pub fn get(&self, call: &str) -> Answer {
        self.get_with(call, &[])
    }

    /// The same with further headers.
    pub fn get_with(&self, call: &str, headers: &[(&str, &str)]) -> Answer {
        let mut all = vec![("access-token", self.token.as_str()), ("app_id", APP_ID)];
        all.extend_from_slice(headers);
        self.server.get(&format!("/file/{call}"), &all)
    }

    /// Requests a URL that the server returned, with `more` appended (`&image_type=2`).
    pub fn open(&self, url: &str, more: &str) -> Answer {
        let path = url.find("/file/").expect("a URL of this API");
        self.get(&format!("{}{more}", &url[path + "/file/".len()..]))
    }

    /// Requests a ticket for a file in a chat.
    #[track_caller]
    pub fn ticket(&self, file_type: &str, to: &str, to_type: &str) -> Value {
        let call = format!("upload/chat?file_type={file_type}&to_id={to}&to_type={to_type}");
        success(&self.get(&call))
    }

    /// Sends a file to a user and returns the `download_url`.
    #[track_caller]
    pub fn send(&self, file_type: &str, to: &str, name: &str, bytes: &[u8]) -> String {
        self.store(&self.ticket(file_type, to, "1"), name, bytes)
    }

    /// Sends a file with a ticket and returns the `download_url`.
    #[track_caller]
    pub fn store(&self, ticket: &Value, name: &str, bytes: &[u8]) -> String {
        let answer = self.post(
            ticket,
            &ticket_form(ticket).file(name, "application/octet-stream", bytes),
        );
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(
            answer.text(),
            r#"{"code":200,"data":true,"Status":"OK","message":null}"#
        );
        text(&ticket["download_url"])
    }

    /// Posts a form with a ticket, with the additional fields of the web SDK.
    pub fn post(&self, ticket: &Value, form: &Form) -> Answer {
        let url = text(&ticket["upload_url"]);
        let path = &url[url.find("/file/").expect("a URL of this API")..];
        let content_type = form.content_type();
        let headers = [
            ("Content-Type", content_type.as_str()),
            ("access-token", self.token.as_str()),
            ("app_id", APP_ID),
        ];
        self.server.request("POST", path, &headers, &form.bytes())
    }
}

/// The fields of a ticket in the order in which clients send them.
pub fn ticket_form(ticket: &Value) -> Form {
    let fields = &ticket["oss_body_param"];
    ["OSSAccessKeyId", "policy", "signature", "callback", "key"]
        .into_iter()
        .fold(Form::new(), |form, name| {
            form.field(name, &text(&fields[name]))
        })
}

/// The `file_sign` of a URL, extracted as clients do.
pub fn file_sign(url: &str) -> &str {
    url.split("sign=").nth(1).expect("a link")
}

/// The `data` of a successful response.
#[track_caller]
pub fn success(answer: &Answer) -> Value {
    let json = envelope(answer, 200);
    assert_eq!(json["code"], 200, "{}", answer.text());
    json["data"].clone()
}

/// Checks for an error of this API with this code and HTTP status 200; returns its message.
#[track_caller]
pub fn assert_code(answer: &Answer, code: u32) -> String {
    let json = envelope(answer, 200);
    assert_eq!(json["code"], code, "{}", answer.text());
    assert_eq!(json["data"], Value::Null, "{}", answer.text());
    text(&json["message"])
}

/// Checks the three members and the headers of every response that is not a file.
#[track_caller]
pub fn envelope(answer: &Answer, status: u16) -> Value {
    assert_eq!(answer.status, status, "{}", answer.text());
    assert_eq!(
        answer.header("content-type"),
        Some("application/json;charset=UTF-8"),
        "{}",
        answer.text()
    );
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let json = answer.json();
    let members: Vec<_> = json.as_object().expect("an object").keys().collect();
    assert_eq!(members, ["code", "data", "message"], "{}", answer.text());
    json
}

/// A JSON string.
#[track_caller]
pub fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("no text: {value}"))
        .to_owned()
}

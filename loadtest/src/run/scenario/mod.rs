//! A scenario: the files, the kinds of requests and their frequency, and the API of the server. It is a TOML file.
//! Unknown keys are errors, and every message names the key that is wrong.

mod file;

pub(crate) use self::file::FILES_MAX;

use bytes::Bytes;

use super::api::Api;

/// The built-in scenario.
pub(crate) const CHAT: &str = include_str!("../../../scenarios/chat.toml");

/// A validated scenario.
#[derive(Debug, Clone)]
pub(crate) struct Scenario {
    /// Name in the report.
    pub(crate) name: String,
    /// Number of files uploaded before the run.
    pub(crate) files: usize,
    /// Exponent of Zipf's law for the popularity of files.
    pub(crate) zipf_exponent: f64,
    /// The API of the server.
    pub(crate) api: Api,
    /// Source of the token, unless `--token` is given.
    pub(crate) token: TokenSource,
    /// Classes of files.
    pub(crate) classes: Vec<Class>,
    /// Kinds of requests.
    pub(crate) kinds: Vec<Kind>,
}

/// A class of files.
#[derive(Debug, Clone)]
pub(crate) struct Class {
    /// Name in messages and in references.
    pub(crate) name: String,
    /// Relative frequency.
    pub(crate) weight: f64,
    /// Minimum and maximum length.
    pub(crate) bytes: [u64; 2],
    /// Content type sent with the upload.
    pub(crate) content_type: String,
    /// File name sent with the upload; generated names keep its extension.
    pub(crate) file_name: String,
    /// First bytes of each file.
    pub(crate) start: Bytes,
    /// Whether each file is a JPEG that can be decoded.
    pub(crate) is_picture: bool,
}

/// A kind of request.
#[derive(Debug, Clone)]
pub(crate) struct Kind {
    /// Name in the report.
    pub(crate) name: String,
    /// The request.
    pub(crate) action: Action,
    /// Relative frequency.
    pub(crate) weight: f64,
    /// Expected statuses; any other is an error.
    pub(crate) expect: &'static [u16],
    /// Which classes it applies to, by index.
    pub(crate) classes: Vec<bool>,
}

/// What a request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Uploads a new file.
    Upload,
    /// Downloads the whole file.
    Download,
    /// Requests the file's thumbnail.
    Thumbnail,
    /// Downloads one range with a length between these two.
    Range { bytes: [u64; 2] },
    /// Downloads the file if it has changed.
    Conditional,
    /// Sends a HEAD request for the file.
    Head,
    /// Downloads the file with an invalid token.
    WrongToken,
    /// Sends this many HEAD requests in a row, from a separate address.
    Burst { calls: u32 },
}

/// Source of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TokenSource {
    /// The API needs no token.
    None,
    /// `--token` is required.
    Given,
    /// The value of `--token`.
    Fixed(String),
    /// The first line printed by this program.
    Command(Vec<String>),
    /// Issued by the server as in the Easemob API.
    Grant(Grant),
}

/// Credentials for [`TokenSource::Grant`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Grant {
    /// `client_credentials`; if a user is set, that token is exchanged for a token of the user (`inherit`).
    Client {
        client_id: String,
        client_secret: String,
        user: Option<String>,
    },
    /// `password`.
    Password { user: String, password: String },
}

impl Scenario {
    /// Parses and validates a scenario.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let file: file::File = toml::from_str(text).map_err(|error| error.to_string())?;
        file.check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_scenario_is_valid() {
        let chat = Scenario::parse(CHAT).unwrap();
        assert_eq!(chat.name, "chat");
        let has = |action: fn(&Action) -> bool| chat.kinds.iter().any(|kind| action(&kind.action));
        assert!(has(|action| *action == Action::Upload) && has(|action| *action == Action::Head));
        assert!(has(
            |action| matches!(action, Action::Burst { calls } if *calls > 30)
        ));
        assert!(
            chat.classes
                .iter()
                .all(|class| class.bytes[1] <= 10 * 1024 * 1024)
        );
    }

    /// The built-in scenario with one replacement.
    fn changed(from: &str, to: &str) -> Result<Scenario, String> {
        assert!(CHAT.contains(from), "{from}");
        Scenario::parse(&CHAT.replacen(from, to, 1))
    }

    #[test]
    fn errors_name_the_key() {
        let upload = "kind = \"upload\"\nweight = 10\nexpect = [200]";
        let class = "name = \"voice\"\nweight = 45\nbytes = [5_120, 51_200]";
        for (from, to, message) in [
            (
                upload,
                "kind = \"upload\"\nweight = -1\nexpect = [200]",
                "request[0].weight: ",
            ),
            (
                upload,
                "kind = \"upload\"\nweight = 1\nexpect = []",
                "request[0].expect: ",
            ),
            (
                upload,
                "kind = \"upload\"\nweight = 1\nexpect = [99]",
                "request[0].expect: ",
            ),
            (
                upload,
                "kind = \"upload\"\nweight = 1\nexpect = [200]\ncalls = 3",
                "request[0].calls: ",
            ),
            (
                upload,
                "kind = \"burst\"\nweight = 1\nexpect = [200]",
                "request[0].calls: ",
            ),
            (
                upload,
                "kind = \"range\"\nweight = 1\nexpect = [206]",
                "request[0].range_bytes: ",
            ),
            (
                upload,
                "kind = \"upload\"\nweight = 1\nexpect = [200]\nclasses = [\"x\"]",
                "request[0].classes: ",
            ),
            (
                class,
                "name = \"voice\"\nweight = 45\nbytes = [9, 8]",
                "class[0].bytes: ",
            ),
            (
                class,
                "name = \"photo\"\nweight = 45\nbytes = [8, 9]",
                "class[1].name: ",
            ),
            ("files = ", "files = 0 # ", "files: "),
            (
                "zipf_exponent = ",
                "zipf_exponent = -1.0 # ",
                "zipf_exponent: ",
            ),
            ("dialect = \"easemob\"", "dialect = \"generic\"", "api: "),
            ("org = \"easemob-demo\"", "org = \"a b\"", "easemob.org: "),
        ] {
            let error = changed(from, to).expect_err(message);
            assert!(
                error.starts_with(message),
                "{error:?} does not start with {message:?}"
            );
        }
    }

    #[test]
    fn unknown_key_names_its_line() {
        let error = changed("zipf_exponent", "zipf").unwrap_err();
        assert!(
            error.contains("line ") && error.contains("unknown field `zipf`"),
            "{error}"
        );
    }

    const GENERIC: &str = r#"
name = "dav"
dialect = "generic"
files = 5
zipf_exponent = 1.0
[api.upload]
method = "PUT"
path = "/load/{name}"
[api.download]
path = "/load/{id}"
headers = { Authorization = "Basic {token}" }
[[class]]
name = "any"
weight = 1
bytes = [1, 10]
[[request]]
kind = "download"
weight = 1
expect = [200]
"#;

    #[test]
    fn templates_describe_other_servers() {
        let scenario = Scenario::parse(GENERIC).unwrap();
        assert_eq!(
            scenario.token,
            TokenSource::Given,
            "a header has a {{token}}"
        );
        let open = GENERIC.replace("{token}", "dXNlcjpwdw==");
        assert_eq!(Scenario::parse(&open).unwrap().token, TokenSource::None);
        for (from, to, message) in [
            ("\"generic\"", "\"easemob\"", "easemob: needed"),
            (
                "path = \"/load/{id}\"",
                "path = \"/load/{x}\"",
                "api.download.path: {x} is unknown",
            ),
            (
                "path = \"/load/{id}\"",
                "path = \"load/{id}\"",
                "api.download.path: ",
            ),
            (
                "path = \"/load/{name}\"",
                "path = \"/load/{id}\"",
                "api.upload.path: ",
            ),
            (
                "method = \"PUT\"",
                "method = \"P T\"",
                "api.upload.method: ",
            ),
            ("Authorization =", "\"a b\" =", "api.download.headers.a b: "),
            (
                "Basic {token}",
                "Basic {tok}",
                "api.download.headers.Authorization: ",
            ),
            (
                "kind = \"download\"",
                "kind = \"thumbnail\"",
                "request[0].kind: ",
            ),
        ] {
            assert!(GENERIC.contains(from), "{from}");
            let error = Scenario::parse(&GENERIC.replacen(from, to, 1)).expect_err(message);
            assert!(
                error.starts_with(message),
                "{error:?} does not start with {message:?}"
            );
        }
        let wrong = open.replace("\"download\"", "\"wrong_token\"");
        assert!(
            Scenario::parse(&wrong)
                .unwrap_err()
                .starts_with("request[0].kind: ")
        );
    }
}

//! A scenario: what files there are, what is asked for and how often, and how a server of its kind is asked. It is a
//! TOML file; unknown keys are errors, and every message names the key that is wrong.

mod file;

pub(crate) use self::file::FILES_MAX;

use bytes::Bytes;

use super::api::Api;

/// The scenario that is built in.
pub(crate) const CHAT: &str = include_str!("../../../scenarios/chat.toml");

/// A scenario that has been checked.
#[derive(Debug, Clone)]
pub(crate) struct Scenario {
    /// For the report.
    pub(crate) name: String,
    /// How many are uploaded before the run.
    pub(crate) files: usize,
    /// How much more often the popular ones are asked for.
    pub(crate) zipf_exponent: f64,
    /// How a server is asked.
    pub(crate) api: Api,
    /// Where a token comes from, unless one is given.
    pub(crate) token: TokenSource,
    /// What files are uploaded.
    pub(crate) classes: Vec<Class>,
    /// What is asked for.
    pub(crate) kinds: Vec<Kind>,
}

/// Files of one kind.
#[derive(Debug, Clone)]
pub(crate) struct Class {
    /// For messages, and for the keys that refer to it.
    pub(crate) name: String,
    /// How often, beside the others.
    pub(crate) weight: f64,
    /// The least and the greatest length.
    pub(crate) bytes: [u64; 2],
    /// As the upload declares it.
    pub(crate) content_type: String,
    /// As the upload declares it; its end follows the names that are made up.
    pub(crate) file_name: String,
    /// The first bytes of each file.
    pub(crate) start: Bytes,
    /// Whether each is a JPEG that can be decoded.
    pub(crate) is_picture: bool,
}

/// Requests of one kind.
#[derive(Debug, Clone)]
pub(crate) struct Kind {
    /// For the report.
    pub(crate) name: String,
    /// What is asked.
    pub(crate) action: Action,
    /// How often, beside the others.
    pub(crate) weight: f64,
    /// The statuses that are right; any other is an error.
    pub(crate) expect: &'static [u16],
    /// Which classes' files, by their index.
    pub(crate) classes: Vec<bool>,
}

/// What a request asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// A new file is uploaded.
    Upload,
    /// The whole file.
    Download,
    /// The file's thumbnail.
    Thumbnail,
    /// One range of the file, its length between these two.
    Range { bytes: [u64; 2] },
    /// The file, unless it is the one that the client has.
    Conditional,
    /// The head of an answer with the file.
    Head,
    /// The file, with a token that is none.
    WrongToken,
    /// So many heads one after the other, from an address of their own.
    Burst { calls: u32 },
}

/// Where a token comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TokenSource {
    /// The API needs none.
    None,
    /// It must be given: `--token`.
    Given,
    /// It was.
    Fixed(String),
    /// The first line that a program prints.
    Command(Vec<String>),
    /// The server gives it, as the Easemob API has it.
    Grant(Grant),
}

/// What [`TokenSource::Grant`] asks with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Grant {
    /// `client_credentials`; with a user, that token is exchanged for one of the user's (`inherit`).
    Client {
        client_id: String,
        client_secret: String,
        user: Option<String>,
    },
    /// `password`.
    Password { user: String, password: String },
}

impl Scenario {
    /// Parses and checks it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let file: file::File = toml::from_str(text).map_err(|error| error.to_string())?;
        file.check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_scenario_is_one() {
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

    /// The built-in one with a change.
    fn changed(from: &str, to: &str) -> Result<Scenario, String> {
        assert!(CHAT.contains(from), "{from}");
        Scenario::parse(&CHAT.replacen(from, to, 1))
    }

    #[test]
    fn what_is_wrong_is_named_by_its_key() {
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
    fn an_unknown_key_is_an_error_with_its_line() {
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
    fn any_other_server_is_described_by_templates() {
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
                "api.download.path: {x} is not known",
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

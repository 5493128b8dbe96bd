//! Checks before the load: that a server responds, accepts the token, and returns an uploaded file unchanged.

use std::{
    io::{self, Read as _},
    net::SocketAddr,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use rand::{SeedableRng as _, rngs::SmallRng};
use serde_json::{Value, json};

use super::{
    ask::Asker,
    scenario::{Grant, Scenario, TokenSource},
    target::Target,
};
use crate::{
    Error,
    client::{Answer, Engine, Failure, Next, Outcome, Request, Settings, Status, Workload},
};

/// Timeout of each check.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum length of a response that is examined.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Maximum length of the output of a token command.
const TOKEN_BYTES_MAX: u64 = 16 * 1024;
/// Maximum attempts of the first upload, if the rate limit refuses it.
const TRIES_MAX: u32 = 5;

/// One response.
struct Answered {
    result: Result<(), Failure>,
    status: u16,
    body: Vec<u8>,
}

/// Sends one request.
struct Once<F> {
    request: Option<Request>,
    take: F,
}

impl<F: FnMut(&Outcome<'_>)> Workload for Once<F> {
    fn next(&mut self, _connection: usize, _now: Instant) -> Next {
        self.request.take().map_or(Next::Stop, Next::Send)
    }

    fn done(&mut self, _connection: usize, outcome: &Outcome<'_>) {
        (self.take)(outcome);
    }
}

fn ask(
    address: SocketAddr,
    request: Request,
    mut take: impl FnMut(&Outcome<'_>),
) -> io::Result<()> {
    let mut engine = Engine::new(Settings {
        target: address,
        sources: Vec::new(),
        connections: 1,
        timeout: TIMEOUT,
    })?;
    engine.run(&mut Once {
        request: Some(request),
        take: &mut take,
    })
}

fn answer(address: SocketAddr, request: Request) -> Result<Answered, Error> {
    let mut answered = None;
    ask(address, request, |outcome| {
        let body = outcome.body.to_vec();
        answered = Some(Answered {
            result: outcome.result,
            status: outcome.status,
            body,
        });
    })?;
    answered.ok_or_else(|| "no response".into())
}

/// Checks that an HTTP server responds.
pub(crate) fn check_server(target: &Target) -> Result<(), Error> {
    let Target {
        url,
        origin,
        address,
    } = target;
    let head = format!(
        "GET {}/ HTTP/1.1\r\nHost: {}\r\n\r\n",
        origin.prefix, origin.host
    );
    let request = Request {
        status: Status::Any,
        ..Request::new(head, Instant::now())
    };
    let why = match answer(*address, request)?.result {
        Ok(()) | Err(Failure::WrongStatus) => return Ok(()),
        Err(Failure::Connect) => {
            "no server listens there. Is it running? (chatfiles: cargo run --release)"
        }
        Err(Failure::TimedOut) => "it accepts the connection, but does not respond",
        Err(_) => "the server there does not speak HTTP/1.1 (perhaps the port is for TLS)",
    };
    Err(format!("no server at {url} ({address}): {why}").into())
}

/// Obtains a token as the scenario describes.
pub(crate) fn token(target: &Target, scenario: &Scenario) -> Result<String, Error> {
    let token = match &scenario.token {
        TokenSource::None => return Ok(String::new()),
        TokenSource::Given => return Err("a token is needed".into()),
        TokenSource::Fixed(token) => token.clone(),
        TokenSource::Command(command) => from_command(command)?,
        TokenSource::Grant(grant) => granted(target, scenario, grant)?,
    };
    check_token(&token)?;
    Ok(token)
}

/// Checks that a token is valid in a header.
pub(crate) fn check_token(token: &str) -> Result<(), Error> {
    if token.is_empty() || !token.chars().all(|c| c.is_ascii_graphic() || c == ' ') {
        return Err(
            "the token is empty or contains characters that are not allowed in a header".into(),
        );
    }
    Ok(())
}

fn from_command(command: &[String]) -> Result<String, Error> {
    let failed =
        |what: &dyn std::fmt::Display| format!("token_command {:?}: {what}", command.join(" "));
    let [program, arguments @ ..] = command else {
        return Err(failed(&"no program is given").into());
    };
    // Its standard error goes to the user.
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| failed(&error))?;
    let mut printed = String::new();
    let read = child
        .stdout
        .take()
        .map(|out| out.take(TOKEN_BYTES_MAX).read_to_string(&mut printed));
    let status = child.wait().map_err(|error| failed(&error))?;
    read.transpose().map_err(|error| failed(&error))?;
    if !status.success() {
        return Err(failed(&status).into());
    }
    Ok(printed.lines().next().unwrap_or_default().trim().to_owned())
}

fn granted(target: &Target, scenario: &Scenario, grant: &Grant) -> Result<String, Error> {
    let post = |question: &Value, token: Option<&str>| -> Result<String, Error> {
        let path = scenario.api.token_path.as_deref().unwrap_or("/token");
        let body = question.to_string();
        let authorization = token.map_or(String::new(), |token| {
            format!("Authorization: Bearer {token}\r\n")
        });
        let head = format!(
            "POST {}{path} HTTP/1.1\r\nHost: {}\r\n{authorization}Content-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n",
            target.origin.prefix,
            target.origin.host,
            body.len()
        );
        let request = Request {
            body: vec![body.into()],
            answer: Answer::Collect {
                bytes_max: ANSWER_BYTES_MAX,
            },
            ..Request::new(head, Instant::now())
        };
        let answered = answer(target.address, request)?;
        answered.expect_success("the server issues no token")?;
        let json: Value = serde_json::from_slice(&answered.body)
            .map_err(|error| format!("the response with the token is not JSON: {error}"))?;
        let token = json["access_token"].as_str();
        let token = token.ok_or("the response with the token has no access_token")?;
        check_token(token)?;
        Ok(token.to_owned())
    };
    match grant {
        Grant::Password { user, password } => {
            let question =
                json!({"grant_type": "password", "username": user, "password": password});
            post(&question, None)
        }
        Grant::Client {
            client_id,
            client_secret,
            user,
        } => {
            let question = json!({
                "grant_type": "client_credentials", "client_id": client_id, "client_secret": client_secret
            });
            let token = post(&question, None)?;
            match user {
                None => Ok(token),
                Some(user) => post(
                    &json!({"grant_type": "inherit", "username": user}),
                    Some(&token),
                ),
            }
        }
    }
}

/// Uploads a file and reads it back.
pub(crate) fn check_round_trip(target: &Target, asker: &Asker, seed: u64) -> Result<(), Error> {
    let mut random = SmallRng::seed_from_u64(seed);
    let draft = asker.maker.smallest(&mut random);
    let mut tries = 0;
    let file = loop {
        tries += 1;
        let (request, name, content) = asker.upload(&draft, true, Instant::now());
        let mut uploaded = None;
        let mut answered = None;
        ask(target.address, request, |outcome| {
            if outcome.result.is_ok() {
                uploaded = Some(asker.uploaded(draft, name.clone(), &content, outcome));
            }
            let body = outcome.body.to_vec();
            answered = Some(Answered {
                result: outcome.result,
                status: outcome.status,
                body,
            });
        })?;
        match (uploaded, answered) {
            (Some(file), _) => break file?,
            (None, Some(answered)) if matches!(answered.status, 429 | 503) && tries < TRIES_MAX => {
                std::thread::sleep(Duration::from_secs(1));
            }
            (None, Some(answered)) => answered.expect_success("the server rejects the upload")?,
            (None, None) => return Err("no response to an upload".into()),
        }
    };
    let mut request = asker.download(&file, Instant::now());
    request.answer = Answer::Equals(std::sync::Arc::new(asker.maker.content(&draft)));
    match answer(target.address, request)? {
        Answered {
            result: Err(Failure::WrongBody),
            ..
        } => Err("the server returns a different file than the one uploaded".into()),
        answered => answered.expect_success("the server does not return the uploaded file"),
    }
}

impl Answered {
    fn expect_success(&self, what: &str) -> Result<(), Error> {
        let body = String::from_utf8_lossy(&self.body);
        let body: String = body.chars().filter(|c| !c.is_control()).take(300).collect();
        match (self.result, self.status) {
            (Ok(()), _) => Ok(()),
            (Err(Failure::WrongStatus), status @ (401 | 403)) => {
                Err(format!("{what}, the token is refused: status {status}: {body}").into())
            }
            (Err(Failure::WrongStatus), status) => {
                Err(format!("{what}: status {status}: {body}").into())
            }
            (Err(failure), _) => Err(format!("{what}: {failure}").into()),
        }
    }
}

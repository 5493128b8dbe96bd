//! The cost of thumbnails: shares of tenants and clients, memory, and decodes for many sizes.

mod lossless;
mod memory;
mod shares;
mod sizes;

use std::{net::Ipv4Addr, thread::JoinHandle};

use chatfiles::auth::Subject;

use crate::support::{Answer, BASE, Form, TestServer, head, lanying::APP_ID, open_from};

/// A tenant other than [`BASE`].
const OTHER: &str = "/other-org/other-app";

/// A server with an operator listener and two tenants, and further configuration.
fn server(more: &str) -> TestServer {
    TestServer::with(&format!(
        "[operator]\nlisten = \"127.0.0.1:0\"\n\
         [[tenant]]\norg = \"easemob-demo\"\napp = \"chatdemoui\"\napp_id = \"{APP_ID}\"\n\
         [[tenant]]\norg = \"other-org\"\napp = \"other-app\"\n{more}"
    ))
}

fn token(server: &TestServer, base: &str) -> String {
    let (org, app) = base[1..]
        .split_once('/')
        .expect("an organisation and an application");
    let token = server.token_of(org, app, Subject::User("alice".into()));
    format!("Bearer {token}")
}

/// Stores a file for a tenant and returns its path.
#[track_caller]
fn store(server: &TestServer, base: &str, bytes: &[u8]) -> String {
    let form = Form::new().file("a", "application/octet-stream", bytes);
    let authorization = token(server, base);
    let answer = form.upload(server.address, &format!("{base}/chatfiles"), &authorization);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let json = answer.json();
    let id = json["entities"][0]["uuid"].as_str().expect("an id");
    format!("{base}/chatfiles/{id}")
}

/// Requests the thumbnail at a path from a local address.
fn ask(server: &TestServer, from: Ipv4Addr, path: &str) -> JoinHandle<Answer> {
    ask_for(server, from, path, ("thumbnail", "true"))
}

/// Requests a file in the representation that a header selects. The request has been sent when this returns.
fn ask_for(
    server: &TestServer,
    from: Ipv4Addr,
    path: &str,
    wanted: (&str, &str),
) -> JoinHandle<Answer> {
    let base = path.split("/chatfiles/").next().expect("a path of a file");
    let authorization = token(server, base);
    let headers = [("Authorization", authorization.as_str()), wanted];
    let mut connection = open_from(server.address, from, None);
    connection
        .send(&head("GET", path, &headers, None))
        .expect("a request");
    std::thread::spawn(move || connection.answer("GET").expect("an answer"))
}

fn level(server: &TestServer, name: &str, pool: &str) -> u64 {
    server.scrape().get(name, &[("pool", pool)])
}

const WAITING: &str = "chatfiles_decode_queue_length";
const BUSY: &str = "chatfiles_decode_places_busy";

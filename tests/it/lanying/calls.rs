//! A file on its way from ticket to download, as a client does it.

use crate::support::{
    TestServer,
    lanying::{file_sign, success, text},
    photo,
};

#[test]
fn ticket_form_download_forward() {
    let server = TestServer::start();
    let (alice, bob, carol) = (
        server.lanying("alice"),
        server.lanying("bob"),
        server.lanying("carol"),
    );
    let url = alice.send("102", "bob", "a.jpg", &photo());
    let answer = bob.open(&url, "");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.body == photo());
    assert_eq!(answer.header("content-type"), Some("image/jpeg"));
    let sign = file_sign(&url);
    let forwarded = success(&bob.get(&format!(
        "upload/forward?file_sign={sign}&to_id=carol&to_type=1"
    )));
    let answer = carol.open(&text(&forwarded), "");
    assert!(answer.body == photo());
}

//! `POST /{org}/{app}/chatfiles`

use crate::support::{Form, TestServer, photo};

#[test]
fn a_photo_comes_back_as_it_was_sent() {
    let server = TestServer::start();
    let answer = server.upload(&Form::new().file("a.jpg", "image/jpeg", &photo()), &[]);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let json = answer.json();
    let id = json["entities"][0]["uuid"].as_str().unwrap();
    let download = server.download(id, &[]);
    assert_eq!(download.status, 200);
    assert!(download.body == photo());
    let thumbnail = server.download(id, &[("thumbnail", "true")]);
    assert_eq!(
        (thumbnail.status, thumbnail.header("content-type")),
        (200, Some("image/jpeg"))
    );
    assert!(thumbnail.body.len() < 40_000);
}

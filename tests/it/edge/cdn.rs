//! An origin that answers only its CDN.

use crate::support::{BASE, TestServer, assert_error};

const SECRET: &str = "0123456789abcdef";

#[test]
fn only_health_check_without_cdn_header() {
    let server = TestServer::with(&format!("[cdn]\nsecret = \"{SECRET}\"\n"));
    let token = format!("Bearer {}", server.token("alice"));
    let path = format!("{BASE}/chatfiles/00000000-0000-7000-8000-000000000000");
    let get = |headers: &[(&str, &str)]| {
        let all = [&[("Authorization", &*token)], headers].concat();
        server.get(&path, &all)
    };
    assert_eq!(get(&[("X-Cdn-Secret", SECRET)]).status, 404);
    for wrong in ["", "0123456789abcdeX", "0123456789abcdef0", "\u{e9}"] {
        let answer = get(&[("X-Cdn-Secret", wrong)]);
        let json = assert_error(&answer, 403, "forbidden_op");
        let text = json["error_description"].as_str().unwrap();
        assert!(
            text.contains("CDN") && !answer.text().contains(SECRET),
            "{text}"
        );
    }
    assert_eq!(get(&[]).status, 403);
    // The Lanying API has its own error format.
    let answer = server.get(
        "/file/download/chat?file_sign=x",
        &[("app_id", "welovemaxim")],
    );
    assert_eq!(answer.json()["code"], 20023, "{}", answer.text());
    assert_eq!(server.get("/healthz", &[]).status, 200);
}

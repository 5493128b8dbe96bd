//! Invalid and excessive forms, and files that are not what they claim.

use std::time::Duration;

use chatfiles::time::Clock;

use super::assert_nothing_stays;
use crate::support::{Form, TestServer, assert_error};

/// Much more than a linear scan of 10 MB takes on a busy machine, much less than a quadratic one.
const SCAN_MAX: Duration = Duration::from_secs(30);

/// Checks that an invalid form gets 400 and leaves nothing.
fn check_refused(server: &TestServer, what: &str, body: &[u8]) {
    println!("{what}");
    let clock = Clock::system();
    let started = clock.monotonic();
    let answer = post(server, &Form::new().content_type(), body);
    assert_error(&answer, 400, "illegal_argument");
    assert!(clock.monotonic() - started < SCAN_MAX, "{what}");
    assert_nothing_stays(server);
}

fn post(server: &TestServer, content_type: &str, body: &[u8]) -> crate::support::Answer {
    let authorization = format!("Bearer {}", server.token("mallory"));
    let headers = [
        ("Authorization", authorization.as_str()),
        ("Content-Type", content_type),
    ];
    server.request(
        "POST",
        &format!("{}/chatfiles", crate::support::BASE),
        &headers,
        body,
    )
}

const TEN_MB: usize = 10 << 20;

#[test]
fn forms_out_of_bounds_are_refused() {
    let server = TestServer::start();
    let form = Form::new();
    let boundary = &form.boundary;
    let open = format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\n"
    );
    let fill = |first: &str, piece: &str| {
        let mut body = first.as_bytes().to_vec();
        while body.len() < TEN_MB {
            body.extend_from_slice(piece.as_bytes());
        }
        body
    };
    let almost = format!("\r\n--{}", &boundary[..boundary.len() - 1]);
    let no_boundary = "the boundary never comes";
    for (what, body) in [
        (no_boundary, fill("", "x")),
        ("line ends without a boundary", fill("", "\r\n--")),
        ("almost a boundary, before the first", fill("", &almost)),
        ("a file without an end", fill(&open, "x")),
        ("a file of line ends without an end", fill(&open, "\r\n--")),
        ("a file of almost boundaries", fill(&open, &almost)),
        ("a file of dashes", fill(&open, "-")),
        ("a file of carriage returns", fill(&open, "\r")),
    ] {
        check_refused(&server, what, &body);
    }

    let parts = (0..10_000).fold(Form::new(), |form, number| {
        form.field(&format!("f{number}"), "x")
    });
    let long_head = format!(
        "Content-Disposition: form-data; name=\"file\"\r\nX-Long: {}\r\n",
        "y".repeat(1 << 20)
    );
    let many_heads: String = (0..60_000).map(|n| format!("X-{n}: y\r\n")).collect();
    let mut preamble = vec![b'p'; 1 << 20];
    preamble.extend_from_slice(b"\r\n");
    preamble.extend_from_slice(&Form::new().file("f", "text/plain", b"x").bytes());
    let mut epilogue = Form::new().file("f", "text/plain", b"x").bytes();
    epilogue.resize(1 << 20, b'e');
    for (what, body) in [
        ("10,000 parts", parts.bytes()),
        (
            "a part header of 1 MB",
            Form::new().part(&long_head, b"x").bytes(),
        ),
        (
            "60,000 part headers",
            Form::new().part(&many_heads, b"x").bytes(),
        ),
        ("a preamble of 1 MB", preamble),
        ("an epilogue of 1 MB", epilogue),
        (
            "two files",
            Form::new()
                .file("a", "text/plain", b"x")
                .file("b", "text/plain", b"y")
                .bytes(),
        ),
        ("no part", Form::new().bytes()),
        ("nothing", Vec::new()),
        ("a part without headers", Form::new().part("", b"x").bytes()),
        (
            "a thumbnail size of 100 KB",
            Form::new()
                .field("thumbnail-width", &"1".repeat(100_000))
                .file("a", "text/plain", b"x")
                .bytes(),
        ),
    ] {
        check_refused(&server, what, &body);
    }
}

#[test]
fn nested_form_is_plain_file() {
    let server = TestServer::start();
    let mut inner = Form::new();
    inner.boundary = "inner".into();
    let inner = inner
        .file("secret.html", "text/html", b"<script>")
        .field("restrict-access", "true")
        .bytes();
    let outer = Form::new().part(
        "Content-Disposition: form-data; name=\"file\"; filename=\"n\"\r\nContent-Type: multipart/mixed; boundary=inner\r\n",
        &inner,
    );
    let answer = server.upload(&outer, &[]);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let json = answer.json();
    assert!(json["entities"][0].get("share-secret").is_none());
    let id = json["entities"][0]["uuid"].as_str().unwrap();
    let download = server.download(id, &[]);
    assert!(download.body == inner);
    let disposition = download.header("content-disposition").unwrap();
    assert!(disposition.starts_with("attachment"), "{disposition}");
}

#[test]
fn path_as_file_name_is_kept() {
    let server = TestServer::start();
    for name in [
        "../../etc/passwd",
        "..\\\\..\\\\boot.ini",
        "/etc/passwd",
        "a\r\nX-Injected: yes",
        "\u{202e}gpj.exe",
        "%2e%2e%2fpasswd",
        "..",
        "",
    ] {
        let id = server.store_file(&name.replace("\r\n", "%0d%0a"), "text/plain", b"x");
        let download = server.download(&id, &[]);
        assert_eq!(download.status, 200, "{name:?}");
        let disposition = download.header("content-disposition").unwrap().to_owned();
        assert!(
            !disposition.contains("../") && !disposition.contains("/etc"),
            "{name:?}: {disposition}"
        );
        assert_eq!(download.header("x-injected"), None);
    }
    // All files are at the path of their id.
    for path in server.files_in("objects") {
        assert_eq!(path.components().count(), 4, "{}", path.display());
    }
}

/// And cost no more than a look at the header.
#[test]
fn trap_pictures_have_no_thumbnail() {
    let server = TestServer::start();
    let image = |name: &str| {
        let root = env!("CARGO_MANIFEST_DIR");
        std::fs::read(format!("{root}/tests/data/images/{name}")).unwrap()
    };
    let padded = |name: &str| {
        let mut bytes = image(name);
        // Over 10 KB: a smaller original is its own thumbnail.
        bytes.resize(bytes.len().max(11 * 1024), 0);
        bytes
    };
    let huge_gif = [b"GIF89a\xff\xff\xff\xff\0\0\0".as_slice(), &[0; 11_000]].concat();
    let mut huge_bmp = image("rgb.bmp");
    huge_bmp[18..26].copy_from_slice(&[0xff, 0xff, 0xff, 0x0f, 0xff, 0xff, 0xff, 0x0f]);
    let zip = [b"PK\x03\x04".as_slice(), &[0; 20_000]].concat();
    for (name, content_type, bytes) in [
        ("60,000 x 60,000", "image/png", padded("bomb.png")),
        ("65,535 x 65,535", "image/jpeg", padded("bomb.jpg")),
        ("a GIF of 65,535 squared", "image/gif", huge_gif),
        ("a BMP of 268 million squared", "image/bmp", huge_bmp),
        ("a zip that says it is a picture", "image/png", zip),
    ] {
        println!("{name}");
        let id = server.store_file("x", content_type, &bytes);
        for _ in 0..2 {
            let refused = server.download(&id, &[("thumbnail", "true")]);
            let json = assert_error(&refused, 404, "entity_not_found");
            assert_eq!(
                json["error_description"], "no thumbnail for this file",
                "{name}"
            );
        }
        assert!(server.download(&id, &[]).body == bytes, "{name}");
    }
    // Broken pictures: a picture or 404, never 500.
    for name in ["truncated.jpg", "truncated.png"] {
        let id = server.store_file(name, "image/png", &image(name));
        let answer = server.download(&id, &[("thumbnail", "true")]);
        assert!(
            matches!(answer.status, 200 | 404),
            "{name}: {}",
            answer.text()
        );
    }
}

#[test]
fn damaged_pictures_never_cause_500() {
    let server = TestServer::start();
    let mut random = crate::support::Random::new();
    for name in [
        "baseline.jpg",
        "progressive.jpg",
        "interlaced.png",
        "animated.gif",
        "lossy_alpha.webp",
        "palette.bmp",
    ] {
        let root = env!("CARGO_MANIFEST_DIR");
        let original = std::fs::read(format!("{root}/tests/data/images/{name}")).unwrap();
        for _ in 0..8 {
            let mut bytes = original.clone();
            for _ in 0..1 + random.below(20) {
                // Mostly in the headers, which contain sizes and counts.
                let end = [64, 700, bytes.len()][random.below(3)];
                let at = random.below(end);
                bytes[at] = random.next() as u8;
            }
            let id = server.store_file(name, "image/png", &bytes);
            let answer = server.download(&id, &[("thumbnail", "true")]);
            assert!(
                matches!(answer.status, 200 | 404),
                "{name}: {} {}",
                answer.status,
                answer.text()
            );
        }
    }
}

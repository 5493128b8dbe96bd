//! Identification of clients: addresses, trusted and untrusted proxies, and large numbers of clients.

use std::net::Ipv4Addr;

use super::{ONE, burst, call, get, is_refused, share};
use crate::support::{BASE, TestServer, open_from, poll};

#[test]
fn addresses_count_apart_except_exempt() {
    let server = TestServer::with(&format!("{ONE}exempt = [\"127.0.3.0/24\", \"127.0.4.4\"]"));
    let path = format!("{BASE}/chatfiles/x");
    for (from, limited) in [
        ([127, 0, 0, 1], true),
        ([127, 0, 0, 2], true),
        ([127, 1, 0, 1], true),
        ([127, 0, 3, 1], false),
        ([127, 0, 3, 254], false),
        ([127, 0, 4, 4], false),
        ([127, 0, 4, 5], true),
    ] {
        let mut connection = open_from(server.address, from.into(), None);
        assert_eq!(
            share(&mut connection, &get(&path), &get(&path)),
            limited,
            "{from:?}"
        );
    }
    // Another connection from the same address belongs to the same client.
    let mut connection = open_from(server.address, [127, 0, 0, 9].into(), None);
    let mut another = open_from(server.address, [127, 0, 0, 9].into(), None);
    assert!(!is_refused(&burst(&mut connection, &[get(&path)]).0[0]));
    assert!(is_refused(&burst(&mut another, &[get(&path)]).0[0]));
}

#[test]
fn client_is_rightmost_untrusted_address() {
    let trusted = "trusted_proxies = [\"127.0.0.1\", \"10.0.0.0/8\", \"fd00::/8\"]";
    let server = TestServer::with(&format!("{ONE}{trusted}"));
    let mut connection = server.connect();
    let path = format!("{BASE}/chatfiles/x");
    let from = |value: &str| {
        let lines: Vec<_> = value
            .split('|')
            .map(|line| ("X-Forwarded-For", line))
            .collect();
        call("GET", &path, &lines, b"")
    };
    for (first, second, expected) in [
        ("192.0.2.1", "192.0.2.1", true),
        ("192.0.2.2", "192.0.2.3", false),
        // Values from the client are further left.
        ("192.0.2.4", "6.6.6.6, 192.0.2.4", true),
        ("7.7.7.7, 192.0.2.5", "8.8.8.8, 192.0.2.5", true),
        ("9.9.9.9, 192.0.2.6", "9.9.9.9, 192.0.2.7", false),
        // Further trusted proxies are skipped.
        (
            "192.0.2.8, 10.1.2.3",
            "192.0.2.8, 10.3.2.1, 127.0.0.1",
            true,
        ),
        ("192.0.2.9, fd00::1", "192.0.2.9", true),
        ("192.0.2.10, 11.0.0.1", "192.0.2.11, 11.0.0.1", true),
        // Several header lines form one list.
        ("1.1.1.1|192.0.2.12", "2.2.2.2|192.0.2.12", true),
        // A subscriber has a whole /64.
        ("2001:db8:1:1::1", "2001:db8:1:1:ffff:ffff:ffff:ffff", true),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", false),
        ("::ffff:192.0.2.13", "192.0.2.13", true),
    ] {
        assert_eq!(
            share(&mut connection, &from(first), &from(second)),
            expected,
            "{first} {second}"
        );
    }
    // Without the header, the proxy is the client.
    assert!(share(&mut connection, &get(&path), &get(&path)));
}

#[test]
fn forwarded_header_when_configured() {
    let trusted = "trusted_proxies = [\"127.0.0.1\"]\nforwarded_header = \"forwarded\"";
    let server = TestServer::with(&format!("{ONE}{trusted}"));
    let mut connection = server.connect();
    let path = format!("{BASE}/chatfiles/x");
    let from = |forwarded: &str, other: &str| {
        let lines = [("Forwarded", forwarded), ("X-Forwarded-For", other)];
        call("GET", &path, &lines, b"")
    };
    for (first, second, expected) in [
        (
            from("for=192.0.2.1", "1.1.1.1"),
            from("for=192.0.2.1", "2.2.2.2"),
            true,
        ),
        (
            from("for=192.0.2.2", "1.1.1.1"),
            from("for=192.0.2.3", "1.1.1.1"),
            false,
        ),
        (
            from("for=\"[2001:db8::1]:4711\";proto=https", "x"),
            from("for=6.6.6.6, For=\"[2001:db8::2]\"", "y"),
            true,
        ),
    ] {
        assert_eq!(share(&mut connection, &first, &second), expected);
    }
}

#[test]
fn untrusted_peer_headers_are_ignored() {
    let path = format!("{BASE}/chatfiles/x");
    let from = |value: &str| {
        let lines = [
            ("X-Forwarded-For", value),
            ("Forwarded", &format!("for={value}")),
        ];
        call("GET", &path, &lines, b"")
    };
    for trusted in ["", "trusted_proxies = [\"127.0.0.2\"]"] {
        let server = TestServer::with(&format!("{ONE}{trusted}"));
        assert!(
            share(
                &mut server.connect(),
                &from("192.0.2.1"),
                &from("192.0.2.2")
            ),
            "{trusted}"
        );
    }
    // Nor does it exempt anybody.
    let server = TestServer::with(&format!("{ONE}exempt = [\"192.0.2.0/24\"]"));
    assert!(share(
        &mut server.connect(),
        &from("192.0.2.1"),
        &from("192.0.2.1")
    ));
    let trusted = format!("{ONE}exempt = [\"192.0.2.0/24\"]\ntrusted_proxies = [\"127.0.0.1\"]");
    let server = TestServer::with(&trusted);
    assert!(!share(
        &mut server.connect(),
        &from("192.0.2.1"),
        &from("192.0.2.1")
    ));
}

/// The address of the `number`-th client; every third one has IPv6.
fn client(number: u32) -> String {
    if number.is_multiple_of(3) {
        format!("2001:db8:{:x}:{:x}::1", number >> 16, number & 0xffff)
    } else {
        Ipv4Addr::from_bits(0x3000_0000 + number).to_string()
    }
}

#[test]
fn many_clients_count_separately() {
    let server = TestServer::with(&format!("{ONE}trusted_proxies = [\"127.0.0.1\"]"));
    let path = format!("{BASE}/chatfiles/x");
    let mut connection = server.connect();
    let mut judged = 0;
    for hundred in 0..60 {
        let calls: Vec<_> = (hundred * 100..(hundred + 1) * 100)
            .flat_map(|number| {
                let call = call("GET", &path, &[("X-Forwarded-For", &client(number))], b"");
                [call.clone(), call]
            })
            .collect();
        let (answers, seconds) = burst(&mut connection, &calls);
        // On a machine this slow, the buckets refill in between.
        if seconds > 0.9 {
            continue;
        }
        judged += 1;
        for (place, answer) in answers.iter().enumerate() {
            assert_eq!(is_refused(answer), place % 2 == 1, "{hundred} {place}");
        }
    }
    assert!(
        judged > 30,
        "{judged} of 60 bursts were fast enough to tell"
    );
}

#[test]
fn full_table_still_limits() {
    let settings = "trusted_proxies = [\"127.0.0.1\"]\naddresses_max = 16";
    let server = TestServer::with(&format!("{ONE}{settings}"));
    let path = format!("{BASE}/chatfiles/x");
    let mut connection = server.connect();
    let from = |number: u32| call("GET", &path, &[("X-Forwarded-For", &client(number))], b"");
    let mut passed = 0;
    for hundred in 0..60 {
        let calls: Vec<_> = (hundred * 100..(hundred + 1) * 100).map(from).collect();
        let (answers, _) = burst(&mut connection, &calls);
        passed += answers.iter().filter(|answer| !is_refused(answer)).count();
    }
    // Some clients share a bucket, most do not.
    assert!((1000..6000).contains(&passed), "{passed}");
    // A client without its own bucket is still limited.
    let (answers, seconds) = burst(&mut connection, &[from(9999), from(9999), from(9999)]);
    assert!(answers.iter().filter(|answer| !is_refused(answer)).count() <= 1 || seconds > 0.9);
    poll("a new client is served", || {
        !is_refused(&burst(&mut connection, &[from(123_456)]).0[0])
    });
}

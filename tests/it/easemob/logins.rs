//! Password guessing: it is slow for the attacker, and others do not notice.

#![allow(
    clippy::print_stdout,
    reason = "figures of an attack, shown on request"
)]

use std::{
    net::Ipv4Addr,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use chatfiles::{auth::password, time::Clock};
use serde_json::json;

use crate::support::{Answer, Connection, TestServer, assert_error, head, open_from};

const TENANT_A: &str = "/a-org/a-app";
const TENANT_B: &str = "/b-org/b-app";
/// Accounts of each tenant.
const ACCOUNTS: usize = 11;
/// Guesses without delay, per account and address.
const FREE: usize = 10;

/// Two tenants with accounts `u0` to `u10`, whose password is `correct horse`.
fn server() -> TestServer {
    // One hash for all, because hashing is slow.
    let hash = password::hash("correct horse").unwrap();
    let tenant = |name: &str| {
        let accounts: String = (0..ACCOUNTS)
            .map(|at| format!("[[tenant.account]]\nname = \"u{at}\"\npassword_hash = \"{hash}\"\n"))
            .collect();
        format!(
            "[[tenant]]\norg = \"{name}-org\"\napp = \"{name}-app\"\nclient_id = \"{name}-id\"\n\
             client_secret = \"q7Jm2ZxV0pYc9TnR4sKdW6uEaHbL1fG{name}\"\n{accounts}"
        )
    };
    TestServer::with(&format!("{}{}", tenant("a"), tenant("b")))
}

/// A loopback address.
fn address(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 7, u8::try_from(number).unwrap())
}

fn ask(connection: &mut Connection, tenant: &str, body: &serde_json::Value) -> Answer {
    connection.request(
        "POST",
        &format!("{tenant}/token"),
        &[("Content-Type", "application/json")],
        body.to_string().as_bytes(),
    )
}

fn login(connection: &mut Connection, tenant: &str, account: usize, password: &str) -> Answer {
    let body = json!({
        "grant_type": "password", "username": format!("u{account}"), "password": password,
    });
    ask(connection, tenant, &body)
}

fn client_credentials(connection: &mut Connection, tenant: &str, secret: &str) -> Answer {
    let id = format!("{}-id", &tenant[1..2]);
    let body =
        json!({ "grant_type": "client_credentials", "client_id": id, "client_secret": secret });
    ask(connection, tenant, &body)
}

/// The contract's text for too many requests, with the seconds until the next attempt.
#[track_caller]
fn refused_secs(answer: &Answer) -> u64 {
    assert_error(answer, 503, "reach_limit");
    let after = answer.header("retry-after").expect("a retry delay");
    after.parse().expect("seconds")
}

#[test]
fn account_guesses_back_off() {
    let server = server();
    let mut attacker = open_from(server.address, address(1), None);
    for guess in 0..FREE {
        let answer = login(&mut attacker, TENANT_A, 0, &format!("guess {guess}"));
        assert_error(&answer, 400, "invalid_grant");
    }
    // The correct password is refused as well: the response must not confirm a guess.
    for password in ["guess", "correct horse"] {
        let secs = refused_secs(&login(&mut attacker, TENANT_A, 0, password));
        assert!((1..=4).contains(&secs), "{password}: {secs}");
    }
    // Other addresses, accounts and tenants are not affected.
    let mut owner = open_from(server.address, address(2), None);
    assert_eq!(login(&mut owner, TENANT_A, 0, "correct horse").status, 200);
    assert_eq!(
        login(&mut attacker, TENANT_A, 1, "correct horse").status,
        200
    );
    assert_eq!(
        login(&mut attacker, TENANT_B, 0, "correct horse").status,
        200
    );
    // After the delay, one more guess is allowed, and then the delay doubles.
    let mut answer = login(&mut attacker, TENANT_A, 0, "guess");
    while answer.status == 503 {
        std::thread::sleep(Duration::from_millis(20));
        answer = login(&mut attacker, TENANT_A, 0, "guess");
    }
    assert_error(&answer, 400, "invalid_grant");
    let secs = refused_secs(&login(&mut attacker, TENANT_A, 0, "correct horse"));
    assert!((5..=8).contains(&secs), "{secs}");
}

#[test]
fn client_secret_guesses_back_off() {
    let server = server();
    let good = "q7Jm2ZxV0pYc9TnR4sKdW6uEaHbL1fGa";
    let mut attacker = open_from(server.address, address(1), None);
    for guess in 0..FREE {
        let answer = client_credentials(&mut attacker, TENANT_A, &format!("guess {guess}"));
        assert_error(&answer, 400, "invalid_grant");
    }
    for secret in ["guess", good] {
        refused_secs(&client_credentials(&mut attacker, TENANT_A, secret));
    }
    // The backend continues, and so do its users behind the attacker's address.
    let mut backend = open_from(server.address, address(2), None);
    assert_eq!(client_credentials(&mut backend, TENANT_A, good).status, 200);
    assert_eq!(
        login(&mut attacker, TENANT_A, 1, "correct horse").status,
        200
    );
}

/// Guesses the password of the account `u0` of tenant A from each address until one is refused. Returns how many were
/// checked.
fn guess_from(server: &TestServer, addresses: std::ops::Range<usize>) -> usize {
    let mut checked = 0;
    for number in addresses {
        let mut attacker = open_from(server.address, address(number), None);
        // A limit, so that the test ends even without the limit under test.
        for _ in 0..=FREE {
            match login(&mut attacker, TENANT_A, 0, "guess").status {
                400 => checked += 1,
                503 => break,
                other => panic!("{other}"),
            }
        }
    }
    checked
}

#[test]
fn attacked_account_stays_open_to_owner() {
    let server = server();
    let login_from = |number: usize| {
        let mut connection = open_from(server.address, address(number), None);
        login(&mut connection, TENANT_A, 0, "correct horse")
    };
    assert_eq!(login_from(250).status, 200);
    // Twenty addresses: their first guesses, fifty in total. One more per minute on a slow machine.
    let checked = guess_from(&server, 1..21);
    assert!((70..=72).contains(&checked), "{checked}");
    // They lock the owner out only at their own addresses.
    for number in 201..=203 {
        assert_eq!(login_from(number).status, 200, "{number}");
    }
    refused_secs(&login_from(1));
    // Addresses in large numbers have a limit too.
    let checked = guess_from(&server, 21..80);
    assert!((30..=34).contains(&checked), "{checked}");
    refused_secs(&login_from(204));
    let mut another = open_from(server.address, address(204), None);
    assert_eq!(
        login(&mut another, TENANT_A, 1, "correct horse").status,
        200
    );
    // At an address where the owner has logged in before, nothing has changed.
    for number in [250, 201, 250] {
        assert_eq!(login_from(number).status, 200, "{number}");
    }
}

#[test]
fn guesses_elsewhere_do_not_block_backend() {
    let server = server();
    let good = "q7Jm2ZxV0pYc9TnR4sKdW6uEaHbL1fGa";
    for number in 1..=12 {
        let mut attacker = open_from(server.address, address(number), None);
        for guess in 0..=FREE {
            let answer = client_credentials(&mut attacker, TENANT_A, "guess");
            let status = if guess < FREE { 400 } else { 503 };
            assert_eq!(answer.status, status, "{number} {guess}");
        }
    }
    let mut backend = open_from(server.address, address(200), None);
    assert_eq!(client_credentials(&mut backend, TENANT_A, good).status, 200);
}

#[test]
fn one_address_cannot_guess_everywhere() {
    let server = server();
    let mut neighbour = open_from(server.address, address(1), None);
    assert_eq!(
        login(&mut neighbour, TENANT_A, 10, "correct horse").status,
        200
    );
    let mut checked = 0;
    let mut attacker = open_from(server.address, address(1), None);
    'attack: for _ in 0..FREE {
        for account in 0..10 {
            match login(&mut attacker, TENANT_A, account, "guess").status {
                400 => checked += 1,
                503 => break 'attack,
                other => panic!("{other}"),
            }
        }
    }
    // And one more per minute on a slow machine.
    assert!((50..=52).contains(&checked), "{checked}");
    // Users who have logged in from there before get in; others wait.
    assert_eq!(
        login(&mut neighbour, TENANT_A, 10, "correct horse").status,
        200
    );
    refused_secs(&login(&mut neighbour, TENANT_A, 9, "correct horse"));
    assert_eq!(
        login(&mut neighbour, TENANT_B, 9, "correct horse").status,
        200
    );
}

/// Attacks all accounts of tenant A from many addresses with ten connections each. Meanwhile the eleven users of tenant
/// B log in one after the other. Returns how many succeeded.
fn logins_of_b_under_attack(addresses: usize) -> usize {
    let server = server();
    let (stop, waiting) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (checked, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let clock = Clock::system();
    std::thread::scope(|scope| {
        for number in 0..addresses * 10 {
            let (server, stop, waiting) = (&server, &stop, &waiting);
            let (checked, refused) = (&checked, &refused);
            scope.spawn(move || {
                let mut connection = open_from(server.address, address(1 + number / 10), None);
                for guess in 0.. {
                    waiting.fetch_add(1, Ordering::Relaxed);
                    let account = (number + guess) % ACCOUNTS;
                    let answer = login(&mut connection, TENANT_A, account, "guess");
                    match answer.status {
                        400 => checked.fetch_add(1, Ordering::Relaxed),
                        503 => refused.fetch_add(1, Ordering::Relaxed),
                        other => panic!("{other}: {}", answer.text()),
                    };
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                }
            });
        }
        while waiting.load(Ordering::Relaxed) < addresses * 10 {
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut user = open_from(server.address, address(200), None);
        let mut slowest = Duration::ZERO;
        let passed = (0..ACCOUNTS)
            .filter(|account| {
                let started = clock.monotonic();
                let answer = login(&mut user, TENANT_B, *account, "correct horse");
                slowest = slowest.max(clock.monotonic() - started);
                answer.status == 200
            })
            .count();
        stop.store(true, Ordering::Relaxed);
        println!(
            "{addresses} addresses: {passed} of {ACCOUNTS} logins, slowest {slowest:?}; guesses checked {}, refused {}",
            checked.load(Ordering::Relaxed),
            refused.load(Ordering::Relaxed)
        );
        passed
    })
}

#[test]
fn attack_spares_other_tenants() {
    for addresses in [8, 16] {
        assert_eq!(logins_of_b_under_attack(addresses), ACCOUNTS, "{addresses}");
    }
}

/// `head` keeps the connection; the next request on it must be answered as well.
#[test]
fn refused_guess_keeps_connection() {
    let server = server();
    let mut attacker = open_from(server.address, address(1), None);
    for _ in 0..=FREE {
        login(&mut attacker, TENANT_A, 0, "guess");
    }
    attacker.send(&head("GET", "/healthz", &[], None)).unwrap();
    assert_eq!(attacker.answer("GET").unwrap().status, 200);
}

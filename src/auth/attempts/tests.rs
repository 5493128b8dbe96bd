//! How many guesses are allowed, and what they mean for other users.

use super::*;
use crate::time::Clock;

const ALICE: Account<'_> = Account::User("alice");

struct Setup {
    attempts: Attempts,
    now: Instant,
}

fn setup() -> Setup {
    let exempt = vec!["10.0.0.0/8".parse().unwrap()];
    Setup {
        attempts: Attempts::new(exempt),
        now: Clock::system().monotonic(),
    }
}

impl Setup {
    fn caller(&self, client: &str) -> Caller {
        self.attempts.caller(0, client.parse().unwrap())
    }

    /// Makes an attempt and counts it. Returns whether it was allowed.
    fn attempt(&self, account: Account<'_>, client: &str, is_right: bool) -> bool {
        let caller = self.caller(client);
        let is_checked = self.attempts.check(account, caller, self.now).is_ok();
        if is_checked {
            self.attempts.record(account, caller, is_right, self.now);
        }
        is_checked
    }

    /// Guesses until one is refused. Returns how many were allowed.
    fn guess(&self, account: Account<'_>, client: &str) -> u32 {
        let mut checked = 0;
        while self.attempt(account, client, false) {
            checked += 1;
            assert!(checked < 1000, "guesses are not limited");
        }
        checked
    }

    fn wait(&self, account: Account<'_>, client: &str) -> Duration {
        match self.attempts.check(account, self.caller(client), self.now) {
            Ok(()) => Duration::ZERO,
            Err(error) => match error.kind() {
                Kind::RateLimited(after) => after,
                other => panic!("{other:?}"),
            },
        }
    }
}

#[test]
fn delays_double_up_to_a_bound() {
    let mut setup = setup();
    assert_eq!(setup.guess(ALICE, "192.0.2.1"), PAIR_FREE);
    let mut waits = Vec::new();
    for _ in 0..10 {
        let wait = setup.wait(ALICE, "192.0.2.1");
        waits.push(wait.as_secs());
        setup.now += wait - Duration::from_nanos(1);
        assert!(
            !setup.attempt(ALICE, "192.0.2.1", true),
            "a moment too early"
        );
        setup.now += Duration::from_nanos(1);
        assert!(setup.attempt(ALICE, "192.0.2.1", false));
    }
    assert_eq!(waits, [4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
    // Any number of refused attempts changes nothing.
    let wait = setup.wait(ALICE, "192.0.2.1");
    for _ in 0..1000 {
        assert!(!setup.attempt(ALICE, "192.0.2.1", false));
    }
    assert_eq!(setup.wait(ALICE, "192.0.2.1"), wait);
    // A right password resets the count.
    setup.now += wait;
    assert!(setup.attempt(ALICE, "192.0.2.1", true));
    assert_eq!(setup.guess(ALICE, "192.0.2.1"), PAIR_FREE);
    // A day without attempts does too.
    setup.now += PAIR_MEMORY;
    assert_eq!(setup.guess(ALICE, "192.0.2.1"), PAIR_FREE);
}

#[test]
fn counts_accounts_tenants_and_clients_separately() {
    let setup = setup();
    assert_eq!(setup.guess(ALICE, "192.0.2.1"), PAIR_FREE);
    assert!(setup.attempt(ALICE, "192.0.2.2", true));
    assert!(setup.attempt(Account::User("bob"), "192.0.2.1", true));
    assert!(setup.attempt(Account::Backend, "192.0.2.1", true));
    let elsewhere = setup.attempts.caller(1, "192.0.2.1".parse().unwrap());
    assert!(setup.attempts.check(ALICE, elsewhere, setup.now).is_ok());
    // IPv4 in IPv6 is IPv4; an IPv6 /64 is one client.
    assert!(!setup.attempt(ALICE, "::ffff:192.0.2.1", true));
    assert_eq!(setup.guess(ALICE, "2001:db8::1"), PAIR_FREE);
    assert!(!setup.attempt(ALICE, "2001:db8::ffff", true));
    assert!(setup.attempt(ALICE, "2001:db8:0:1::1", true));
}

#[test]
fn limits_account_over_all_addresses() {
    let mut setup = setup();
    assert!(
        setup.attempt(ALICE, "198.51.100.1", true),
        "the owner's address"
    );
    let guess_everywhere = |setup: &Setup| -> u32 {
        (1..=100)
            .map(|number| setup.guess(ALICE, &format!("192.0.2.{number}")))
            .sum()
    };
    // First guesses, and further ones.
    assert_eq!(guess_everywhere(&setup), 2 * SUM_FREE);
    // The owner can log in from the known address, and has to wait at a new one.
    assert!(setup.attempt(ALICE, "198.51.100.1", true));
    assert_eq!(setup.wait(ALICE, "198.51.100.2"), SUM_INTERVAL);
    // Guesses from the owner's address are limited too.
    assert_eq!(setup.guess(ALICE, "198.51.100.1"), PAIR_FREE);
    // One guess per minute of each kind, from any number of addresses, the owner's included.
    setup.now += SUM_INTERVAL * PAIR_FREE;
    guess_everywhere(&setup);
    for _ in 0..5 {
        setup.now += SUM_INTERVAL;
        let guesses = guess_everywhere(&setup);
        assert!((1..=2).contains(&guesses), "{guesses}");
    }
    // After an hour without guesses, fifty are free again, and first guesses from as many addresses as there are.
    setup.now += SUM_INTERVAL * (SUM_FREE + 11);
    let guesses = guess_everywhere(&setup);
    assert!((SUM_FREE..=2 * SUM_FREE).contains(&guesses), "{guesses}");
    // An address is known for 30 days.
    setup.now += KNOWN;
    guess_everywhere(&setup);
    assert!(setup.wait(ALICE, "198.51.100.1") > Duration::ZERO);
}

#[test]
fn few_addresses_cannot_lock_out_owner() {
    let mut setup = setup();
    // Twenty addresses and a whole IPv6 /48 guess as often as they are allowed.
    let addresses: Vec<_> = (0..20)
        .map(|number| format!("192.0.2.{number}"))
        .chain((0..200).map(|number| format!("2001:db8:1:{number:x}::1")))
        .collect();
    let mut checked = 0;
    for minute in 0..600 {
        checked += addresses
            .iter()
            .map(|client| setup.guess(ALICE, client))
            .sum::<u32>();
        let new_address = format!("198.51.{}.{}", minute / 250, minute % 250);
        assert!(setup.attempt(ALICE, &new_address, true), "minute {minute}");
        setup.now += SUM_INTERVAL;
    }
    // Their guesses: the first ones, fifty, and one per minute.
    assert!(checked <= 21 + SUM_FREE + 600, "{checked}");
}

#[test]
fn backend_cannot_be_locked_out() {
    let setup = setup();
    for number in 0..100 {
        let guesses = setup.guess(Account::Backend, &format!("192.0.2.{number}"));
        assert_eq!(guesses, PAIR_FREE);
    }
    assert!(setup.attempt(Account::Backend, "198.51.100.1", true));
    // Nor by a client behind the same address that guesses passwords.
    assert_eq!(setup.guess(Account::Unknown, "198.51.100.2"), SUM_FREE);
    assert!(setup.attempt(Account::Backend, "198.51.100.2", true));
}

#[test]
fn other_logins_keep_known_addresses() {
    let setup = setup();
    assert!(setup.attempt(ALICE, "198.51.100.1", true));
    // An attacker with an account and many networks.
    let mallory = Account::User("mallory");
    for number in 0..2 * SHARD_ENTRIES_MAX {
        let client = format!("2001:db8:1:{number:x}::1");
        assert!(setup.attempt(mallory, &client, true));
    }
    for number in 0..100 {
        setup.guess(ALICE, &format!("192.0.2.{number}"));
    }
    assert!(setup.wait(ALICE, "198.51.100.2") > Duration::ZERO);
    assert!(setup.attempt(ALICE, "198.51.100.1", true));
    // The sixteen most recent addresses of an account are known.
    for number in 1..=HOMES_MAX {
        let home = format!("203.0.113.{number}");
        let caller = setup.caller(&home);
        setup.attempts.record(ALICE, caller, true, setup.now);
    }
    assert!(setup.attempt(ALICE, "203.0.113.1", true));
    assert!(!setup.attempt(ALICE, "198.51.100.1", true));
}

#[test]
fn limits_address_over_all_accounts() {
    let setup = setup();
    let neighbour = Account::User("neighbour");
    assert!(setup.attempt(neighbour, "192.0.2.1", true));
    let guess_everybody = |client: &str| -> u32 {
        (0..100)
            .map(|number| setup.guess(Account::User(&format!("user{number}")), client))
            .sum()
    };
    assert_eq!(guess_everybody("192.0.2.1"), SUM_FREE);
    assert!(setup.attempt(neighbour, "192.0.2.1", true));
    assert!(!setup.attempt(ALICE, "192.0.2.1", true));
    // Unknown user names count too.
    assert_eq!(setup.guess(Account::Unknown, "192.0.2.3"), SUM_FREE);
    assert!(!setup.attempt(ALICE, "192.0.2.3", true));
    // The backend's own servers have only the bound of each account.
    assert_eq!(guess_everybody("10.1.2.3"), 100 * PAIR_FREE);
}

#[test]
fn tables_are_bounded() {
    let setup = setup();
    let address = |number: usize| {
        format!(
            "192.{}.{}.{}",
            number >> 16,
            number >> 8 & 255,
            number & 255
        )
    };
    assert!(setup.attempt(ALICE, "198.51.100.1", true));
    // Each for another account, so that only the bounds of the tables apply.
    let all = SHARDS * SHARD_ENTRIES_MAX;
    for number in 0..all + all / 4 {
        let account = number.to_string();
        setup.attempt(Account::User(&account), &address(1000 + number), false);
    }
    fn len<K: Hash, V>(table: &Table<K, V>) -> usize {
        let shards = table.shards.iter();
        shards.map(|shard| shard.lock().len()).sum()
    }
    assert_eq!(len(&setup.attempts.homes), 1);
    assert!((all / 2..=all).contains(&len(&setup.attempts.pairs)));
    assert!((all / 2..=all).contains(&len(&setup.attempts.seen)));
    assert!((all / 2..=all).contains(&len(&setup.attempts.sums)));
    let owner = setup.caller("198.51.100.1");
    assert!(setup.attempts.is_known(ALICE, owner, setup.now));
}

#[test]
fn entries_fit_planned_size() {
    assert!(size_of::<((AccountId, Claimant), Pair)>() <= 100);
    assert!(size_of::<(Sum, Instant)>() <= 100);
    assert!(size_of::<((AccountId, IpAddr), Instant)>() <= 100);
    assert!(size_of::<(AccountId, Homes)>() <= 100);
    assert!(size_of::<(Claimant, Instant)>() <= 40);
}

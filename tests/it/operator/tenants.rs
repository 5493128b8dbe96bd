//! Counters by tenant: exact for each tenant, and bounded in number.

use std::collections::BTreeMap;

use chatfiles::metrics::TENANTS_MAX;

use super::OPERATOR;
use crate::support::{Exposition, Form, TestServer, configuration};

const REQUESTS: &str = "chatfiles_tenant_requests_total";
const RECEIVED: &str = "chatfiles_tenant_request_body_bytes_total";
const SENT: &str = "chatfiles_tenant_response_body_bytes_total";
const REFUSALS: &str = "chatfiles_tenant_refusals_total";

/// `[[tenant]]` tables with these names, all in the organization `org`.
fn tenants<'a>(apps: impl IntoIterator<Item = &'a str>) -> String {
    let table = |app: &str| format!("[[tenant]]\norg = \"org\"\napp = \"{app}\"\n");
    apps.into_iter().map(table).collect()
}

/// Requests by the tenant label.
fn requests(scrape: &Exposition) -> BTreeMap<String, u64> {
    let series = scrape.samples.iter().filter_map(|(series, count)| {
        let label = series.strip_prefix(REQUESTS)?.strip_prefix("{tenant=\"")?;
        Some((label.strip_suffix("\"}")?.to_owned(), *count as u64))
    });
    series.collect()
}

/// A download that is refused, because it has no token.
fn call(server: &TestServer, org: &str, app: &str) -> usize {
    let path = format!("/{org}/{app}/chatfiles/01000000-0000-7000-8000-000000000000");
    server.get(&path, &[]).body.len()
}

#[test]
fn tenants_are_counted_apart() {
    let limits = "[limits]\ncalls_per_second = 1\ncalls_burst = 1000\n";
    let slow = "[[tenant]]\norg = \"org\"\napp = \"slow\"\ncalls_burst = 1\n";
    let quota = "[[tenant]]\norg = \"org\"\napp = \"small\"\nupload_bytes_per_day = 10\n";
    let one = tenants(["one", "quiet"]);
    let server = TestServer::with(&format!("{OPERATOR}{limits}{one}{slow}{quota}"));
    let sent = call(&server, "org", "one") + call(&server, "org", "one");
    for _ in 0..3 {
        call(&server, "org", "slow");
    }
    call(&server, "org", "unknown");
    assert_eq!(server.get("/healthz", &[]).status, 200);
    let subject = chatfiles::auth::Subject::User("alice".into());
    let token = format!("Bearer {}", server.token_of("org", "small", subject));
    let form = Form::new().file("a.txt", "text/plain", b"more than ten bytes");
    let content_type = form.content_type();
    let headers = [("Authorization", &*token), ("Content-Type", &content_type)];
    let answer = server.request("POST", "/org/small/chatfiles", &headers, &form.bytes());
    assert_eq!(answer.status, 429, "{}", answer.text());

    let scrape = server.scrape();
    let expected = [
        ("none", 2),
        ("org/one", 2),
        ("org/slow", 3),
        ("org/small", 1),
    ];
    let expected = expected.map(|(tenant, count)| (tenant.to_owned(), count));
    assert_eq!(requests(&scrape), BTreeMap::from(expected));
    let of = |name: &str, tenant: &str| scrape.get(name, &[("tenant", tenant)]);
    assert_eq!(
        (of(SENT, "org/one"), of(RECEIVED, "org/one")),
        (sent as u64, 0)
    );
    assert_eq!(of(RECEIVED, "org/small"), form.bytes().len() as u64);
    let refused = |tenant: &str, reason: &str| {
        scrape.get(REFUSALS, &[("tenant", tenant), ("reason", reason)])
    };
    assert!(refused("org/slow", "rate") >= 1);
    assert_eq!(
        (refused("org/slow", "quota"), refused("org/one", "rate")),
        (0, 0)
    );
    assert_eq!(
        (refused("org/small", "quota"), refused("org/small", "rate")),
        (1, 0)
    );
}

#[test]
fn further_tenants_count_as_other() {
    let apps: Vec<String> = (0..TENANTS_MAX + 3)
        .map(|app| format!("app{app}"))
        .collect();
    let named = tenants(apps.iter().map(String::as_str));
    let server = TestServer::with(&format!("{OPERATOR}{named}"));
    for app in &apps {
        call(&server, "org", app);
    }
    let counted = requests(&server.scrape());
    assert_eq!(counted.len(), TENANTS_MAX as usize + 1);
    for (at, app) in apps.iter().enumerate() {
        let expected = (at < TENANTS_MAX as usize).then_some(&1);
        assert_eq!(counted.get(&format!("org/{app}")), expected, "{app}");
    }
    assert_eq!(counted["other"], 3);
}

#[test]
fn reload_keeps_counters_of_tenants() {
    let server = TestServer::with(&format!("{OPERATOR}{}", tenants(["one", "two"])));
    call(&server, "org", "one");
    call(&server, "org", "two");
    let reload = |apps: &[&str]| {
        let toml = format!("{OPERATOR}{}", tenants(apps.iter().copied()));
        let config = configuration(&server.store, &toml);
        server.reloader().reload(&config).unwrap();
    };
    // A removed tenant is no longer shown, and the next one does not get its counters.
    reload(&["three", "two"]);
    call(&server, "org", "two");
    call(&server, "org", "three");
    let expected = [("org/three", 1), ("org/two", 2)];
    let expected = expected.map(|(tenant, count)| (tenant.to_owned(), count));
    assert_eq!(requests(&server.scrape()), BTreeMap::from(expected));
}

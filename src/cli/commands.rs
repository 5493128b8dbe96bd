//! The commands of the command line, except those that remove or verify files (`upkeep.rs`).

use std::{
    io::{IsTerminal, Read},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use hyper::{Request, StatusCode};
use tokio::{runtime::Builder, time::timeout};

use super::{
    arguments::{self, ServeArgs, StoreTokenArgs, TokenArgs},
    expected, explained, print, say,
    store::{run, runtime, store},
    upkeep, warn, welcome,
};
use crate::{
    api::lanying::{is_id, store_token},
    app::{self, App, Reloader, SecretStore},
    auth::{KeyRing, Subject, is_user_name, keyring, password, token},
    config::{Config, TenantConfig},
    error::{Error, Kind, Result},
    files,
    http_client::{self, HttpClient, RequestBody},
    logging, retention,
    server::{
        activation::{self, State},
        control,
        endpoint::Listener,
        shutdown::{self, Shutdown},
    },
    store::{Dialect, Key, Store},
    tenant::Tenant,
    time::{Clock, Timestamp},
};

/// Maximum number of threads for the disk; more would only wait for it. Other blocking work (decoders, ffmpeg, DNS) has
/// limits of its own and additional threads, so that downloads do not wait for it.
const DISK_THREADS_MAX: usize = 128;
/// How long disk work and decoding may run after everything else has ended.
const BLOCKING_GRACE: Duration = Duration::from_secs(5);
/// Time-out of the whole probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum size of the response to a health check.
const PROBE_BYTES_MAX: usize = 64 * 1024;

/// Runs the server. `load` reads the configuration again, for a reload.
pub(super) fn serve(
    config: Config,
    file: Option<PathBuf>,
    args: &ServeArgs,
    load: impl Fn() -> Result<Config> + Send + Sync + 'static,
) -> Result<ExitCode> {
    let activated = activation::sockets()?;
    // Dropped last: it writes the log lines that are still queued.
    let _log = logging::install(&config.log)?;
    let inherited = match args.take_over {
        true => control::take_over(&config.store.path)?,
        false => None,
    };
    let mut app = App::build(config.clone(), Clock::system(), inherited)?;
    app.activate(activated);
    let runtime = Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(blocking_threads_max(&config))
        .build()
        .map_err(Error::internal)?;
    runtime.block_on(async {
        let listeners = app.bind().await?;
        let endpoints = listeners.iter().map(Listener::endpoint);
        let (operator, capabilities) = (app.operator_address(), app.capabilities());
        let started = welcome::Started {
            config: &config,
            file: file.as_deref(),
            endpoints: endpoints.collect(),
            operator,
            capabilities,
        };
        let banner = started.banner(std::io::stdout().is_terminal());
        run_until_stopped(app, listeners, &banner, load).await
    })?;
    // Blocking work cannot be cancelled. After the grace period it ends with the process, which is as safe as a crash.
    runtime.shutdown_timeout(BLOCKING_GRACE);
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// Prints the banner, and serves until a signal says to stop. Tells the service manager about each change of state.
async fn run_until_stopped(
    app: App,
    listeners: Vec<Listener>,
    banner: &str,
    load: impl Fn() -> Result<Config> + Send + Sync + 'static,
) -> Result<()> {
    let shutdown = Shutdown::new();
    let signals = shutdown::on_signals(shutdown.clone())?;
    // After the handler is installed: a program that waits for the banner may send a signal at once.
    say(banner)?;
    let (reloader, load) = (app.reloader(), Arc::new(load));
    let hangups = shutdown::on_hangup(async || reload(reloader.clone(), load.clone()).await)?;
    let stopping = shutdown.clone();
    let stopping = async {
        stopping.triggered().await;
        activation::tell(State::Stopping);
        std::future::pending::<()>().await;
    };
    activation::tell(State::Ready);
    let mut run = std::pin::pin!(app.run(listeners, shutdown));
    tokio::select! {
        () = &mut run => {}
        () = hangups => {}
        () = stopping => {}
        // The second signal aborts the transfers; `run` returns soon.
        () = signals => run.await,
    }
    Ok(())
}

/// Reloads the configuration after SIGHUP. If anything is wrong, nothing changes.
async fn reload(
    reloader: Reloader,
    load: Arc<impl Fn() -> Result<Config> + Send + Sync + 'static>,
) {
    activation::tell(State::Reloading);
    let work = move || load().and_then(|config| reloader.reload(&config));
    let reloaded = tokio::task::spawn_blocking(work).await;
    match reloaded.map_err(Error::internal).flatten() {
        Ok(()) => tracing::info!("SIGHUP: reloaded tenants, retention and certificates"),
        Err(error) => {
            let why = explained(&error);
            tracing::error!(why, "SIGHUP: cannot reload; all settings stay as they are");
        }
    }
    activation::tell(State::Ready);
}

fn blocking_threads_max(config: &Config) -> usize {
    DISK_THREADS_MAX
        + config.files.decode_threads
        + config.files.ffmpeg.processes_max
        + http_client::LOOKUPS_MAX
}

pub(super) fn token(config: &Config, args: &TokenArgs) -> Result<ExitCode> {
    let tenant = tenant(config, args.tenant.as_deref())?;
    let subject = match args.user.as_deref() {
        None => Subject::App,
        Some(name) if is_user_name(name) => Subject::User(name.into()),
        Some(name) => {
            let rule = "1 to 128 bytes without /, white space and control characters";
            return Err(expected("--user", name, rule));
        }
    };
    store(config)?;
    let now = Clock::system().now();
    let ring = KeyRing::load(&config.keys_path(), now)?;
    let ttl = (args.ttl_seconds > 0).then(|| Duration::from_secs(args.ttl_seconds));
    let token = token::issue(&ring, tenant.name(), &subject, ttl, now)?;
    say(&token)
}

pub(super) fn store_token(config: &Config, args: &StoreTokenArgs) -> Result<ExitCode> {
    let tenant = tenant(config, args.tenant.as_deref())?;
    let key = Key::parse(&args.object)
        .ok_or_else(|| expected("object", &args.object, "class.YYYY-MM-DD.uuid"))?;
    if !is_id(&args.user) {
        let rule = "1 to 64 letters, digits and . _ @ -";
        return Err(expected("--user", &args.user, rule));
    }
    let store = store(config)?;
    let tenant = SecretStore::new(config.keys_path()).existing_tenant(tenant)?;
    let lanying = tenant.lanying.as_ref().ok_or_else(|| {
        let why = "is not served in the Lanying API, because app_id is not set";
        Error::invalid(format!("tenant {} {why}", tenant.name()))
    })?;
    let now = Clock::system().now();
    check_opens(config, &*store, &tenant, key, now)?;
    say(&store_token::issue(lanying, key, &args.user, now))
}

/// Checks that a store token of the tenant can open an object: otherwise its user finds out much later.
fn check_opens(
    config: &Config,
    store: &dyn Store,
    tenant: &Tenant,
    key: Key,
    now: Timestamp,
) -> Result<()> {
    let path = config.store.path.display();
    let why = match run(store.open(key))? {
        None => format!("there is no object {key} in the store {path}"),
        Some(object) if object.meta.tenant != tenant.name() => {
            let owner = &object.meta.tenant;
            format!("object {key} belongs to the tenant {owner}: use --tenant {owner}")
        }
        Some(object) if object.meta.dialect != Dialect::Lanying => {
            format!("object {key} was uploaded through the Easemob API, which has no store tokens")
        }
        Some(_) if retention::is_expired(Dialect::Lanying, key, &tenant.limits.retention, now) => {
            format!("object {key} has expired")
        }
        Some(_) => return Ok(()),
    };
    Err(Error::new(Kind::ObjectNotFound).public(why))
}

/// Finds the tenant by its name; the first one by default.
fn tenant<'c>(config: &'c Config, name: Option<&str>) -> Result<&'c TenantConfig> {
    let mut tenants = config.tenants.iter();
    let found = match name {
        None => tenants.next(),
        Some(name) => tenants.find(|tenant| tenant.name() == name),
    };
    found.ok_or_else(|| {
        let known: Vec<_> = config.tenants.iter().map(TenantConfig::name).collect();
        let (given, known) = (name.unwrap_or_default(), known.join(", "));
        Error::invalid(format!("--tenant {given}: must be one of {known}"))
    })
}

/// Prints the completion script of a shell.
pub(super) fn completions(shell: clap_complete::Shell) -> Result<ExitCode> {
    let mut script = Vec::new();
    let mut command = arguments::command();
    clap_complete::generate(shell, &mut command, "chatfiles", &mut script);
    print(&script)
}

/// Prints a manual page in the format of man(7).
pub(super) fn man(name: Option<&str>) -> Result<ExitCode> {
    let mut root = arguments::command();
    // Sets the names of the commands' pages, such as chatfiles-serve.
    root.build();
    let command = match name {
        None => &root,
        Some(name) => root.find_subcommand(name).ok_or_else(|| {
            let names: Vec<_> = root
                .get_subcommands()
                .map(clap::Command::get_name)
                .collect();
            expected("command", name, &format!("one of {}", names.join(", ")))
        })?,
    };
    let mut page = Vec::new();
    let man = clap_mangen::Man::new(command.clone());
    let man = man.source(format!("chatfiles {}", arguments::VERSION));
    man.render(&mut page).map_err(Error::internal)?;
    print(&page)
}

pub(super) fn hash_password() -> Result<ExitCode> {
    let mut text = String::new();
    let bytes_max = password::PASSWORD_BYTES_MAX as u64 + 2;
    std::io::stdin()
        .take(bytes_max + 1)
        .read_to_string(&mut text)
        .map_err(Error::internal)?;
    let password = text
        .strip_suffix('\n')
        .map_or(&*text, |text| text.strip_suffix('\r').unwrap_or(text));
    if password.is_empty() {
        return Err(Error::invalid(
            "expected a password on standard input: printf %s PASSWORD | chatfiles hash-password",
        ));
    }
    let advised = password::PASSWORD_BYTES_ADVISED;
    if password.len() < advised {
        let text = format!("the password has fewer than {advised} bytes and can be guessed");
        warn(&text);
    }
    say(&password::hash(password)?)
}

pub(super) fn check_config(config: &Config, probe: bool) -> Result<ExitCode> {
    let capabilities = files::capabilities(&config.files.ffmpeg);
    say(&welcome::policy(config, capabilities))?;
    for secret in config.weak_secrets() {
        say(&format!("warning: {secret}"))?;
    }
    if let Some(warning) = config.operator.warning() {
        say(&format!("warning: {warning}"))?;
    }
    match app::attach(config)? {
        Some(store) => say(&upkeep::sweep_plan(&*store, config)?)?,
        None => say("there is no store yet; `chatfiles serve` creates it")?,
    };
    match probe {
        true => self::probe(config),
        false => Ok(ExitCode::SUCCESS),
    }
}

/// Checks that the public URL leads to the server of this store.
fn probe(config: &Config) -> Result<ExitCode> {
    let not_set = || Error::invalid("--probe needs server.public_url, which is not set");
    let base = config.api.public_url.as_ref().ok_or_else(not_set)?;
    let url = format!("{base}/healthz");
    let failed = |what: &str| Error::internal(format!("{url}: {what}"));
    let body = get(&url).map_err(|error| failed(&error))?;
    let json: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    let reached = json["server"].as_str();
    let reached = reached.ok_or_else(|| failed("the response is not from chatfiles"))?;
    let expected = control::request(&config.store.path, &control::Command::Name)?;
    if expected.as_deref() != Some(reached) {
        return Err(failed("the response is from a server on another store"));
    }
    say(&format!("{url}: reached the server of this store"))
}

/// Requests a URL, and returns the body of a response with status 200.
fn get(url: &str) -> Result<Vec<u8>, String> {
    let client = HttpClient::new(PROBE_TIMEOUT);
    let exchange = async {
        let request = Request::get(url).body(RequestBody::default());
        let request = request.map_err(|_| http_client::Error::Url)?;
        let response = client.send(request).await?;
        let status = response.status();
        let body = http_client::read_body(response.into_body(), PROBE_BYTES_MAX).await?;
        Ok((status, body))
    };
    let runtime = runtime().map_err(|error| error.causes())?;
    let answered = runtime.block_on(async { timeout(PROBE_TIMEOUT, exchange).await });
    // Does not wait for a DNS lookup that hangs.
    runtime.shutdown_background();
    let answered = answered.map_err(|_| "no response in time".to_owned())?;
    match answered.map_err(|error: http_client::Error| error.to_string())? {
        (StatusCode::OK, body) => Ok(body),
        (status, _) => Err(format!("status {}", status.as_u16())),
    }
}

pub(super) fn rotate_keys(config: &Config, overlap_days: u64) -> Result<ExitCode> {
    store(config)?;
    let overlap = Duration::from_secs(overlap_days * 86_400);
    let kid = keyring::rotate(&config.keys_path(), Clock::system().now(), overlap)?;
    say(&format!(
        "new tokens are signed with key {kid}; the old keys stay valid for {overlap_days} days"
    ))
}

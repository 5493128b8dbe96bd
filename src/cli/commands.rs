//! What each command does.

use std::{
    fmt::Write,
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use hyper::{Request, StatusCode};
use tokio::time::timeout;

use super::{ServeArgs, StoreTokenArgs, TokenArgs, say, warn, welcome};
use crate::{
    api::lanying::{is_id, store_token},
    app::{self, App, Reloader},
    auth::{KeyRing, Subject, is_user_name, keyring, password, token},
    config::{self, Config, TenantConfig},
    error::{Error, Result},
    files,
    http_client::{self, HttpClient, RequestBody},
    logging,
    retention::{self, SweepMode},
    server::{
        activation::{self, State},
        control,
        endpoint::Listener,
        handover,
        shutdown::{self, Shutdown},
    },
    store::{Key, ObjectId, Store, Verified},
    time::{Clock, MS_PER_DAY},
};

/// Threads for the disk at the most; more would only wait for it. What else blocks (decoders, ffmpeg, lookups of names) has
/// bounds of its own, and threads of its own over these: downloads never wait for it.
const DISK_THREADS_MAX: usize = 128;
/// What disk work and decoding have to end by themselves, after everything else has ended.
const BLOCKING_GRACE: Duration = Duration::from_secs(5);
/// A probe's whole time.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a health check's answer.
const PROBE_BYTES_MAX: usize = 64 * 1024;

/// `load` reads the configuration again.
pub(super) fn serve(
    config: Config,
    file: Option<PathBuf>,
    args: &ServeArgs,
    load: impl Fn() -> Result<Config> + Send + Sync + 'static,
) -> Result<ExitCode> {
    let activated = activation::sockets()?;
    // Kept to the end: what waits is written when it goes.
    let _log = logging::install(&config.log)?;
    let inherited = match args.take_over {
        true => handover::take_over(&config.store.path)?,
        false => None,
    };
    let mut app = App::build(config.clone(), Clock::system(), inherited)?;
    app.activate(activated);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(blocking_threads_max(&config))
        .build()
        .map_err(Error::internal)?;
    runtime.block_on(async {
        let listeners = app.bind().await?;
        let shutdown = Shutdown::new();
        let signals = shutdown::on_signals(shutdown.clone())?;
        say(&welcome::text(
            &config,
            file.as_deref(),
            listeners.iter().map(Listener::endpoint),
            app.operator_address(),
            app.abilities(),
        ))?;
        let reloader = app.reloader();
        let load = Arc::new(load);
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
            // The second signal: what still runs was told to end now.
            () = signals => run.await,
        }
        Ok::<_, Error>(())
    })?;
    // Work on blocking threads cannot be cut short from outside; after the grace it is left to end with the
    // process, which is as safe as a crash.
    runtime.shutdown_timeout(BLOCKING_GRACE);
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// What a SIGHUP asks for. Where anything is wrong, all stays as it was, and it is said.
async fn reload(
    reloader: Reloader,
    load: Arc<impl Fn() -> Result<Config> + Send + Sync + 'static>,
) {
    activation::tell(State::Reloading);
    let work = move || load().and_then(|config| reloader.reload(&config));
    let reloaded = tokio::task::spawn_blocking(work).await;
    match reloaded.map_err(Error::internal).flatten() {
        Ok(()) => tracing::info!("SIGHUP: tenants, retention and certificates were read anew"),
        Err(error) => {
            let why = error
                .public_text()
                .map_or_else(|| error.causes(), str::to_owned);
            tracing::error!(why, "SIGHUP: the configuration stays as it was");
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
            return Err(config::bad("--user", format!("\"{name}\""), rule));
        }
    };
    store(config)?;
    let now = Clock::system().now();
    let ring = KeyRing::load(&config.keys_path(), now)?;
    let ttl = (args.ttl_seconds > 0).then(|| Duration::from_secs(args.ttl_seconds));
    say(&token::issue_by_name(
        &ring,
        tenant.name(),
        &subject,
        ttl,
        now,
    )?)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn store_token(config: &Config, args: &StoreTokenArgs) -> Result<ExitCode> {
    let tenant = tenant(config, args.tenant.as_deref())?;
    let key = Key::parse(&args.object)
        .ok_or_else(|| config::bad("object", &args.object, "class.YYYY-MM-DD.uuid"))?;
    if !is_id(&args.user) {
        return Err(config::bad(
            "--user",
            format!("\"{}\"", args.user),
            "1 to 64 of letters, digits and . _ @ -",
        ));
    }
    store(config)?;
    let keys = config.keys_path();
    let tenant = config::existing_tenant(tenant, &config.tenant_defaults, &keys)?;
    let lanying = tenant.lanying.as_ref().ok_or_else(|| {
        Error::invalid(format!(
            "tenant {} has no app_id: it is not served in the Lanying API",
            tenant.name()
        ))
    })?;
    say(&store_token::issue(
        lanying,
        key,
        &args.user,
        Clock::system().now(),
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// The tenant of that name, or the first.
fn tenant<'c>(config: &'c Config, name: Option<&str>) -> Result<&'c TenantConfig> {
    let mut tenants = config.tenants.iter();
    let found = match name {
        None => tenants.next(),
        Some(name) => tenants.find(|tenant| tenant.name() == name),
    };
    found.ok_or_else(|| {
        let known: Vec<_> = config.tenants.iter().map(TenantConfig::name).collect();
        let given = name.unwrap_or_default();
        Error::invalid(format!(
            "--tenant {given}: must be one of {}",
            known.join(", ")
        ))
    })
}

/// The store, which must exist: a command that made one in the wrong place would print tokens that no server accepts, or
/// say that there is nothing to remove.
fn store(config: &Config) -> Result<Arc<dyn Store>> {
    app::attach(config)?.ok_or_else(|| {
        let path = std::path::absolute(&config.store.path);
        Error::invalid(format!(
            "store.path = \"{}\": there is no store. Is its file system mounted? Else name your server's with \
             --config FILE or --store-path DIR; only `chatfiles serve` makes a new one",
            path.as_ref().unwrap_or(&config.store.path).display()
        ))
    })
}

/// Runs what a command asks of the store.
fn run<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.map_err(Error::internal)?.block_on(work)
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
            "no password on standard input: printf %s PASSWORD | chatfiles hash-password",
        ));
    }
    if password.len() < password::PASSWORD_BYTES_ADVISED {
        let advised = password::PASSWORD_BYTES_ADVISED;
        warn(&format!(
            "the password has fewer than {advised} bytes: it can be guessed"
        ));
    }
    say(&password::hash(password)?)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn check_config(config: &Config, probe: bool) -> Result<ExitCode> {
    say(&welcome::policy(
        config,
        files::abilities(&config.files.ffmpeg),
    ))?;
    for secret in config.weak_secrets() {
        say(&format!("warning: {secret}"))?;
    }
    let report = match app::attach(config)? {
        Some(store) => sweep_as(&*store, config, SweepMode::Report)?,
        None => retention::Report::default(),
    };
    say(&format!("a sweep would remove: {}", describe(&report)))?;
    if probe {
        self::probe(config)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether the public URL leads to the server of this store.
fn probe(config: &Config) -> Result<()> {
    let Some(base) = &config.api.public_url else {
        return Err(Error::invalid(
            "server.public_url is not set: there is nothing to probe",
        ));
    };
    let url = format!("{base}/healthz");
    let failed = |what: String| Error::internal(format!("{url}: {what}"));
    let body = get(&url).map_err(failed)?;
    let json: serde_json::Value = serde_json::from_slice(&body)
        .map_err(|_| failed("something answers, but no chatfiles".into()))?;
    let reached = json["server"]
        .as_str()
        .ok_or_else(|| failed("something answers, but no chatfiles".into()))?;
    let expected = control::request(&config.store.path, &control::Command::Name)?;
    if expected.as_deref() != Some(reached) {
        return Err(failed(
            "another server answers, not the one of this store".into(),
        ));
    }
    say(&format!("{url}: reached this store's server"))
}

/// The body of a response with status 200.
fn get(url: &str) -> Result<Vec<u8>, String> {
    let config = http_client::Config {
        connect_timeout: PROBE_TIMEOUT,
        idle_connections_max: 0,
    };
    let client = HttpClient::new(config, Clock::system());
    let exchange = async {
        let request = Request::get(url).body(RequestBody::default());
        let request = request.map_err(|_| http_client::Error::Url)?;
        let response = client.send(request).await?;
        let status = response.status();
        Ok((status, response.into_body().read(PROBE_BYTES_MAX).await?))
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let answered = runtime.block_on(async { timeout(PROBE_TIMEOUT, exchange).await });
    // A lookup that hangs is left behind.
    runtime.shutdown_background();
    let answered = answered.map_err(|_| "no answer in time".to_owned())?;
    match answered.map_err(|error: http_client::Error| error.to_string())? {
        (StatusCode::OK, body) => Ok(body),
        (status, _) => Err(format!("status {}", status.as_u16())),
    }
}

pub(super) fn sweep(config: &Config, yes: bool) -> Result<ExitCode> {
    let mode = match yes {
        true => SweepMode::RemoveConfirmed,
        false => SweepMode::Remove,
    };
    let report = sweep_as(&*store(config)?, config, mode)?;
    if let Some(jump_ms) = report.refused {
        let why = match jump_ms {
            Some(ms) => format!("the clock is {} days from the last sweep", ms / MS_PER_DAY),
            None => "no earlier sweep is remembered".into(),
        };
        say(&format!(
            "nothing was removed: {why}. If the clock is right: chatfiles sweep --yes"
        ))?;
        say(&format!("it would remove: {}", describe(&report)))?;
        return Ok(ExitCode::FAILURE);
    }
    say(&format!("removed: {}", describe(&report)))?;
    Ok(ExitCode::SUCCESS)
}

fn sweep_as(store: &dyn Store, config: &Config, mode: SweepMode) -> Result<retention::Report> {
    let now = Clock::system().now();
    run(retention::sweep(store, &config.retention(), now, mode))
}

fn describe(report: &retention::Report) -> String {
    if report.is_empty() {
        return "nothing".into();
    }
    let mut text = String::new();
    for day in &report.days {
        let _ = write!(text, "{day} ");
    }
    let _ = write!(
        text,
        "({} days, {} single files, ",
        report.days.len(),
        report.objects
    );
    let _ = write!(text, "{} unfinished uploads in parts)", report.part_uploads);
    text
}

pub(super) fn scrub(config: &Config) -> Result<ExitCode> {
    let store = store(config)?;
    let Verified { objects, damaged } = run(store.maintenance().verify())?;
    for bad in &damaged {
        say(&format!("{}: {}", bad.name, bad.what))?;
    }
    say(&format!("{objects} objects read, {} bad", damaged.len()))?;
    Ok(if damaged.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Through the running server, which forgets it too; else straight from the disk.
pub(super) fn rm(config: &Config, text: &str) -> Result<ExitCode> {
    let id = ObjectId::parse(text)
        .or_else(|| Key::parse(text).map(|key| key.id))
        .ok_or_else(|| {
            let allowed = "the id of a file, a UUID of version 7, or class.YYYY-MM-DD.uuid";
            config::bad("id", text, allowed)
        })?;
    let store = store(config)?;
    if let Some(answer) = control::request(
        &config.store.path,
        &control::Command::Remove(id.to_string()),
    )? {
        say(&answer)?;
        return Ok(ExitCode::SUCCESS);
    }
    if !run(store.remove(id))? {
        return Err(Error::invalid(format!("there is no file {id}")));
    }
    say(&format!("removed {id}"))?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn rotate_keys(config: &Config, overlap_days: u64) -> Result<ExitCode> {
    store(config)?;
    let overlap = Duration::from_secs(overlap_days * 86_400);
    let kid = keyring::rotate(&config.keys_path(), Clock::system().now(), overlap)?;
    say(&format!(
        "key {kid} signs from now on; the others verify for {overlap_days} more days"
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// Whether a file is there, for the commands that are printed.
pub(super) fn is_file(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file())
}

//! Builds the server from its configuration, binds its sockets, and runs it until shutdown.

mod reload;
mod secrets;
mod upkeep;

use std::{
    net::SocketAddr,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use uuid::Uuid;

use crate::{
    api::Api,
    auth::{BackendKeys, Grants, Introspections, KeyRing, Verifier, hook::Hooks},
    config::Config,
    error::{Error, Result},
    files::{Capabilities, Files},
    limit::{Limiter, Quotas, quota::USERS_MAX},
    logging,
    metrics::Metrics,
    retention::Policy,
    server::{
        control,
        endpoint::{Endpoint, Listener},
        handover::{Descriptors, Inherited},
        listener,
        operator::{self, Authenticator, Console, Disk, Operator},
        service::Service,
        shutdown::{Shutdown, Tasks},
        tls::{CertificateFiles, Tls},
    },
    settings::format_bytes,
    store::{Store, local::LocalStore},
    tenant::Tenants,
    time::Clock,
};

pub use self::{reload::Reloader, secrets::SecretStore};

/// How long background tasks may run after the listeners have closed.
const TASKS_GRACE: Duration = Duration::from_secs(5);

/// A server that is built and does not listen yet.
pub struct App {
    service: Arc<Service>,
    limiter: Arc<Limiter>,
    listener: listener::Config,
    certificates: Vec<CertificateFiles>,
    /// Set by [`App::bind`] if a listener speaks TLS.
    tls: Option<Tls>,
    metrics: Metrics,
    /// The operator listener. Its address is final after [`App::bind`].
    operator: operator::Config,
    /// Who may use the operator listener.
    authenticator: Arc<Authenticator>,
    /// Set by [`App::bind`]; empty if there is no operator listener.
    operator_listeners: Vec<Listener>,
    free_space_min_bytes: u64,
    policy: Arc<ArcSwap<Policy>>,
    backend_keys: Arc<BackendKeys>,
    /// Where the keys and the control socket are.
    root: PathBuf,
    /// The random name of this run.
    server: String,
    clock: Clock,
    /// Set by [`App::bind`]; `None` if the store is read-only.
    control: Option<control::Listener>,
    /// The sockets of the server that this one replaces, until this one serves.
    inherited: Option<Inherited>,
    /// Sockets from the service manager.
    activated: Vec<(Endpoint, OwnedFd)>,
    /// Keeps the store open until the last transfer has ended.
    store: Arc<dyn Store>,
}

impl App {
    /// Builds a server over the configured store. It takes over the sockets of a running server if `inherited` has them.
    /// Blocking.
    ///
    /// # Errors
    /// The directory or its keys are not usable; the message is for the operator.
    pub fn build(config: Config, clock: Clock, inherited: Option<Inherited>) -> Result<Self> {
        let lock = inherited.as_ref().map(Inherited::lock).transpose()?;
        let store = Arc::new(LocalStore::open(&config.store, lock)?);
        let mut app = Self::build_over(config, clock, store)?;
        app.inherited = inherited;
        Ok(app)
    }

    /// Builds everything over a store. Blocking.
    ///
    /// # Errors
    /// What is wrong with the keys, in words for the operator.
    pub fn build_over(config: Config, clock: Clock, store: Arc<dyn Store>) -> Result<Self> {
        config.warn_of_weak_secrets();
        let root = std::path::absolute(&config.store.path).map_err(Error::internal)?;
        let backend_keys = Arc::<BackendKeys>::default();
        let keys = root.join("keys");
        let api = api(&config, &keys, backend_keys.clone(), &clock, store.clone())?;
        let limiter = Arc::new(Limiter::new(config.limit.clone(), clock.monotonic()));
        let policy = Arc::new(ArcSwap::from_pointee(config.retention()));
        let authenticator = config
            .operator
            .authenticator(&root.join("keys"), clock.clone())?;
        let server = Uuid::new_v4().simple().to_string();
        let service = Service::new(
            api,
            limiter.clone(),
            config.cors,
            config.service,
            server.clone(),
            random_u64()?,
        );
        Ok(Self {
            metrics: metrics(&service, &*store),
            service: Arc::new(service),
            limiter,
            listener: config.listener,
            certificates: config.certificates,
            tls: None,
            operator: config.operator,
            authenticator: Arc::new(authenticator),
            operator_listeners: Vec::new(),
            free_space_min_bytes: config.store.free_space_min_bytes,
            policy,
            backend_keys,
            root,
            server,
            clock,
            control: None,
            inherited: None,
            activated: Vec::new(),
            store,
        })
    }

    /// The conversions that ffmpeg supports on this machine.
    pub fn capabilities(&self) -> Capabilities {
        self.service.api().files.capabilities()
    }

    /// Counts the unfinished uploads in the store, binds the listeners and the control socket, and reads the
    /// certificates if a listener speaks TLS.
    ///
    /// # Errors
    /// An address cannot be bound, or a certificate is not usable.
    pub async fn bind(&mut self) -> Result<Vec<Listener>> {
        if let Ok(free_bytes) = self.store.maintenance().free_bytes().await {
            let in_flight_bytes_max = self.service.upload_levels().in_flight_bytes_max;
            warn_of_little_space(free_bytes, self.free_space_min_bytes, in_flight_bytes_max);
        }
        // Before the first request, so that the bounds of each user hold from the start.
        upkeep::reconcile(&self.service).await;
        if !self.activated.is_empty() {
            let endpoints = self.activated.iter();
            self.listener.listen = endpoints.map(|(endpoint, _)| endpoint.clone()).collect();
        }
        // Checked here and not in the configuration: the service manager may pass other listeners.
        if self.listener.listen.iter().any(|at| at.is_tls) {
            self.tls = Some(Tls::load(&self.certificates)?);
        }
        let (activated, inherited) = (&mut self.activated, &mut self.inherited);
        let listeners = listener::bind(&self.listener.listen, |name| {
            let mut sockets = activated.iter();
            match sockets.position(|(endpoint, _)| endpoint.to_string() == name) {
                Some(index) => Some(activated.swap_remove(index).1),
                None => inherited.as_mut()?.public(name),
            }
        })?;
        self.bind_operator()?;
        self.control = match &self.inherited {
            Some(inherited) => Some(control::inherit(&self.root, inherited.control()?)?),
            None => upkeep::bind_control(&*self.store, &self.root)?,
        };
        Ok(listeners)
    }

    fn bind_operator(&mut self) -> Result<()> {
        let Some(address) = &mut self.operator.listen else {
            return Ok(());
        };
        let inherited = &mut self.inherited;
        let take = |name: &str| inherited.as_mut()?.operator(name);
        self.operator_listeners = listener::bind(&[Endpoint::tcp(*address)], take)?;
        let bound = self.operator_listeners[0].endpoint().address();
        *address = bound.unwrap_or(*address);
        Ok(())
    }

    /// Uses sockets from the service manager instead of the configured addresses. Call it before [`App::bind`].
    pub fn activate(&mut self, sockets: Vec<(Endpoint, OwnedFd)>) {
        self.activated = sockets;
    }

    /// A handle that reloads settings of the running server. It reloads certificates only if it is made after
    /// [`App::bind`].
    pub fn reloader(&self) -> Reloader {
        Reloader {
            tls: self.tls.clone(),
            tenants: self.service.api().tenants.clone(),
            policy: self.policy.clone(),
            backend_keys: self.backend_keys.clone(),
            upload_bytes_in_flight_max: self.service.upload_levels().in_flight_bytes_max,
            secrets: SecretStore::new(self.root.join("keys")),
            authenticator: self.authenticator.clone(),
            store: Arc::downgrade(&self.store),
        }
    }

    /// The address of the operator listener, if there is one. Its port is final after [`App::bind`].
    pub fn operator_address(&self) -> Option<SocketAddr> {
        self.operator.listen
    }

    /// Serves until `shutdown` is triggered and all transfers have ended, or their grace period has. The operator
    /// listener closes last.
    pub async fn run(mut self, listeners: Vec<Listener>, shutdown: Shutdown) {
        let mut tasks = self.spawn_tasks(&shutdown);
        let ended = Shutdown::new();
        let commands = self.commands(&listeners, &shutdown, &ended);
        tasks.spawn("control", commands.serve(self.control.take()));
        if let Some(Err(error)) = self.inherited.take().map(Inherited::ready) {
            tracing::warn!(%error, "the server to replace has stopped already");
        }
        let clients = Arc::new(self.listener.clients());
        let operator = Operator {
            metrics: self.metrics.clone(),
            clients: clients.clone(),
            service: self.service.clone(),
            limiter: self.limiter,
            disk: Disk::new(self.store, self.free_space_min_bytes),
            tls: self.tls.clone(),
            shutdown: shutdown.clone(),
            console: Console {
                authenticator: self.authenticator,
                service: self.service.clone(),
                hosts: self.operator.hosts,
                endpoints: listeners
                    .iter()
                    .map(|listener| listener.endpoint().clone())
                    .collect(),
            },
        };
        let connection = self.listener.connection.clone();
        let operated =
            operator::serve(self.operator_listeners, operator, connection, ended.clone());
        let served = async {
            let counts = self.metrics.connections;
            let (tls, service, config) = (self.tls, self.service, self.listener);
            let counted = counts.clone();
            listener::serve(listeners, tls, service, config, counted, clients, shutdown).await;
            listener::report_exit(&counts);
            tasks.join(TASKS_GRACE).await;
            ended.trigger();
        };
        tokio::join!(served, operated);
    }

    /// The commands of the control socket. `ended` stops the operator listener.
    fn commands(
        &self,
        listeners: &[Listener],
        shutdown: &Shutdown,
        ended: &Shutdown,
    ) -> upkeep::Commands {
        let descriptors = Descriptors::new(listeners, &self.operator_listeners);
        let descriptors = descriptors.inspect_err(
            |error| tracing::warn!(%error, "`serve --take-over` cannot replace this server"),
        );
        upkeep::Commands {
            service: self.service.clone(),
            store: self.store.clone(),
            root: self.root.clone(),
            server: self.server.clone(),
            descriptors: descriptors.ok(),
            shutdown: shutdown.clone(),
            ended: ended.clone(),
        }
    }

    /// Starts the tasks that run beside the requests.
    fn spawn_tasks(&self, shutdown: &Shutdown) -> Tasks {
        let mut tasks = Tasks::new();
        let (store, service) = (&self.store, &self.service);
        if self.tls.is_some() {
            let watch = self.reloader().watch_certificates(shutdown.clone());
            tasks.spawn("certificates", watch);
        }
        let watch = self.reloader().watch_backend_keys(shutdown.clone());
        tasks.spawn("keys of chat backends", watch);
        let (limiter, clock) = (self.limiter.clone(), self.clock.clone());
        let sweep = upkeep::sweep_limiter(limiter, clock.clone(), shutdown.clone());
        tasks.spawn("limiter sweep", sweep);
        let policy = self.policy.clone();
        let sweep = upkeep::sweep_daily(store.clone(), policy, clock, shutdown.clone());
        tasks.spawn("retention", sweep);
        let mend = upkeep::mend_store(store.clone(), service.clone(), shutdown.clone());
        tasks.spawn("store", mend);
        let reconcile = upkeep::reconcile_parts(store.clone(), service.clone(), shutdown.clone());
        tasks.spawn("uploads in parts", reconcile);
        tasks
    }
}

/// Builds the services of the APIs over a store. Creates keys and secrets that are missing. Blocking.
fn api(
    config: &Config,
    keys: &Path,
    backend_keys: Arc<BackendKeys>,
    clock: &Clock,
    store: Arc<dyn Store>,
) -> Result<Api> {
    let tenants =
        SecretStore::new(keys.to_owned()).tenants(&Tenants::default(), &config.tenants)?;
    logging::set_ids_masked(tenants.has_open_ids());
    backend_keys.install(BackendKeys::read(&tenants)?);
    let ring = Arc::new(KeyRing::load_or_create(keys, clock.now())?);
    let descriptors = listener::raise_descriptors_max();
    let mut files = config.files.clone();
    // Connections take up to half of the descriptors; a quarter may stay with open objects.
    files.open.objects_max = files.open.objects_max.min((descriptors / 4).max(1));
    Ok(Api {
        files: Files::new(store, &files, clock.clone()),
        tenants: Arc::new(ArcSwap::from_pointee(tenants)),
        verifier: Verifier::new(ring.clone(), backend_keys),
        introspections: Introspections::new(config.introspection.clone(), clock.clone()),
        grants: Grants::new(ring, config.limit.exempt.clone(), clock.clone()),
        hooks: Hooks::new(config.hook.clone(), clock.clone()),
        clock: clock.clone(),
        quotas: Quotas::new(USERS_MAX),
        config: config.api.clone(),
    })
}

/// The counters of all modules.
fn metrics(service: &Service, store: &dyn Store) -> Metrics {
    let (open_objects, derivatives) = service.api().files.counts();
    Metrics {
        requests: service.requests(),
        connections: Arc::default(),
        open_objects,
        derivatives,
        syncs: store.maintenance().syncs(),
        logins: service.api().grants.counts(),
        introspections: service.api().introspections.counts(),
    }
}

/// Attaches to the configured store for a command, whether or not a server uses it; `None` if there is no store.
/// Blocking.
///
/// # Errors
/// If the store cannot be opened.
pub fn attach(config: &Config) -> Result<Option<Arc<dyn Store>>> {
    let store = LocalStore::attach(&config.store)?;
    Ok(store.map(|store| Arc::new(store) as Arc<dyn Store>))
}

/// Warns if the disk has less room than the uploads in flight may need.
///
/// This is safe: each upload reserves its bytes on the disk, and is refused with 507 before the free space falls below
/// the floor. But then the budget does not limit uploads, and whoever chose it should know.
fn warn_of_little_space(free_bytes: u64, floor_bytes: u64, in_flight_bytes_max: u64) {
    let room = free_bytes.saturating_sub(floor_bytes);
    if room < in_flight_bytes_max {
        tracing::warn!(
            free_bytes,
            "the disk has {} above store.free_space_min_bytes = \"{}\", less than limits.upload_bytes_in_flight_max = \
             \"{}\": concurrent uploads get 507 before they reach that limit; free some space, or lower one of the two \
             settings",
            format_bytes(room),
            format_bytes(floor_bytes),
            format_bytes(in_flight_bytes_max)
        );
    }
}

fn random_u64() -> Result<u64> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(Error::internal)?;
    Ok(u64::from_le_bytes(random))
}

//! Everything built once, and run until it is told to stop.

mod reload;
mod upkeep;

use std::{net::SocketAddr, os::fd::OwnedFd, path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use uuid::Uuid;

use crate::{
    api::Api,
    auth::{Grants, KeyRing, Verifier, hook::Hooks},
    config::{self, Config},
    error::{Error, Result},
    files::{Abilities, Files},
    http::cors::Cors,
    limit::{Limiter, Quotas, quota::USERS_MAX},
    logging,
    metrics::Metrics,
    retention::Policy,
    server::{
        control,
        endpoint::{Endpoint, Listener},
        handover::{Estate, Inherited},
        listener,
        operator::{self, Disk, Operator},
        service::Service,
        shutdown::{Shutdown, Tasks},
        tls::{CertificateFiles, Tls},
    },
    store::{Store, local::LocalStore},
    time::Clock,
};

pub use self::reload::Reloader;

/// How long background tasks may take to notice the end.
const TASKS_GRACE: Duration = Duration::from_secs(5);

/// A server, built and not yet listening.
pub struct App {
    service: Arc<Service>,
    limiter: Arc<Limiter>,
    listener: listener::Config,
    certificates: Vec<CertificateFiles>,
    /// Set by [`App::bind`], where a listener speaks it.
    tls: Option<Tls>,
    metrics: Metrics,
    /// Where the operator's listener is, if there is one.
    operator: Option<SocketAddr>,
    /// Set by [`App::bind`]; one or none.
    operator_listeners: Vec<Listener>,
    free_space_min_bytes: u64,
    policy: Arc<ArcSwap<Policy>>,
    /// Where the keys and the control socket are.
    root: PathBuf,
    /// The random name of this run.
    server: String,
    clock: Clock,
    /// Set by [`App::bind`]; none where the store can only be read.
    control: Option<control::Listener>,
    /// Of the server in whose place this one is put; until it serves.
    inherited: Option<Inherited>,
    /// Of the service manager.
    activated: Vec<(Endpoint, OwnedFd)>,
    /// Keeps the store open until the last transfer has ended.
    store: Arc<dyn Store>,
}

impl App {
    /// Builds everything over the configured store, in the place of a running server if that hands over. Blocking.
    ///
    /// # Errors
    /// What is wrong with the directory or the keys, in words for the operator.
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
        let keys = root.join("keys");
        let tenants = config::tenants(&config.tenants, &config.tenant_defaults, &keys)?;
        logging::set_ids_masked(tenants.has_open_ids());
        let ring = Arc::new(KeyRing::load_or_create(&keys, clock.now())?);
        let limiter = Arc::new(Limiter::new(config.limit.clone(), clock.monotonic()));
        let policy = Arc::new(ArcSwap::from_pointee(config.retention()));
        let descriptors = listener::raise_descriptors_max();
        let mut files_config = config.files;
        // Connections take up to half of the descriptors; a quarter may stay with open objects.
        files_config.open_objects_max = files_config.open_objects_max.min((descriptors / 4).max(1));
        let api = Api {
            files: Files::new(store.clone(), &files_config, clock.clone()),
            tenants: Arc::new(ArcSwap::from_pointee(tenants)),
            verifier: Verifier::new(ring.clone()),
            grants: Grants::new(ring, config.limit.exempt.clone(), clock.clone()),
            hooks: Hooks::new(config.hook, clock.clone()),
            clock: clock.clone(),
            quotas: Quotas::new(USERS_MAX),
            config: config.api,
        };
        let cors = Cors::new(config.origins);
        let seed = random_u64()?;
        let server = Uuid::new_v4().simple().to_string();
        let (open_objects, derivatives) = api.files.counts();
        let logins = api.grants.counts();
        let service = Service::new(
            api,
            limiter.clone(),
            cors,
            config.service,
            server.clone(),
            seed,
        );
        let metrics = Metrics {
            requests: service.requests(),
            connections: Arc::default(),
            open_objects,
            derivatives,
            syncs: store.maintenance().syncs(),
            logins,
        };
        Ok(Self {
            service: Arc::new(service),
            limiter,
            listener: config.listener,
            certificates: config.certificates,
            tls: None,
            metrics,
            operator: config.operator,
            operator_listeners: Vec::new(),
            free_space_min_bytes: config.store.free_space_min_bytes,
            policy,
            root,
            server,
            clock,
            control: None,
            inherited: None,
            activated: Vec::new(),
            store,
        })
    }

    /// What the program that converts media can do here.
    pub fn abilities(&self) -> Abilities {
        self.service.api().files.abilities()
    }

    /// Counts the unfinished uploads in the store, binds the configured addresses and the control socket, and reads the
    /// certificates if one of the addresses uses TLS.
    ///
    /// # Errors
    /// Which address cannot be had, or which certificate, and why.
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
        // Only now is it known: the service manager may have given others than are configured.
        if self.listener.listen.iter().any(|at| at.is_tls) {
            self.tls = Some(Tls::load(&self.certificates)?);
        }
        let Self {
            inherited,
            activated,
            ..
        } = self;
        let listeners = listener::bind(&self.listener.listen, |name| {
            let index = activated
                .iter()
                .position(|(endpoint, _)| endpoint.to_string() == name);
            match index {
                Some(index) => Some(activated.swap_remove(index).1),
                None => inherited.as_mut()?.public(name),
            }
        })?;
        if let Some(address) = &mut self.operator {
            let endpoint = Endpoint::tcp(*address);
            self.operator_listeners =
                listener::bind(&[endpoint], |name| inherited.as_mut()?.operator(name))?;
            let bound = self.operator_listeners[0].endpoint().address();
            *address = bound.unwrap_or(*address);
        }
        self.control = match inherited {
            Some(inherited) => Some(control::inherit(&self.root, inherited.control()?)?),
            None => upkeep::bind_control(&*self.store, &self.root)?,
        };
        Ok(listeners)
    }

    /// Takes sockets of the service manager, in the place of the configured ones. To be called before
    /// [`App::bind`].
    pub fn activate(&mut self, sockets: Vec<(Endpoint, OwnedFd)>) {
        self.activated = sockets;
    }

    /// What changes the server while it runs; certificates after [`App::bind`] only.
    pub fn reloader(&self) -> Reloader {
        Reloader {
            tls: self.tls.clone(),
            tenants: self.service.api().tenants.clone(),
            policy: self.policy.clone(),
            upload_bytes_in_flight_max: self.service.upload_levels().in_flight_bytes_max,
            keys: self.root.join("keys"),
            store: Arc::downgrade(&self.store),
        }
    }

    /// Where the operator's listener is, if there is one; its port is known after [`App::bind`].
    pub fn operator_address(&self) -> Option<SocketAddr> {
        self.operator
    }

    /// Serves until `shutdown` is triggered and the running transfers have ended or had their grace. The
    /// operator's listener ends last.
    pub async fn run(self, listeners: Vec<Listener>, shutdown: Shutdown) {
        let mut tasks = Tasks::new();
        if self.tls.is_some() {
            let reloader = self.reloader();
            tasks.spawn(
                "certificates",
                reloader.watch_certificates(shutdown.clone()),
            );
        }
        tasks.spawn(
            "limiter sweep",
            upkeep::sweep_limiter(self.limiter.clone(), self.clock.clone(), shutdown.clone()),
        );
        tasks.spawn(
            "retention",
            upkeep::sweep_daily(
                self.store.clone(),
                self.policy,
                self.clock,
                shutdown.clone(),
            ),
        );
        tasks.spawn(
            "store",
            upkeep::mend_store(self.store.clone(), self.service.clone(), shutdown.clone()),
        );
        tasks.spawn(
            "uploads in parts",
            upkeep::reconcile_parts(self.store.clone(), self.service.clone(), shutdown.clone()),
        );
        let ended = Shutdown::new();
        let estate = Estate::new(&listeners, &self.operator_listeners)
            .inspect_err(|error| tracing::warn!(%error, "nothing can be handed over"))
            .ok();
        let commands = upkeep::Commands {
            service: self.service.clone(),
            store: self.store.clone(),
            root: self.root,
            server: self.server,
            estate,
            shutdown: shutdown.clone(),
            ended: ended.clone(),
        };
        tasks.spawn("control", commands.serve(self.control));
        if let Some(Err(error)) = self.inherited.map(Inherited::ready) {
            tracing::warn!(%error, "the server before has gone");
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
        };
        let connection = self.listener.connection.clone();
        let operated =
            operator::serve(self.operator_listeners, operator, connection, ended.clone());
        let served = async {
            let counts = self.metrics.connections;
            let (tls, config) = (self.tls, self.listener);
            let service = self.service;
            listener::serve(
                listeners,
                tls,
                service,
                config,
                counts.clone(),
                clients,
                shutdown,
            )
            .await;
            listener::report_exit(&counts);
            tasks.join(TASKS_GRACE).await;
            ended.trigger();
        };
        tokio::join!(served, operated);
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

/// The in-flight budget and the floor need no fixed relation: each upload reserves its bytes on the disk, so that a
/// budget larger than the disk ends in 507 and never below the floor. But then the budget is not what bounds uploads,
/// and whoever sized it should know.
fn warn_of_little_space(free_bytes: u64, floor_bytes: u64, in_flight_bytes_max: u64) {
    let room = free_bytes.saturating_sub(floor_bytes);
    if room < in_flight_bytes_max {
        tracing::warn!(
            free_bytes,
            "the disk has only {room} bytes above store.free_space_min_bytes = {floor_bytes}, fewer than \
             limits.upload_bytes_in_flight_max = {in_flight_bytes_max}: uploads at once are refused with 507 \
             before that many are in flight; make room, or lower one of the two"
        );
    }
}

fn random_u64() -> Result<u64> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(Error::internal)?;
    Ok(u64::from_le_bytes(random))
}

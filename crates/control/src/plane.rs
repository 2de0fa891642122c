//! The control plane's moving parts behind one handle: what comes in (configuration, registrations, reports) → what is in force
//! now, as one value that every session watches.
//!
//! All methods that write block on the disk; async callers run them with `spawn_blocking`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ripstop_identity::ca::SignRefusal;
use ripstop_identity::token::{self, Grant, TokenError, TokenFile};
use ripstop_model::diagnostic::{self, Code};
use ripstop_model::intent::registry::CLUSTER_DOMAIN;
use ripstop_model::intent::{Key, Object, Spec};
use ripstop_model::schema::{Path, Sink};
use ripstop_model::spiffe::Spiffe;
use ripstop_model::validate::Joined;
use tokio::sync::watch;

use crate::address::{Allocator, Pool};
use crate::api::message::{
    Applied, NewToken, Place, Port, Readiness, Register, Registered, Service, ServicePort, Status,
    Token, Tracing, Workload,
};
use crate::ca::Ca;
use crate::compile;
use crate::registry::{Member, RegisterError, Registry, Workloads};
use crate::settings::Settings;
use crate::source::Change;
use crate::state::{State, StateError, Table};
use crate::status::Proxies;
use crate::store::{Memory, Store, path_of};
use crate::view::{Mesh, of_member};

/// How long after its last sign of life a workload that joined with a token may come back without one.
const REJOIN: Duration = Duration::from_secs(30 * 24 * 3600);
/// How often the credentials of the living are prolonged.
const PROLONG: Duration = Duration::from_secs(3600);
const TOKENS: &str = "registry";

/// Everything in force at one moment.
#[derive(Debug, Clone)]
pub struct Current {
    pub mesh: Arc<Mesh>,
    pub workloads: Arc<Workloads>,
}

/// Who calls.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    /// Through the Unix socket, which only the mesh's owner can open.
    pub local: bool,
    /// The verified client certificate.
    pub identity: Option<Spiffe>,
    /// A token or credential.
    pub bearer: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum PlaneError {
    #[error(transparent)]
    Register(#[from] RegisterError),
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Sign(#[from] SignRefusal),
    #[error("no workload `{0}` is registered here: register it again")]
    NoWorkload(String),
    #[error("there is no {0}")]
    NoResource(String),
    #[error("{resource} is declared in {file}: change it there")]
    InFile { resource: String, file: String },
    #[error(
        "not allowed: use the control plane's Unix socket, or show a join token or the workload's own certificate"
    )]
    NotAllowed,
    #[error("a token names the namespace and the service account that its bearer may become")]
    Unbound,
    #[error("the control plane is stopping")]
    Ended,
}

struct Inner {
    registry: Registry,
    allocator: Allocator,
    store: Store,
    tokens: token::Registry,
    /// What services, ports, labels and accounts the members bring; a change of it is a change of configuration.
    joined: BTreeMap<Joint, Joined>,
    revision: u64,
    /// The revision since which each resource's version is in force.
    since: BTreeMap<Key, (Arc<Object>, u64)>,
    /// What the state file holds of the sources' resources.
    remembered: BTreeMap<Key, Arc<Object>>,
    prolonged: Instant,
}

type Joint = (
    Option<Arc<str>>,
    Arc<str>,
    Arc<str>,
    bool,
    BTreeMap<String, String>,
    Vec<(u16, u16, String)>,
);

pub struct Plane {
    base: Settings,
    state: State,
    ca: Ca,
    inner: Mutex<Inner>,
    current: watch::Sender<Current>,
    proxies: Proxies,
    addresses: Mutex<Listening>,
}

/// Where the xDS ports were bound, for what workloads are told.
#[derive(Debug, Clone, Copy, Default)]
pub struct Listening {
    pub xds: Option<SocketAddr>,
    pub xds_tls: Option<SocketAddr>,
}

impl Plane {
    /// With what the state directory remembers.
    pub fn open(state: State, ca: Ca, base: Settings) -> Result<Plane, StateError> {
        let reserved = state
            .all::<u32>(Table::Address)?
            .into_iter()
            .filter_map(|(key, index)| {
                let (pool, name) = key.split_once('/')?;
                let pool = Pool::ALL.into_iter().find(|known| known.as_str() == pool)?;
                Some((pool, name.to_owned(), index))
            });
        let allocator = Allocator::restore(reserved);
        let members: Vec<Member> = state
            .all(Table::Workload)?
            .into_iter()
            .map(|(_, m)| m)
            .collect();
        let applied = state.all::<String>(Table::Resource)?;
        let memories = state.all::<Memory>(Table::Accepted)?;
        let tokens = state
            .all(Table::Token)?
            .into_iter()
            .find(|(key, _)| key == TOKENS);
        let mut inner = Inner {
            registry: Registry::restore(members, Instant::now()),
            allocator,
            store: Store::new(applied, memories.into_iter().map(|(_, memory)| memory)),
            tokens: tokens.map(|(_, registry)| registry).unwrap_or_default(),
            joined: BTreeMap::new(),
            revision: 0,
            since: BTreeMap::new(),
            remembered: BTreeMap::new(),
            prolonged: Instant::now(),
        };
        inner.remembered = of_sources(&inner.store);
        let workloads = Arc::new(inner.registry.workloads(Instant::now()));
        inner.joined = joints(&workloads);
        inner.store.join(inner.joined.values().cloned().collect());
        let mesh = Arc::new(build(&state, &base, &mut inner, &workloads)?);
        let (current, _) = watch::channel(Current { mesh, workloads });
        Ok(Plane {
            base,
            state,
            ca,
            inner: Mutex::new(inner),
            current,
            proxies: Proxies::default(),
            addresses: Mutex::new(Listening::default()),
        })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Every change is applied whole before it is shown: a panic leaves the last one standing.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set_listening(&self, listening: Listening) {
        *self
            .addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = listening;
    }

    /// What is in force, now and after every change.
    pub fn watch(&self) -> watch::Receiver<Current> {
        self.current.subscribe()
    }

    pub fn current(&self) -> Current {
        self.current.borrow().clone()
    }

    pub fn ca(&self) -> &Ca {
        &self.ca
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    pub fn proxies(&self) -> &Proxies {
        &self.proxies
    }

    /// Shows what changed: members alone (the fast lane), or a new mesh where configuration did.
    fn publish(&self, inner: &mut Inner, configured: bool) -> Result<(), StateError> {
        let workloads = Arc::new(inner.registry.workloads(Instant::now()));
        let joined = joints(&workloads);
        let mesh = if configured || joined != inner.joined {
            inner.store.join(joined.values().cloned().collect());
            inner.joined = joined;
            remember(&self.state, inner)?;
            Arc::new(build(&self.state, &self.base, inner, &workloads)?)
        } else {
            self.current.borrow().mesh.clone()
        };
        self.current.send_replace(Current { mesh, workloads });
        Ok(())
    }

    pub fn change(&self, change: Change) -> Result<(), StateError> {
        let mut inner = self.inner();
        if inner.store.change(change) {
            self.publish(&mut inner, true)?;
        }
        Ok(())
    }

    /// Drops the resources of sources that are no longer configured.
    pub fn keep_sources(&self, names: &BTreeSet<Arc<str>>) -> Result<(), StateError> {
        let mut inner = self.inner();
        if inner.store.keep_sources(names) {
            self.publish(&mut inner, true)?;
        }
        Ok(())
    }

    /// Ends leases and forgets the long gone; answers when to look again.
    pub fn tick(&self, now: Instant) -> Result<Option<Instant>, StateError> {
        let mut inner = self.inner();
        for member in inner.registry.forget(now) {
            self.state.delete(Table::Workload, &member.id)?;
        }
        if now.saturating_duration_since(inner.prolonged) >= PROLONG {
            let Inner {
                registry, tokens, ..
            } = &mut *inner;
            tokens.prolong(REJOIN, SystemTime::now(), |id| registry.is_connected(id));
            self.state.put(Table::Token, TOKENS, &inner.tokens)?;
            inner.prolonged = now;
        }
        let fresh = inner.registry.workloads(now);
        let stale = {
            let shown = self.current.borrow();
            shown.workloads.by_id != fresh.by_id
        };
        if stale {
            self.publish(&mut inner, false)?;
        }
        Ok(inner.registry.next_deadline(now))
    }

    pub fn register(
        &self,
        mut request: Register,
        caller: &Caller,
    ) -> Result<Registered, PlaneError> {
        let now = SystemTime::now();
        if request.host.is_empty() {
            request.host.clone_from(&self.base.host);
        }
        let mut inner = self.inner();
        if request.service_account.is_empty() {
            request.service_account.clone_from(&request.service);
        }
        if request.replica.is_none() {
            let kept = |id: &str| inner.tokens.is_kept(id, now);
            let free = inner.registry.free_replica(&request, Instant::now(), kept);
            request.replica = Some(free);
        }
        let mut grant = Grant {
            namespace: request.namespace.clone(),
            service_account: request.service_account.clone(),
            service: (!request.service.is_empty()).then(|| request.service.clone()),
            workload: request.id(),
        };
        let mut returns = false;
        if !caller.local {
            let bearer = caller.bearer.as_deref().ok_or(PlaneError::NotAllowed)?;
            let allowed = inner.tokens.grant(bearer, now)?;
            returns = allowed.workload.is_some();
            let id = grant.workload.as_deref().unwrap_or_default();
            let (account, at) = (&grant.service_account, Instant::now());
            if !inner.registry.may_be(id, account, returns, at)
                || (!returns && inner.tokens.is_kept(id, now))
            {
                return Err(RegisterError::Taken(id.to_owned()).into());
            }
            inner.tokens.redeem(bearer, &grant, now)?;
        }
        let Inner {
            registry,
            allocator,
            ..
        } = &mut *inner;
        let joined = registry.register(request, allocator, &self.base.ranges, Instant::now())?;
        if let Some((name, index)) = &joined.reserved {
            let key = format!("{}/{name}", Pool::Workload.as_str());
            self.state.put(Table::Address, &key, index)?;
        }
        let member = joined.member;
        self.state.put(Table::Workload, &member.id, &*member)?;
        grant.workload = None;
        let credential = inner.tokens.issue_local(grant.clone(), now)?;
        let rejoin = if caller.local || returns {
            // One that has just been shown goes on being good.
            inner.tokens.prolong(REJOIN, now, |id| *id == *member.id);
            None
        } else {
            grant.workload = Some(member.id.to_string());
            Some(inner.tokens.issue_rejoin(grant, REJOIN, now)?)
        };
        self.state.put(Table::Token, TOKENS, &inner.tokens)?;
        self.publish(&mut inner, false)?;
        drop(inner);
        Ok(self.registered(&member, credential, rejoin))
    }

    fn registered(
        &self,
        member: &Member,
        credential: String,
        rejoin: Option<String>,
    ) -> Registered {
        let listening = *self
            .addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let current = self.current.borrow();
        let settings = &current.mesh.settings;
        Registered {
            id: member.id.to_string(),
            node: member.node(),
            namespace: member.namespace.to_string(),
            service: member.service_name.clone(),
            service_account: member.service_account.to_string(),
            workload: member.workload.to_string(),
            replica: member.replica,
            labels: member.labels.clone(),
            addresses: member.addresses,
            inbound: member.inbound(),
            credential,
            rejoin,
            trust_domain: self.base.trust_domain.clone(),
            roots: self.ca.roots_pem(),
            root_sha256: self.ca.fingerprint().to_string(),
            ranges: current.mesh.ranges.to_vec(),
            domain: CLUSTER_DOMAIN.to_owned(),
            xds_tls: listening.xds_tls,
            xds: listening.xds,
            control_identity: self.ca.identity().to_string(),
            tracing: Tracing {
                otlp: settings.tracing.otlp.clone(),
                hooks: settings.tracing.hooks.clone(),
            },
            drain: settings.drain,
        }
    }

    /// Whether a caller may speak for a workload.
    fn speaks_for(inner: &mut Inner, caller: &Caller, id: &str) -> Result<(), PlaneError> {
        if caller.local {
            return Ok(());
        }
        let member = inner
            .registry
            .member(id)
            .ok_or_else(|| PlaneError::NoWorkload(id.to_owned()))?
            .clone();
        let same = |namespace: &str, account: &str| {
            *member.namespace == *namespace && *member.service_account == *account
        };
        if let Some(identity) = &caller.identity
            && same(&identity.namespace, &identity.service_account)
        {
            return Ok(());
        }
        let bearer = caller.bearer.as_deref().ok_or(PlaneError::NotAllowed)?;
        let grant = inner.tokens.grant(bearer, SystemTime::now())?;
        if same(&grant.namespace, &grant.service_account) {
            Ok(())
        } else {
            Err(PlaneError::NotAllowed)
        }
    }

    pub fn deregister(&self, id: &str, caller: &Caller) -> Result<(), PlaneError> {
        let mut inner = self.inner();
        Self::speaks_for(&mut inner, caller, id)?;
        if inner.registry.deregister(id).is_none() {
            return Err(PlaneError::NoWorkload(id.to_owned()));
        }
        self.state.delete(Table::Workload, id)?;
        self.publish(&mut inner, false)?;
        Ok(())
    }

    pub fn report(
        &self,
        id: &str,
        readiness: Readiness,
        caller: &Caller,
    ) -> Result<(), PlaneError> {
        let mut inner = self.inner();
        Self::speaks_for(&mut inner, caller, id)?;
        if !inner.registry.report(id, readiness, Instant::now()) {
            return Err(PlaneError::NoWorkload(id.to_owned()));
        }
        self.publish_if_members_changed(&mut inner)?;
        Ok(())
    }

    /// Where the workload's host is reached now. Changes nothing where it was said already.
    pub fn place(&self, id: &str, place: Place, caller: &Caller) -> Result<(), PlaneError> {
        let mut inner = self.inner();
        Self::speaks_for(&mut inner, caller, id)?;
        if inner.registry.member(id).is_none() {
            return Err(PlaneError::NoWorkload(id.to_owned()));
        }
        if let Some(member) = inner.registry.place(id, place.host, place.advertise)? {
            self.state.put(Table::Workload, &member.id, &*member)?;
            self.publish(&mut inner, false)?;
        }
        Ok(())
    }

    /// A workload's ADS stream began or ended.
    pub fn stream(&self, id: &str, opened: bool) -> Result<(), StateError> {
        let mut inner = self.inner();
        inner.registry.stream(id, opened, Instant::now());
        self.publish_if_members_changed(&mut inner)
    }

    /// A heartbeat that says nothing new wakes nobody.
    fn publish_if_members_changed(&self, inner: &mut Inner) -> Result<(), StateError> {
        let fresh = inner.registry.workloads(Instant::now());
        let changed = self.current.borrow().workloads.by_id != fresh.by_id;
        if changed {
            self.publish(inner, false)?;
        }
        Ok(())
    }

    /// The control plane's own host.
    pub fn host(&self) -> &str {
        &self.base.host
    }

    pub fn member(&self, id: &str) -> Option<Arc<Member>> {
        self.inner().registry.member(id).cloned()
    }

    /// Signs a CSR for whom the caller proves to be: the bearer of a credential or join token, or the holder of a certificate.
    pub fn create_certificate(
        &self,
        csr_pem: &str,
        ttl: Duration,
        caller: &Caller,
    ) -> Result<Vec<String>, PlaneError> {
        let now = SystemTime::now();
        let identity = match (&caller.identity, &caller.bearer) {
            (_, Some(bearer)) => {
                let mut inner = self.inner();
                let grant = inner.tokens.grant(bearer, now)?;
                inner.tokens.redeem(bearer, &grant, now)?;
                self.state.put(Table::Token, TOKENS, &inner.tokens)?;
                Spiffe::new(
                    &self.base.trust_domain,
                    &grant.namespace,
                    &grant.service_account,
                )
                .map_err(|_| PlaneError::Unbound)?
            }
            (Some(identity), None) => identity.clone(),
            (None, None) => return Err(PlaneError::NotAllowed),
        };
        Ok(self.ca.sign(csr_pem, &identity, ttl, now)?)
    }

    pub fn issue_token(&self, new: NewToken) -> Result<Token, PlaneError> {
        if new.namespace.is_empty() || new.service_account.is_empty() {
            return Err(PlaneError::Unbound);
        }
        let now = SystemTime::now();
        let ttl = Duration::from_secs(new.ttl_seconds);
        let allows = Grant {
            namespace: new.namespace,
            service_account: new.service_account,
            service: Some(new.service).filter(|service| !service.is_empty()),
            workload: None,
        };
        let mut inner = self.inner();
        let secret = inner.tokens.issue(allows.clone(), ttl, new.uses, now)?;
        self.state.put(Table::Token, TOKENS, &inner.tokens)?;
        let file = TokenFile {
            api_version: TokenFile::API_VERSION.to_owned(),
            kind: TokenFile::KIND.to_owned(),
            root_sha256: self.ca.fingerprint(),
            trust_domain: self.base.trust_domain.clone(),
            control_identity: self.ca.identity().to_string(),
            secret,
            expires: seconds(now + ttl),
            allows,
        };
        Ok(Token {
            token: file.to_json(),
        })
    }

    /// Applies what is sound of a text; says what is not.
    pub fn apply(&self, text: &str) -> Result<Applied, PlaneError> {
        let mut inner = self.inner();
        let (documents, diagnostics) = inner.store.check(text);
        for (key, _) in &documents {
            if let Some(file) = inner.store.file_of(key) {
                return Err(PlaneError::InFile {
                    resource: path_of(key),
                    file: file.to_string(),
                });
            }
        }
        let mut applied = Vec::new();
        let mut changed = false;
        for (key, text) in documents {
            let path = path_of(&key);
            self.state.put(Table::Resource, &path, &text)?;
            changed |= inner.store.put(&key, text);
            applied.push(path);
        }
        if changed {
            self.publish(&mut inner, true)?;
        }
        let diagnostics = match diagnostic::to_json(&diagnostics) {
            serde_json::Value::Array(list) => list,
            other => vec![other],
        };
        Ok(Applied {
            applied,
            diagnostics,
            revision: inner.revision,
        })
    }

    pub fn delete(&self, key: &Key) -> Result<(), PlaneError> {
        let mut inner = self.inner();
        let changed = inner.store.delete(key).ok_or_else(|| {
            let resource = path_of(key);
            match inner.store.file_of(key) {
                Some(file) => PlaneError::InFile {
                    resource,
                    file: file.to_string(),
                },
                None => PlaneError::NoResource(resource),
            }
        })?;
        self.state.delete(Table::Resource, &path_of(key))?;
        if changed {
            self.publish(&mut inner, true)?;
        }
        Ok(())
    }

    pub fn resources(
        &self,
        kind: Option<ripstop_model::intent::Kind>,
        namespace: Option<&str>,
        name: Option<&str>,
    ) -> Vec<crate::api::message::Resource> {
        self.inner().store.list(kind, namespace, name)
    }

    pub fn workloads(&self) -> Vec<Workload> {
        let current = self.current();
        let workload = |present: &crate::registry::Present| {
            let member = &present.member;
            let mode = |port: &Port| {
                let target = port.target();
                let mode = compile::mode(&current.mesh, &member.namespace, &member.labels, target);
                (target, mode)
            };
            let domain = &self.base.trust_domain;
            let identity = Spiffe::new(domain, &member.namespace, &member.service_account);
            Workload {
                id: member.id.to_string(),
                namespace: member.namespace.to_string(),
                service: member.service_name.clone(),
                service_account: member.service_account.to_string(),
                workload: member.workload.to_string(),
                replica: member.replica,
                labels: member.labels.clone(),
                addresses: member.addresses,
                ports: member.ports.clone(),
                host: member.host.clone(),
                advertise: member.advertise,
                readiness: present.readiness,
                alive: present.alive,
                identity: identity.map(|name| name.to_string()).unwrap_or_default(),
                mutual_tls: member.ports.iter().map(mode).collect(),
            }
        };
        current.workloads.by_id.values().map(workload).collect()
    }

    pub fn services(&self) -> Vec<Service> {
        let current = self.current();
        let service = |known: &Arc<crate::view::Known>| {
            let members: Vec<_> = current.workloads.of_service(&known.host).collect();
            let ids = |ready: bool| {
                members
                    .iter()
                    .filter(|present| !ready || present.takes_traffic())
                    .map(|present| present.member.id.to_string())
                    .collect()
            };
            Service {
                host: known.host.to_string(),
                namespace: known.namespace.clone(),
                name: known.name.clone(),
                headless: known.headless,
                addresses: known.vips.clone(),
                ports: known
                    .ports
                    .iter()
                    .map(|port| ServicePort {
                        name: port.name.clone(),
                        number: port.number,
                        target: port.target,
                        protocol: port.protocol,
                    })
                    .collect(),
                ready: ids(true),
                workloads: ids(false),
                declared: current.mesh.replicas.get(&known.host).copied().unwrap_or(0),
            }
        };
        current.mesh.services.values().map(service).collect()
    }

    pub fn status(&self) -> Status {
        let inner = self.inner();
        let mut resources = inner.store.resources();
        let sources = inner.store.source_statuses();
        let revision = inner.revision;
        let since: BTreeMap<String, u64> = inner
            .since
            .iter()
            .map(|(key, (_, revision))| (path_of(key), *revision))
            .collect();
        let foreign: BTreeMap<String, String> = inner
            .since
            .iter()
            .filter_map(|(key, (object, _))| {
                Some((path_of(key), foreign(object, &self.base.trust_domain)?))
            })
            .collect();
        drop(inner);
        for resource in &mut resources {
            resource.observed_revision = since.get(&resource.resource).copied().unwrap_or(0);
            if let Some(message) = foreign.get(&resource.resource) {
                resource.accepted = false;
                resource.messages.push(message.clone());
            }
        }
        let proxies = self.proxies.statuses(Instant::now());
        crate::status::judge(&mut resources, &proxies, &self.proxies.refusals());
        Status {
            revision,
            proxies,
            resources,
            sources,
            authority_expires: Some(seconds(self.ca.expires())),
        }
    }
}

/// A mesh file that names another trust domain than the CA's, which does not change under a running mesh.
fn foreign(object: &Object, present: &str) -> Option<String> {
    let Spec::Mesh(mesh) = &object.spec else {
        return None;
    };
    let asked = mesh
        .trust_domain
        .as_deref()
        .filter(|asked| *asked != present)?;
    let spec = Path::ROOT.field("spec");
    let at = spec.field("trustDomain");
    let mut sink = Sink::new(object.origin.file.clone());
    let told = sink.error(
        Code::InvalidValue,
        &at,
        object.origin.locate(&at),
        format!("the mesh runs with the trust domain `{present}`, not `{asked}`"),
    );
    told.help("write that one, or stop the mesh and start it with another --state directory");
    Some(told.to_string())
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

fn joints(workloads: &Workloads) -> BTreeMap<Joint, Joined> {
    let port = |port: &Port| {
        let protocol = format!("{} {:?}", port.name, port.protocol());
        (port.port, port.target(), protocol)
    };
    let mut joints = BTreeMap::new();
    for present in workloads.by_id.values() {
        let member = &present.member;
        let joint = (
            member.service.clone(),
            member.namespace.clone(),
            member.service_account.clone(),
            member.headless,
            member.labels.clone(),
            member.ports.iter().map(port).collect(),
        );
        // Replicas say nothing new.
        joints.entry(joint).or_insert_with(|| Joined {
            namespace: member.namespace.to_string(),
            service: of_member(member),
            labels: member.labels.clone(),
            service_account: member.service_account.to_string(),
        });
    }
    joints
}

fn of_sources(store: &Store) -> BTreeMap<Key, Arc<Object>> {
    let objects = store.from_sources();
    objects
        .map(|object| (object.key(), object.clone()))
        .collect()
}

/// Writes down what sources say now, so that a bad edit costs nothing after a restart either.
fn remember(state: &State, inner: &mut Inner) -> Result<(), StateError> {
    let now = of_sources(&inner.store);
    let known = |key: &Key, object: &Arc<Object>| {
        let known = inner.remembered.get(key);
        known.is_some_and(|known| Arc::ptr_eq(known, object))
    };
    let fresh: Vec<(String, Memory)> = now
        .iter()
        .filter(|(key, object)| !known(key, object))
        .filter_map(|(key, object)| Some((path_of(key), inner.store.memory(object)?)))
        .collect();
    let gone: Vec<String> = inner
        .remembered
        .keys()
        .filter(|key| !now.contains_key(key))
        .map(path_of)
        .collect();
    if !fresh.is_empty() || !gone.is_empty() {
        let fresh = fresh.iter().map(|(key, memory)| (key.as_str(), memory));
        state.edit(Table::Accepted, fresh, gone.iter().map(String::as_str))?;
    }
    inner.remembered = now;
    Ok(())
}

/// A mesh of the store's resources and the members' services; new virtual addresses are written down before anybody sees them.
fn build(
    state: &State,
    base: &Settings,
    inner: &mut Inner,
    workloads: &Workloads,
) -> Result<Mesh, StateError> {
    inner.revision += 1;
    let members: Vec<Arc<Member>> = workloads
        .by_id
        .values()
        .map(|present| present.member.clone())
        .collect();
    let configuration = inner.store.configuration();
    let revision = inner.revision;
    let mut before = std::mem::take(&mut inner.since);
    inner.since = configuration
        .objects
        .iter()
        .map(|object| {
            let key = object.key();
            let known = before.remove(&key);
            let same = known.filter(|(known, _)| **known == **object);
            let since = same.map_or(revision, |(_, since)| since);
            (key, (object.clone(), since))
        })
        .collect();
    let mut reserved: BTreeMap<String, u32> = BTreeMap::new();
    let allocator = &mut inner.allocator;
    let mut vips = |host: &str| match allocator.index(Pool::Vip, host, &base.ranges) {
        Ok((index, new)) => {
            if new {
                reserved.insert(format!("{}/{host}", Pool::Vip.as_str()), index);
            }
            base.ranges.vips(index).to_vec()
        }
        Err(error) => {
            tracing::error!(host, %error, "no virtual address");
            Vec::new()
        }
    };
    let mesh = Mesh::new(
        inner.revision,
        base.clone(),
        &configuration,
        &members,
        &mut vips,
    );
    for (key, index) in &reserved {
        state.put(Table::Address, key, index)?;
    }
    Ok(mesh)
}

//! What is in force → what each connected proxy is sent.
//!
//! A session answers for one ADS stream: it compiles the resources that its proxy names (a ripstop sidecar asks for what it uses,
//! a stock Envoy for everything) and keeps each until the mesh changes. Members come and go on the fast lane: then only
//! endpoints and hosts are compiled anew.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use ripstop_model::discovery::{Kind, Resource};
use ripstop_model::snapshot::listener::Terminal;
use ripstop_model::snapshot::{Name, Snapshot};
use ripstop_model::spiffe::Spiffe;
use ripstop_wire::node::Node;
use ripstop_wire::resource::{self, Encoded};
use ripstop_wire::xds::Protocol;
use ripstop_wire::xds::server::{Event, View as Answers};
use ripstop_wire::xds::service::{self, Refusal};
use serde_json::Value;
use tokio::sync::watch;

use crate::api::message::{Readiness, Rejected, TypeStatus};
use crate::compile;
use crate::plane::{Caller, Current, Plane};
use crate::status::Proxy;
use crate::view::{Client, Scope, View, Wanted};

/// The ADS service on one port.
pub(crate) struct Ads {
    pub plane: Arc<Plane>,
    /// Streams must prove who they are. Otherwise the port is for loopback, and what a node says of itself is believed.
    pub secure: bool,
}

impl service::Plane for Ads {
    type Proxy = Session;

    fn connect(&self, caller: service::Caller, node: Node) -> Result<Session, Refusal> {
        if self.secure && caller.identity.is_none() {
            return Err(Refusal::Unauthenticated(
                "show the workload's certificate: CreateCertificate signs one for a join token or a credential".to_owned(),
            ));
        }
        let client = client(&self.plane, &node, caller.identity.as_ref())?;
        Ok(Session::open(
            self.plane.clone(),
            client,
            &node,
            caller.identity.as_ref(),
        ))
    }
}

/// Who a node is. Its certificate decides which workload it may be.
fn client(plane: &Plane, node: &Node, identity: Option<&Spiffe>) -> Result<Client, Refusal> {
    let stock = node.user_agent != "ripstop";
    let captured = node.text("INTERCEPTION_MODE") != Some("NONE");
    let client = match plane.member(workload_id(node)) {
        Some(member) => Client {
            namespace: member.namespace.to_string(),
            labels: member.labels.clone(),
            service_account: member.service_account.to_string(),
            host: member.host.clone(),
            member: Some(member),
            stock,
            captured,
        },
        None => Client {
            namespace: node
                .text("NAMESPACE")
                .or(identity.map(|identity| &*identity.namespace))
                .unwrap_or(ripstop_model::intent::DEFAULT_NAMESPACE)
                .to_owned(),
            labels: labels(node),
            service_account: node
                .text("SERVICE_ACCOUNT")
                .or(identity.map(|identity| &*identity.service_account))
                .unwrap_or_default()
                .to_owned(),
            host: plane.host().to_owned(),
            member: None,
            stock,
            captured,
        },
    };
    if let Some(identity) = identity
        && (*identity.namespace != *client.namespace
            || *identity.service_account != *client.service_account)
    {
        return Err(Refusal::Forbidden(format!(
            "{identity} may not be {}, which is of namespace {} and service account {}",
            node.id, client.namespace, client.service_account
        )));
    }
    Ok(client)
}

/// In a node id: `sidecar~<ip>~<workload>-<replica>.<namespace>~<domain>`.
fn workload_id(node: &Node) -> &str {
    node.id.split('~').nth(2).unwrap_or(&node.id)
}

fn labels(node: &Node) -> BTreeMap<String, String> {
    let Some(Value::Object(labels)) = node.metadata.get("LABELS") else {
        return BTreeMap::new();
    };
    labels
        .iter()
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}

/// One stream.
pub(crate) struct Session {
    plane: Arc<Plane>,
    id: u64,
    client: Client,
    /// Which workload it says it is, registered or not.
    workload: String,
    /// What it last said of its health.
    health: Option<Readiness>,
    changes: watch::Receiver<Current>,
    /// Frozen between two calls of `changed`.
    current: Current,
    cache: BTreeMap<(Kind, Name), Option<Encoded>>,
    /// The names of everything, for wildcards.
    all: Option<Wanted>,
    subscribed: BTreeMap<Kind, BTreeSet<Name>>,
    wildcards: BTreeSet<Kind>,
    /// What the proxy said it runs.
    confirmed: BTreeMap<(Kind, Name), Arc<str>>,
}

impl Session {
    fn open(plane: Arc<Plane>, client: Client, node: &Node, identity: Option<&Spiffe>) -> Session {
        static SESSIONS: AtomicU64 = AtomicU64::new(1);
        let id = SESSIONS.fetch_add(1, Ordering::Relaxed);
        plane.proxies().opened(
            id,
            Proxy {
                node: node.id.clone(),
                workload: client.member.as_ref().map(|member| member.id.to_string()),
                protocol: "",
                agent: format!("{} {}", node.user_agent, node.user_agent_version)
                    .trim()
                    .to_owned(),
                identity: identity.map(Spiffe::to_string).unwrap_or_default(),
                connected: Instant::now(),
                acked: 0,
                types: BTreeMap::new(),
                rejected: BTreeMap::new(),
                behind: None,
            },
        );
        let mut changes = plane.watch();
        if let Some(member) = &client.member {
            stream(&plane, &member.id, true);
        }
        let current = changes.borrow_and_update().clone();
        tracing::info!(node = node.id, stock = client.stock, "proxy connected");
        let mut session = Session {
            plane,
            id,
            client,
            workload: workload_id(node).to_owned(),
            health: None,
            changes,
            current,
            cache: BTreeMap::new(),
            all: None,
            subscribed: BTreeMap::new(),
            wildcards: BTreeSet::new(),
            confirmed: BTreeMap::new(),
        };
        // Until it asks for something it runs everything that it is sent.
        session.judge();
        session
    }

    fn compile(&self, kind: Kind, name: &Name) -> Snapshot {
        let mut wanted = Wanted::default();
        let names = match kind {
            Kind::Host => &mut wanted.hosts,
            Kind::Cluster => &mut wanted.clusters,
            Kind::Endpoints => &mut wanted.endpoints,
            Kind::Listener => &mut wanted.listeners,
            Kind::Route => &mut wanted.routes,
            Kind::Ranges | Kind::Secret => return Snapshot::default(),
        };
        names.insert(name.clone());
        compile::compile(&View {
            mesh: &self.current.mesh,
            workloads: &self.current.workloads,
            client: &self.client,
            scope: &Scope::Named(wanted),
        })
    }

    fn encode(&self, kind: Kind, name: &Name) -> Option<Encoded> {
        if kind == Kind::Ranges {
            let ranges = self.current.mesh.ranges.clone();
            return (**name == *Kind::RANGES).then(|| resource::encode(&Resource::Ranges(ranges)));
        }
        let mut snapshot = self.compile(kind, name);
        if let Some(host) = snapshot.hosts.remove(name) {
            return Some(resource::host(name.clone(), &host));
        }
        of(snapshot).map(|resource| resource::encode(&resource))
    }

    /// Takes over what is in force now.
    fn refresh(&mut self) {
        let current = self.changes.borrow_and_update().clone();
        if current.mesh.revision == self.current.mesh.revision {
            self.cache.retain(|(kind, _), known| {
                // What was not there may be of a workload that has come since.
                !matches!(kind, Kind::Endpoints | Kind::Host) && known.is_some()
            });
        } else {
            self.cache.clear();
        }
        self.all = None;
        self.current = current;
        self.recognise();
        self.judge();
    }

    /// The workload may have registered again with other ports or from another address, or only now, after the control plane
    /// had forgotten it.
    fn recognise(&mut self) {
        let Some(present) = self.current.workloads.by_id.get(self.workload.as_str()) else {
            return;
        };
        let member = present.member.clone();
        let is_new = self.client.member.is_none();
        if self.client.member.as_ref() == Some(&member)
            || *member.namespace != *self.client.namespace
            || *member.service_account != *self.client.service_account
        {
            return;
        }
        self.client.labels.clone_from(&member.labels);
        self.client.host.clone_from(&member.host);
        self.client.member = Some(member.clone());
        self.cache.clear();
        if is_new {
            stream(&self.plane, &member.id, true);
            self.report();
        }
    }

    /// Passes on what it said of its health.
    fn report(&self) {
        let (Some(member), Some(readiness)) = (&self.client.member, self.health) else {
            return;
        };
        let local = Caller {
            local: true,
            ..Caller::default()
        };
        if let Err(error) = self.plane.report(&member.id, readiness, &local) {
            tracing::warn!(%error, id = &*member.id, ?readiness, "a health report is lost");
        }
    }

    /// A proxy that has accepted everything it would be sent now runs this revision.
    fn judge(&mut self) {
        let mut types: BTreeMap<String, TypeStatus> = BTreeMap::new();
        let mut missing: Vec<String> = Vec::new();
        let mut wanted: Vec<(Kind, Name)> = Vec::new();
        for (kind, names) in &self.subscribed {
            wanted.extend(names.iter().map(|name| (*kind, name.clone())));
        }
        for kind in self.wildcards.clone() {
            let names = self.names(kind);
            wanted.extend(names.into_iter().map(|name| (kind, name)));
        }
        wanted.sort();
        wanted.dedup();
        for key in wanted {
            let status = types
                .entry(key.0.as_str().to_owned())
                .or_insert_with(|| TypeStatus {
                    kind: key.0.as_str().to_owned(),
                    ..TypeStatus::default()
                });
            let Some(encoded) = self.resource(key.0, &key.1) else {
                continue;
            };
            status.resources += 1;
            if self.confirmed.get(&key) == Some(&encoded.version) {
                status.acked += 1;
            } else {
                missing.push(format!("{} {}", key.0.as_str(), key.1));
            }
        }
        let revision = self.current.mesh.revision;
        let late = unanswered(&missing);
        self.plane.proxies().update(self.id, |proxy| {
            proxy.types = types;
            proxy.behind = late.map(|late| {
                let since = proxy.behind.as_ref().map(|(since, _)| *since);
                (since.unwrap_or_else(Instant::now), late)
            });
            if proxy.behind.is_none() {
                proxy.acked = revision;
            }
        });
    }

    fn rejected(&mut self, kind: Kind, resources: &[(Name, Arc<str>)], message: String) {
        let named = |(name, _): &&(Name, Arc<str>)| message.contains(&**name);
        let mut names: Vec<Name> = resources
            .iter()
            .filter(named)
            .map(|(name, _)| name.clone())
            .collect();
        if names.is_empty() {
            names = resources.iter().map(|(name, _)| name.clone()).collect();
        }
        let behind: BTreeSet<String> = names
            .iter()
            .flat_map(|name| origins(&self.compile(kind, name)))
            .collect();
        tracing::warn!(
            session = self.id,
            kind = kind.as_str(),
            ?names,
            message,
            "a proxy refuses what it was sent"
        );
        let rejected = Rejected {
            kind: kind.as_str().to_owned(),
            names: names.iter().map(|name| name.to_string()).collect(),
            message,
        };
        self.plane.proxies().update(self.id, |proxy| {
            proxy.rejected.insert(
                kind.as_str().to_owned(),
                (rejected, behind.into_iter().collect()),
            );
        });
    }
}

/// The first few of what a proxy has not accepted.
fn unanswered(missing: &[String]) -> Option<String> {
    const SHOWN: usize = 3;
    let shown = missing.get(..SHOWN).unwrap_or(missing).join(", ");
    match missing.len() {
        0 => None,
        count @ ..=SHOWN => Some(format!("has not accepted {shown} ({count} in all)")),
        count => Some(format!("has not accepted {shown}, … ({count} in all)")),
    }
}

/// The lease follows the stream. The state file is not touched, so this does not block.
fn stream(plane: &Plane, id: &str, opened: bool) {
    if let Err(error) = plane.stream(id, opened) {
        tracing::error!(%error, id, "cannot note a workload's stream");
    }
}

/// The only resource of a snapshot.
fn of(snapshot: Snapshot) -> Option<Resource> {
    let Snapshot {
        listeners,
        routes,
        clusters,
        endpoints,
        ..
    } = snapshot;
    let listener = listeners.into_values().next().map(Resource::Listener);
    listener
        .or_else(|| routes.into_values().next().map(Resource::Route))
        .or_else(|| clusters.into_values().next().map(Resource::Cluster))
        .or_else(|| endpoints.into_values().next().map(Resource::Endpoints))
}

/// The user's resources behind compiled ones: whose status a refusal belongs to.
fn origins(snapshot: &Snapshot) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut add = |resource: &ripstop_model::snapshot::Resource| {
        found.insert(format!(
            "{}/{}/{}",
            resource.kind, resource.namespace, resource.name
        ));
    };
    for route in snapshot
        .routes
        .values()
        .flat_map(|table| &table.hosts)
        .flat_map(|host| &host.routes)
    {
        route.resource.iter().for_each(&mut add);
    }
    for cluster in snapshot.clusters.values() {
        cluster.resource.iter().for_each(&mut add);
    }
    for listener in snapshot.listeners.values() {
        for chain in listener.chains.iter().chain(&listener.default_chain) {
            for policy in chain.authz.iter().flat_map(|filter| &filter.policies) {
                policy.resource.iter().for_each(&mut add);
            }
            match &chain.terminal {
                Terminal::Tcp(proxy) => proxy.resource.iter().for_each(&mut add),
                Terminal::Http(http) => {
                    for filter in &http.filters {
                        if let ripstop_model::snapshot::HttpFilter::Authz(authz) = filter {
                            let policies = authz.policies.iter();
                            policies
                                .filter_map(|p| p.resource.as_ref())
                                .for_each(&mut add);
                        }
                    }
                }
            }
        }
    }
    found
}

impl Answers for Session {
    fn resource(&mut self, kind: Kind, name: &Name) -> Option<Encoded> {
        let key = (kind, name.clone());
        if let Some(known) = self.cache.get(&key) {
            return known.clone();
        }
        let encoded = self.encode(kind, name);
        self.cache.insert(key, encoded.clone());
        encoded
    }

    fn names(&mut self, kind: Kind) -> Vec<Name> {
        let view = View {
            mesh: &self.current.mesh,
            workloads: &self.current.workloads,
            client: &self.client,
            scope: &Scope::All,
        };
        if kind == Kind::Host {
            return compile::hosts(&view).into_iter().collect();
        }
        let all = self.all.get_or_insert_with(|| compile::everything(&view));
        let names = match kind {
            Kind::Cluster => &all.clusters,
            Kind::Endpoints => &all.endpoints,
            Kind::Listener => &all.listeners,
            Kind::Route => &all.routes,
            Kind::Host | Kind::Ranges | Kind::Secret => return Vec::new(),
        };
        names.iter().cloned().collect()
    }
}

impl service::Proxy for Session {
    fn speaks(&mut self, protocol: Protocol) {
        let word = match protocol {
            Protocol::Delta => "delta",
            Protocol::Full => "sotw",
        };
        self.plane
            .proxies()
            .update(self.id, |proxy| proxy.protocol = word);
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Subscribed { kind, names } => {
                self.subscribed.entry(kind).or_default().extend(names);
            }
            Event::SubscribedAll { kind } => {
                self.wildcards.insert(kind);
            }
            Event::Unsubscribed { kind, names } => {
                for name in names {
                    if let Some(known) = self.subscribed.get_mut(&kind) {
                        known.remove(&name);
                    }
                    let key = (kind, name);
                    self.cache.remove(&key);
                    self.confirmed.remove(&key);
                }
            }
            Event::Acknowledged { kind, resources } => {
                let confirmed = resources
                    .into_iter()
                    .map(|(name, version)| ((kind, name), version));
                self.confirmed.extend(confirmed);
                self.plane.proxies().update(self.id, |proxy| {
                    proxy.rejected.remove(kind.as_str());
                });
                self.judge();
            }
            Event::Rejected {
                kind,
                resources,
                message,
            } => self.rejected(kind, &resources, message),
            Event::Health(trouble) => {
                self.health = Some(match trouble {
                    None => Readiness::Ready,
                    Some(_) => Readiness::Unready,
                });
                self.report();
            }
        }
    }

    async fn changed(&mut self) {
        if self.changes.changed().await.is_err() {
            // The control plane is going away, and the stream with it.
            std::future::pending::<()>().await;
        }
        self.refresh();
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.plane.proxies().closed(self.id);
        if let Some(member) = &self.client.member {
            stream(&self.plane, &member.id, false);
        }
    }
}

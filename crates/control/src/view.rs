//! What `compile` reads: the mesh as configured, its workloads as they are now, and the proxy that is asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use ripstop_model::intent::peer_authentication::{MtlsMode, MutualTls};
use ripstop_model::intent::registry::{self, CLUSTER_DOMAIN, Port, covers};
use ripstop_model::intent::selection::WorkloadSelector;
use ripstop_model::intent::service_entry::{Location, Resolution};
use ripstop_model::intent::sidecar::OutboundMode;
use ripstop_model::intent::{
    AuthorizationPolicy, DestinationRule, Key, Kind, Object, PeerAuthentication, Service, Sidecar,
    Spec, VirtualService, authorization_policy,
};
use ripstop_model::snapshot::{Name, Resource};

use crate::registry::{Member, Workloads};
use crate::settings::Settings;
use crate::store::{Closed, Configuration};

/// What `source_cluster` and `destination_cluster` say: Istio's name for a mesh of one cluster.
pub const CLUSTER_ID: &str = "Kubernetes";

/// A resource with its name, in the order in which overlaps are resolved (R1.1).
#[derive(Debug, Clone, PartialEq)]
pub struct Declared<T> {
    pub namespace: String,
    pub name: String,
    pub annotations: BTreeMap<String, String>,
    pub spec: T,
}

impl<T> Declared<T> {
    fn of(object: &Object, spec: T) -> Arc<Declared<T>> {
        Arc::new(Declared {
            namespace: object.namespace.clone(),
            name: object.name.clone(),
            annotations: object.annotations.clone(),
            spec,
        })
    }

    /// The user's resource behind something compiled.
    pub fn resource(&self, kind: &str, part: String) -> Resource {
        Resource {
            kind: kind.into(),
            namespace: self.namespace.as_str().into(),
            name: self.name.as_str().into(),
            part: part.into(),
        }
    }
}

/// A service with its addresses.
#[derive(Debug, Clone, PartialEq)]
pub struct Known {
    pub service: Service,
    /// Virtual addresses: allocated, or written in a ServiceEntry. Empty for wildcards and for what only the outside resolves.
    pub vips: Vec<IpAddr>,
    /// Service accounts of its declared workloads, whether or not one has joined, and of its members.
    pub accounts: BTreeSet<String>,
}

impl std::ops::Deref for Known {
    type Target = Service;

    fn deref(&self) -> &Service {
        &self.service
    }
}

/// The configuration at one revision, indexed. Shared by every proxy's view.
#[derive(Debug, Clone)]
pub struct Mesh {
    pub revision: u64,
    pub settings: Settings,
    pub services: BTreeMap<Arc<str>, Arc<Known>>,
    by_vip: BTreeMap<IpAddr, Arc<str>>,
    pub virtual_services: Vec<Arc<Declared<VirtualService>>>,
    pub destination_rules: Vec<Arc<Declared<DestinationRule>>>,
    pub peer_authentications: Vec<Arc<Declared<PeerAuthentication>>>,
    pub authorization_policies: Vec<Arc<Declared<AuthorizationPolicy>>>,
    /// By namespace.
    sidecars: BTreeMap<String, Vec<Arc<Declared<Sidecar>>>>,
    /// Host of a service → the VirtualServices that route to it.
    routed: BTreeMap<Arc<str>, Vec<Arc<Declared<VirtualService>>>>,
    /// Host, or wildcard, that VirtualServices are about → those, in order.
    ruled: BTreeMap<String, Vec<Arc<Declared<VirtualService>>>>,
    /// Hosts of VirtualServices, and of those that are refused, that no service has; wildcards only where they cover no service.
    pub unregistered: BTreeSet<String>,
    /// Hosts, as patterns, of routes and destination rules that are not accepted and never were.
    closed: Vec<(String, Resource)>,
    /// Addresses of the mesh and those that ServiceEntries name.
    pub ranges: Arc<[IpNet]>,
    /// How many workloads the mesh file declares of a host.
    pub replicas: BTreeMap<Arc<str>, u32>,
}

impl Mesh {
    /// Indexes a configuration. `joined` are members whose services no resource may declare; `vips` gives a host its allocated
    /// addresses.
    pub fn new(
        revision: u64,
        mut settings: Settings,
        configuration: &Configuration,
        joined: &[Arc<Member>],
        vips: &mut dyn FnMut(&str) -> Vec<IpAddr>,
    ) -> Mesh {
        let mut ordered: Vec<&Arc<Object>> = configuration.objects.iter().collect();
        ordered.sort_by(|a, b| a.precedence(b));
        let mut accounts: BTreeMap<Arc<str>, BTreeSet<String>> = BTreeMap::new();
        let mut mesh = Mesh {
            revision,
            settings: settings.clone(),
            services: BTreeMap::new(),
            by_vip: BTreeMap::new(),
            virtual_services: Vec::new(),
            destination_rules: Vec::new(),
            peer_authentications: Vec::new(),
            authorization_policies: Vec::new(),
            sidecars: BTreeMap::new(),
            routed: BTreeMap::new(),
            ruled: BTreeMap::new(),
            unregistered: BTreeSet::new(),
            closed: Vec::new(),
            ranges: Arc::new([]),
            replicas: BTreeMap::new(),
        };
        for object in &ordered {
            match &object.spec {
                Spec::Mesh(spec) => {
                    settings.overlay(spec);
                    for (service, workload) in registry::workloads(spec) {
                        let host = registry::qualify(&service.name, service.namespace());
                        let host: Arc<str> = host.into();
                        *mesh.replicas.entry(host.clone()).or_default() += workload.replicas();
                        accounts
                            .entry(host)
                            .or_default()
                            .insert(workload.service_account(service).to_owned());
                    }
                }
                Spec::VirtualService(spec) => {
                    let rule = Declared::of(object, (**spec).clone());
                    mesh.virtual_services.push(rule);
                }
                Spec::DestinationRule(spec) => {
                    let mut spec = (**spec).clone();
                    spec.workload_selector = selecting(spec.workload_selector);
                    mesh.destination_rules.push(Declared::of(object, spec));
                }
                Spec::PeerAuthentication(spec) => {
                    let mut spec = (**spec).clone();
                    spec.selector = selecting(spec.selector);
                    mesh.peer_authentications.push(Declared::of(object, spec));
                }
                Spec::AuthorizationPolicy(spec) => {
                    let policy = Declared::of(object, (**spec).clone());
                    mesh.authorization_policies.push(policy);
                }
                Spec::Sidecar(spec) => {
                    let mut spec = (**spec).clone();
                    spec.workload_selector
                        .take_if(|selector| selector.labels.is_empty());
                    let list = mesh.sidecars.entry(object.namespace.clone()).or_default();
                    list.push(Declared::of(object, spec));
                }
                Spec::ServiceEntry(_) => {}
            }
        }
        for member in joined {
            if let Some(host) = &member.service {
                let account = member.service_account.to_string();
                accounts.entry(host.clone()).or_default().insert(account);
            }
        }
        for closed in &configuration.closed {
            mesh.close(closed);
        }
        let declared = registry::services(ordered.iter().map(|object| &***object));
        for service in declared
            .into_iter()
            .chain(joined.iter().filter_map(|m| of_member(m)))
        {
            mesh.add(service, &accounts, vips);
        }
        for closed in &configuration.closed {
            for service in unserved(closed) {
                mesh.add(service, &accounts, vips);
            }
        }
        mesh.index_routes();
        mesh.settings = settings;
        let mut ranges: BTreeSet<IpNet> = mesh.settings.ranges.visible().into_iter().collect();
        for service in mesh.services.values() {
            ranges.extend(service.addresses.iter().copied());
        }
        mesh.ranges = ranges.into_iter().collect();
        mesh
    }

    /// What a resource that was never accepted names is refused: hosts are not routed, workloads take nobody (or, where it was
    /// about mTLS, nothing but mTLS).
    fn close(&mut self, closed: &Closed) {
        let selector = closed
            .selector
            .clone()
            .map(|match_labels| WorkloadSelector { match_labels });
        let Key {
            namespace,
            name,
            kind,
        } = closed.key.clone();
        match kind {
            Kind::VirtualService | Kind::DestinationRule => {
                let resource = Resource {
                    kind: kind.as_str().into(),
                    namespace: namespace.as_str().into(),
                    name: name.as_str().into(),
                    part: "".into(),
                };
                let hosts = closed.hosts.iter();
                self.closed.extend(
                    hosts.map(|host| (registry::qualify(host, &namespace), resource.clone())),
                );
            }
            Kind::AuthorizationPolicy => self.authorization_policies.push(Arc::new(Declared {
                namespace,
                name,
                annotations: BTreeMap::new(),
                spec: AuthorizationPolicy {
                    selector,
                    rules: vec![authorization_policy::Rule::default()],
                    action: Some(authorization_policy::Action::Deny),
                },
            })),
            Kind::PeerAuthentication => self.peer_authentications.insert(
                0,
                Arc::new(Declared {
                    namespace,
                    name,
                    annotations: BTreeMap::new(),
                    spec: PeerAuthentication {
                        selector,
                        mtls: Some(MutualTls {
                            mode: Some(MtlsMode::Strict),
                        }),
                        port_level_mtls: BTreeMap::new(),
                    },
                }),
            ),
            // A host of its own with nothing behind it: see `unserved`. A Sidecar keeps nobody out.
            Kind::Mesh | Kind::ServiceEntry | Kind::Sidecar => {}
        }
    }

    fn index_routes(&mut self) {
        let mut routed: BTreeMap<Arc<str>, Vec<Arc<Declared<VirtualService>>>> = BTreeMap::new();
        for rule in &self.virtual_services {
            let mut hosts: BTreeSet<&Arc<str>> = BTreeSet::new();
            for destination in rule.spec.destinations() {
                let host = registry::qualify(&destination.host, &rule.namespace);
                hosts.extend(self.covering(&host).map(|known| &known.host));
            }
            for host in hosts {
                routed.entry(host.clone()).or_default().push(rule.clone());
            }
        }
        self.routed = routed;
        let mut ruled: BTreeMap<String, Vec<Arc<Declared<VirtualService>>>> = BTreeMap::new();
        for rule in &self.virtual_services {
            let hosts = rule.spec.hosts.iter();
            let hosts: BTreeSet<String> = hosts
                .map(|host| registry::qualify(host, &rule.namespace))
                .collect();
            for host in hosts {
                ruled.entry(host).or_default().push(rule.clone());
            }
        }
        let closed = self.closed.iter().map(|(host, _)| host);
        self.unregistered = ruled
            .keys()
            .chain(closed)
            .filter(|host| match host.starts_with('*') {
                true => !self.services.keys().any(|known| covers(host, known)),
                false => !self.services.contains_key(host.as_str()),
            })
            .cloned()
            .collect();
        self.ruled = ruled;
    }

    /// The VirtualServices about exactly this host or wildcard, in order.
    pub fn ruled(&self, host: &str) -> &[Arc<Declared<VirtualService>>] {
        self.ruled.get(host).map_or(&[], Vec::as_slice)
    }

    /// The resource because of which a host is refused.
    pub fn closed(&self, host: &str) -> Option<&Resource> {
        let covered = |(pattern, _): &&(String, Resource)| covers(pattern, host);
        self.closed
            .iter()
            .find(covered)
            .map(|(_, resource)| resource)
    }

    /// The first declaration of a host counts; members add the ports that it lacks.
    fn add(
        &mut self,
        service: Service,
        accounts: &BTreeMap<Arc<str>, BTreeSet<String>>,
        vips: &mut dyn FnMut(&str) -> Vec<IpAddr>,
    ) {
        let host = service.host.clone();
        if let Some(known) = self.services.get_mut(&host) {
            Arc::make_mut(known).service.join(&service);
            return;
        }
        let written: Vec<IpAddr> = service
            .addresses
            .iter()
            .filter(|net| net.prefix_len() == net.max_prefix_len())
            .map(IpNet::addr)
            .collect();
        let vips = if !service.addresses.is_empty() {
            written
        } else if host.starts_with('*') || service.resolution == Resolution::None {
            // Nothing could be dialled: a wildcard has no address of its own, and NONE dials what the client asked for.
            Vec::new()
        } else {
            vips(&host)
        };
        for vip in &vips {
            self.by_vip.entry(*vip).or_insert_with(|| host.clone());
        }
        let accounts = accounts.get(&host).cloned().unwrap_or_default();
        self.services.insert(
            host,
            Arc::new(Known {
                service,
                vips,
                accounts,
            }),
        );
    }

    pub fn service(&self, host: &str) -> Option<&Arc<Known>> {
        self.services.get(host)
    }

    /// The service of a virtual address, or of a block that a ServiceEntry names.
    pub fn by_address(&self, address: IpAddr) -> Option<&Arc<Known>> {
        if let Some(host) = self.by_vip.get(&address) {
            return self.services.get(host);
        }
        self.services
            .values()
            .filter_map(|known| {
                let nets = known.addresses.iter().filter(|net| net.contains(&address));
                nets.map(IpNet::prefix_len)
                    .max()
                    .map(|length| (length, known))
            })
            .max_by_key(|(length, _)| *length)
            .map(|(_, known)| known)
    }

    /// The service that a destination means: exact, else the longest wildcard that covers it.
    pub fn covering(&self, host: &str) -> Option<&Arc<Known>> {
        self.services.get(host).or_else(|| {
            self.services
                .values()
                .filter(|known| known.host.starts_with('*') && covers(&known.host, host))
                .max_by_key(|known| known.host.len())
        })
    }
}

/// `selector: {}` selects what no selector at all does.
fn selecting(selector: Option<WorkloadSelector>) -> Option<WorkloadSelector> {
    selector.filter(|selector| !selector.is_empty())
}

/// The hosts of a ServiceEntry that is not accepted and never was, with an address and without a port: who calls one is refused,
/// where without the entry the call would pass to the outside.
fn unserved(closed: &Closed) -> impl Iterator<Item = Service> + '_ {
    let part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let hosts = closed.hosts.iter();
    hosts
        .filter(move |host| closed.key.kind == Kind::ServiceEntry && host.bytes().all(part))
        .map(|host| Service {
            host: registry::qualify(host, &closed.key.namespace).into(),
            namespace: closed.key.namespace.clone(),
            name: host.to_ascii_lowercase(),
            ports: Vec::new(),
            labels: BTreeMap::new(),
            addresses: Vec::new(),
            headless: false,
            resolution: Resolution::Static,
            location: Location::MeshExternal,
            backing: registry::Backing::Endpoints(Vec::new()),
            subject_alt_names: Vec::new(),
            export_to: Vec::new(),
            declared: closed.key.clone(),
        })
}

/// What a member's registration says of its service.
pub(crate) fn of_member(member: &Member) -> Option<Service> {
    let host = member.service.clone()?;
    Some(Service {
        host,
        namespace: member.namespace.to_string(),
        name: member.service_name.clone(),
        ports: member
            .ports
            .iter()
            .map(|port| registry::Port {
                number: port.port,
                name: if port.name.is_empty() {
                    format!("port-{}", port.port)
                } else {
                    port.name.clone()
                },
                protocol: port.protocol(),
                target: port.target(),
            })
            .collect(),
        labels: BTreeMap::new(),
        addresses: Vec::new(),
        headless: member.headless,
        resolution: Resolution::Static,
        location: Location::MeshInternal,
        backing: registry::Backing::Workloads,
        subject_alt_names: Vec::new(),
        export_to: Vec::new(),
        declared: Key {
            kind: ripstop_model::intent::Kind::Mesh,
            namespace: member.namespace.to_string(),
            name: member.service_name.clone(),
        },
    })
}

/// Who asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Client {
    pub namespace: String,
    pub labels: BTreeMap<String, String>,
    pub service_account: String,
    /// Its registration, if it is a workload that others may call.
    pub member: Option<Arc<Member>>,
    /// Which host it runs on; see [`Member::host`].
    pub host: String,
    /// Not a ripstop proxy: it gets plain upstream extensions and everything at once (decisions: private keys).
    pub stock: bool,
    /// `INTERCEPTION_MODE: NONE`: nothing redirects its traffic, so its listeners bind their own addresses.
    pub captured: bool,
}

/// What is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Scope {
    /// Everything the client may see.
    #[default]
    All,
    Named(Wanted),
}

/// Resource names by type, as a proxy subscribes to them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    pub listeners: BTreeSet<Name>,
    pub routes: BTreeSet<Name>,
    pub clusters: BTreeSet<Name>,
    pub endpoints: BTreeSet<Name>,
    pub hosts: BTreeSet<Name>,
}

/// The only argument of `compile`.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    pub mesh: &'a Mesh,
    pub workloads: &'a Workloads,
    pub client: &'a Client,
    pub scope: &'a Scope,
}

impl<'a> View<'a> {
    /// Whether a resource of `namespace` with this `exportTo` reaches the client (empty: everywhere).
    pub fn visible(&self, namespace: &str, export_to: &[String]) -> bool {
        export_to.is_empty()
            || export_to.iter().any(|to| match to.as_str() {
                "*" => true,
                "." => namespace == self.client.namespace,
                "~" => false,
                named => named == self.client.namespace,
            })
    }

    /// The Sidecar of the client: one that selects it, else its namespace's, else the root namespace's.
    pub fn sidecar(&self) -> Option<&'a Declared<Sidecar>> {
        let of = |namespace: &str| {
            let list = self.mesh.sidecars.get(namespace);
            list.map_or(&[][..], Vec::as_slice)
        };
        let own = of(&self.client.namespace);
        let selecting = own.iter().find(|sidecar| {
            let selector = sidecar.spec.workload_selector.as_ref();
            selector.is_some_and(|selector| {
                let mut labels = selector.labels.iter();
                labels.all(|(key, value)| self.client.labels.get(key) == Some(value))
            })
        });
        let wide = |list: &'a [Arc<Declared<Sidecar>>]| {
            let mut list = list.iter();
            list.find(|sidecar| sidecar.spec.workload_selector.is_none())
        };
        selecting
            .or_else(|| wide(own))
            .or_else(|| wide(of(&self.mesh.settings.root_namespace)))
            .map(|sidecar| &**sidecar)
    }

    /// Whether the client is told of a service at all.
    pub fn sees(&self, known: &Known) -> bool {
        self.visible(&known.namespace, &known.export_to) && self.imports(known, None)
    }

    /// The ports of a service that the client is told of.
    pub fn ports<'k>(&self, known: &'k Known) -> impl Iterator<Item = &'k Port> {
        known
            .ports
            .iter()
            .filter(|port| self.imports(known, Some(port.number)))
    }

    pub fn reaches(&self, known: &Known, port: u16) -> bool {
        self.imports(known, Some(port))
    }

    /// By a host of its Sidecar, or because a route that it follows leads there.
    fn imports(&self, known: &Known, port: Option<u16>) -> bool {
        let Some(sidecar) = self.sidecar() else {
            return true;
        };
        let own = &self.client.namespace;
        let imports = &sidecar.spec;
        imports.imports(own, &known.namespace, &known.host, port)
            || self
                .mesh
                .routed
                .get(&known.host)
                .is_some_and(|rules| rules.iter().any(|rule| self.follows(rule)))
    }

    /// Whether the client is told of the rules of a VirtualService.
    pub fn follows(&self, rule: &Declared<VirtualService>) -> bool {
        rule.spec.in_mesh()
            && self.visible(&rule.namespace, &rule.spec.export_to)
            && self.sidecar().is_none_or(|sidecar| {
                let hosts = rule.spec.hosts.iter();
                let hosts: Vec<String> = hosts
                    .map(|host| registry::qualify(host, &rule.namespace))
                    .collect();
                let own = &self.client.namespace;
                sidecar.spec.imports_routes(own, &rule.namespace, &hosts)
            })
    }

    /// Whether addresses outside the mesh may be reached.
    pub fn allows_any(&self) -> bool {
        let policy = self
            .sidecar()
            .and_then(|sidecar| sidecar.spec.outbound_traffic_policy.as_ref());
        policy.map_or(self.mesh.settings.allow_any, |policy| {
            policy.mode == Some(OutboundMode::AllowAny)
        })
    }
}

/// `outbound|<port>|<subset>|<host>`.
pub fn cluster_name(port: u16, subset: &str, host: &str) -> Name {
    format!("outbound|{port}|{subset}|{host}").into()
}

/// The parts of [`cluster_name`].
pub fn parse_cluster(name: &str) -> Option<(u16, &str, &str)> {
    let mut parts = name.strip_prefix("outbound|")?.splitn(3, '|');
    let port = parts.next()?.parse().ok()?;
    Some((port, parts.next()?, parts.next()?))
}

/// `<host>:<port>`, the name of a RouteConfiguration.
pub fn route_name(port: u16, host: &str) -> Name {
    format!("{host}:{port}").into()
}

pub fn parse_route(name: &str) -> Option<(u16, &str)> {
    let (host, port) = name.rsplit_once(':')?;
    Some((port.parse().ok()?, host))
}

/// `<vip>_<port>`, the name of an outbound Listener.
pub fn parse_listener(name: &str) -> Option<(IpAddr, u16)> {
    let (address, port) = name.rsplit_once('_')?;
    Some((address.parse().ok()?, port.parse().ok()?))
}

/// Every spelling by which applications of `namespace` call a host.
pub fn spellings(host: &str, namespace: &str) -> Vec<String> {
    let mut names = vec![host.to_owned()];
    let suffix = format!(".svc.{CLUSTER_DOMAIN}");
    if let Some((name, of)) = host
        .strip_suffix(suffix.as_str())
        .and_then(|short| short.split_once('.'))
    {
        names.push(format!("{name}.{of}.svc"));
        names.push(format!("{name}.{of}"));
        if of == namespace {
            names.push(name.to_owned());
        }
    }
    names
}

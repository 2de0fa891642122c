//! Registrations, readiness reports and leases → who is an endpoint of what, as an immutable table per change.
//!
//! A state machine: it owns no clock and does no I/O. What must survive a restart ([`Member`]) is handed to the caller to write
//! down; readiness and leases are of this process only, and restored members start with a fresh lease, so that a restarted
//! control plane removes nobody before they had time to come back (R9.3).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ripstop_model::intent::registry::qualify;
use serde::{Deserialize, Serialize};

use crate::address::{self, AddressError, Addresses, Allocator, Pool, Ranges};
use crate::api::message::{Inbound, InboundKind, Port, Readiness, Register};

/// Without a stream and without a report for this long, a workload gets no more traffic (R22.2 asks for 15 s at most).
pub const LEASE: Duration = Duration::from_secs(15);
/// The same after a stream has ended: what its keep-alive took to notice ([`KEEPALIVE`]) is part of the lease.
const RECONNECT: Duration = Duration::from_secs(7);
/// A silent connection is asked for a sign of life after the first, and has failed after the second.
pub(crate) const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(4));
/// Without a sign of life for this long a registration is forgotten; its addresses stay reserved for its name.
pub const FORGET: Duration = Duration::from_secs(600);

const MAX_MEMBERS: usize = 20_000;
const MAX_PORTS: usize = 64;
const MAX_LABELS: usize = 64;
/// Ports on advertised addresses: below the ephemeral range, and without the mesh's own well-known ones.
const ADVERTISED: (u16, u16) = (10_000, 19_999);
const WELL_KNOWN: std::ops::RangeInclusive<u16> = 15_000..=15_099;

/// A registered workload: what is written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub id: Arc<str>,
    pub namespace: Arc<str>,
    /// Fully qualified; `None` for a client that nobody calls.
    pub service: Option<Arc<str>>,
    pub service_name: String,
    pub service_account: Arc<str>,
    pub workload: Arc<str>,
    pub replica: u32,
    pub labels: BTreeMap<String, String>,
    pub ports: Vec<Port>,
    pub host: String,
    pub advertise: Option<IpAddr>,
    /// Target port → port on the advertised address, which the workloads of a host share.
    #[serde(default)]
    pub advertised: BTreeMap<u16, u16>,
    pub headless: bool,
    pub addresses: Addresses,
}

impl Member {
    /// Target port → port on the transport and advertised addresses.
    pub fn transport_ports(&self) -> BTreeMap<u16, u16> {
        address::transport_ports(&self.targets())
    }

    pub fn targets(&self) -> BTreeSet<u16> {
        self.ports.iter().map(Port::target).collect()
    }

    /// Every inbound listener, by target port, then kind.
    pub fn inbound(&self) -> Vec<Inbound> {
        let mut listeners = BTreeMap::new();
        for (target, port) in self.transport_ports() {
            let address = SocketAddr::new(self.addresses.transport.into(), port);
            listeners.insert(
                (target, InboundKind::Transport, address),
                format!("inbound|{target}||{}", self.id),
            );
            if let (Some(ip), Some(port)) = (self.advertise, self.advertised.get(&target)) {
                listeners.insert(
                    (target, InboundKind::Advertised, SocketAddr::new(ip, *port)),
                    format!("inbound|{target}|advertised|{}", self.id),
                );
            }
        }
        for port in &self.ports {
            if let Some(address) = port.publish {
                listeners.insert(
                    (port.target(), InboundKind::Published, address),
                    format!(
                        "inbound|{}|published_{}|{}",
                        port.target(),
                        address,
                        self.id
                    ),
                );
            }
        }
        listeners
            .into_iter()
            .map(|((target_port, kind, address), listener)| Inbound {
                listener,
                target_port,
                kind,
                address,
            })
            .collect()
    }

    /// The name inside a node id and of a pod-like thing: `<workload>-<replica>`.
    pub fn pod(&self) -> String {
        format!("{}-{}", self.workload, self.replica)
    }

    pub fn node(&self) -> String {
        format!(
            "sidecar~{}~{}.{}~{}.svc.{}",
            self.addresses.v4,
            self.pod(),
            self.namespace,
            self.namespace,
            ripstop_model::intent::registry::CLUSTER_DOMAIN
        )
    }
}

/// One workload as callers see it now.
#[derive(Debug, Clone, PartialEq)]
pub struct Present {
    pub member: Arc<Member>,
    pub readiness: Readiness,
    pub alive: bool,
}

impl Present {
    /// May take traffic.
    pub fn takes_traffic(&self) -> bool {
        self.alive && self.readiness == Readiness::Ready
    }

    /// Is named to callers at all: a draining one is, so that what is bound to it may end there (R4.3).
    pub fn is_listed(&self) -> bool {
        self.alive && matches!(self.readiness, Readiness::Ready | Readiness::Draining)
    }
}

/// All workloads at one moment.
#[derive(Debug, Clone, Default)]
pub struct Workloads {
    pub by_id: BTreeMap<Arc<str>, Present>,
    by_service: BTreeMap<Arc<str>, Vec<Arc<str>>>,
    by_address: BTreeMap<IpAddr, Arc<str>>,
}

impl Workloads {
    fn insert(&mut self, present: Present) {
        let member = &present.member;
        if let Some(service) = &member.service {
            self.by_service
                .entry(service.clone())
                .or_default()
                .push(member.id.clone());
        }
        self.by_address
            .insert(member.addresses.v4.into(), member.id.clone());
        self.by_address
            .insert(member.addresses.v6.into(), member.id.clone());
        self.by_id.insert(member.id.clone(), present);
    }

    pub fn of_service<'a>(&'a self, host: &str) -> impl Iterator<Item = &'a Present> + use<'a> {
        self.by_service
            .get(host)
            .into_iter()
            .flatten()
            .filter_map(|id| self.by_id.get(id))
    }

    pub fn by_address(&self, address: IpAddr) -> Option<&Present> {
        self.by_address
            .get(&address)
            .and_then(|id| self.by_id.get(id))
    }

    /// `<workload>-<replica>.<service fqdn>`, as Kubernetes names the pods of a headless service.
    pub fn by_pod_name(&self, host: &str) -> Option<&Present> {
        let (pod, service) = host.split_once('.')?;
        self.of_service(service).find(|p| p.member.pod() == pod)
    }

    pub fn services(&self) -> impl Iterator<Item = &Arc<str>> {
        self.by_service.keys()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    #[error(
        "`{value}` is not a name for {what}: use lower-case letters, digits and dashes, at most 63"
    )]
    Name { what: &'static str, value: String },
    #[error("port {0} is given twice")]
    DuplicatePort(u16),
    #[error("port 0 is not a port")]
    ZeroPort,
    #[error("at most {MAX_PORTS} ports and {MAX_LABELS} labels")]
    TooMuch,
    #[error("{MAX_MEMBERS} workloads are registered: deregister some")]
    Full,
    #[error("ports without a service: name the service they belong to")]
    NoService,
    #[error(
        "workload {0} is of another service account, or runs already: give this one another --workload name"
    )]
    Taken(String),
    #[error("every port of {0} that workloads share is taken: advertise another address")]
    NoPort(IpAddr),
    #[error(transparent)]
    Address(#[from] AddressError),
}

#[derive(Debug)]
struct Live {
    member: Arc<Member>,
    readiness: Readiness,
    streams: u32,
    /// The end of the lease where no stream is open.
    until: Instant,
}

impl Live {
    fn alive(&self, now: Instant) -> bool {
        self.streams > 0 || now < self.until
    }

    fn is_forgotten(&self, now: Instant) -> bool {
        self.streams == 0 && now >= self.until + FORGET
    }
}

/// The state machine.
#[derive(Debug, Default)]
pub struct Registry {
    members: BTreeMap<Arc<str>, Live>,
}

/// What a registration changed and the caller has to write down.
#[derive(Debug)]
pub struct Joined {
    pub member: Arc<Member>,
    /// A new reservation: name and index.
    pub reserved: Option<(String, u32)>,
}

impl Registry {
    /// Members of an earlier run, ready as far as is known until their lease ends.
    pub fn restore(members: impl IntoIterator<Item = Member>, now: Instant) -> Registry {
        let members = members
            .into_iter()
            .map(|member| {
                let live = Live {
                    member: Arc::new(member),
                    readiness: Readiness::Ready,
                    streams: 0,
                    until: now + LEASE,
                };
                (live.member.id.clone(), live)
            })
            .collect();
        Registry { members }
    }

    pub fn register(
        &mut self,
        request: Register,
        allocator: &mut Allocator,
        ranges: &Ranges,
        now: Instant,
    ) -> Result<Joined, RegisterError> {
        let request = checked(request)?;
        // Whoever speaks for the mesh's owner keeps nothing for others.
        let replica = request
            .replica
            .unwrap_or_else(|| self.free_replica(&request, now, |_| false));
        let id: Arc<str> = format!("{}-{replica}.{}", request.workload, request.namespace).into();
        if !self.members.contains_key(&id) && self.members.len() >= MAX_MEMBERS {
            return Err(RegisterError::Full);
        }
        let (index, new) = allocator.index(Pool::Workload, &id, ranges)?;
        let service = (!request.service.is_empty())
            .then(|| qualify(&request.service, &request.namespace).into());
        let mut labels = request.labels;
        if !request.service.is_empty() {
            labels
                .entry("app".to_owned())
                .or_insert_with(|| request.service.clone());
        }
        let ports = request.ports;
        let advertised = match request.advertise {
            Some(ip) => self.advertised(&id, ip, &ports)?,
            None => BTreeMap::new(),
        };
        let member = Arc::new(Member {
            id: id.clone(),
            namespace: request.namespace.into(),
            service,
            service_name: request.service,
            service_account: request.service_account.into(),
            workload: request.workload.into(),
            replica,
            labels,
            ports,
            host: request.host,
            advertise: request.advertise,
            advertised,
            headless: request.headless,
            addresses: ranges.workload(index),
        });
        let streams = self.members.get(&id).map_or(0, |live| live.streams);
        self.members.insert(
            id.clone(),
            Live {
                member: member.clone(),
                readiness: if request.ready {
                    Readiness::Ready
                } else {
                    Readiness::Starting
                },
                streams,
                until: now + LEASE,
            },
        );
        Ok(Joined {
            member,
            reserved: new.then(|| (id.to_string(), index)),
        })
    }

    /// Whether a newcomer of `account` may be the workload `id`: nobody is, or one of the same account that is gone, or
    /// (`itself`) that very one.
    pub fn may_be(&self, id: &str, account: &str, itself: bool, now: Instant) -> bool {
        self.members.get(id).is_none_or(|live| {
            *live.member.service_account == *account && (itself || !live.alive(now))
        })
    }

    /// A port of `ip` for each target port, where the search starts following from the name, so that ports mostly survive a
    /// lost state file; those that it has there are kept.
    fn advertised(
        &self,
        id: &str,
        ip: IpAddr,
        ports: &[Port],
    ) -> Result<BTreeMap<u16, u16>, RegisterError> {
        let before = self.members.get(id).map(|live| &live.member.advertised);
        let mut taken: BTreeSet<u16> = self
            .members
            .values()
            .filter(|live| *live.member.id != *id && live.member.advertise == Some(ip))
            .flat_map(|live| live.member.advertised.values().copied())
            .collect();
        let targets: BTreeSet<u16> = ports.iter().map(Port::target).collect();
        let mut chosen = BTreeMap::new();
        for target in targets {
            let own = before.and_then(|before| before.get(&target).copied());
            let (first, last) = ADVERTISED;
            let span = last - first + 1;
            let start = own.map_or_else(
                || (address::fnv(&format!("{id}/{target}")) % u32::from(span)) as u16,
                |own| own - first,
            );
            let free = (0..span)
                .map(|step| first + (start + step) % span)
                .find(|port| !WELL_KNOWN.contains(port) && !taken.contains(port))
                .ok_or(RegisterError::NoPort(ip))?;
            taken.insert(free);
            chosen.insert(target, free);
        }
        Ok(chosen)
    }

    /// The workload's host is elsewhere now, or has another address. `None`: it is where it was.
    pub fn place(
        &mut self,
        id: &str,
        host: String,
        advertise: Option<IpAddr>,
    ) -> Result<Option<Arc<Member>>, RegisterError> {
        let Some(live) = self.members.get(id) else {
            return Ok(None);
        };
        if live.member.host == host && live.member.advertise == advertise {
            return Ok(None);
        }
        let advertised = match advertise {
            Some(ip) => self.advertised(id, ip, &live.member.ports)?,
            None => BTreeMap::new(),
        };
        let member = Arc::new(Member {
            host,
            advertise,
            advertised,
            ..(*live.member).clone()
        });
        if let Some(live) = self.members.get_mut(id) {
            live.member = member.clone();
        }
        Ok(Some(member))
    }

    /// The lowest number of a workload that nobody lives as, that was no other account's, and that is not `kept` for somebody.
    pub fn free_replica(
        &self,
        request: &Register,
        now: Instant,
        kept: impl Fn(&str) -> bool,
    ) -> u32 {
        let account = &request.service_account;
        let is_free = |replica: &u32| {
            let numbered = Register {
                replica: Some(*replica),
                ..request.clone()
            };
            let id = numbered.id().unwrap_or_default();
            self.may_be(&id, account, false, now) && !kept(&id)
        };
        (0..).find(is_free).unwrap_or_default()
    }

    pub fn member(&self, id: &str) -> Option<&Arc<Member>> {
        self.members.get(id).map(|live| &live.member)
    }

    pub fn deregister(&mut self, id: &str) -> Option<Arc<Member>> {
        self.members.remove(id).map(|live| live.member)
    }

    /// A readiness report, which is a sign of life too. `false`: no such workload; it has to register again.
    pub fn report(&mut self, id: &str, readiness: Readiness, now: Instant) -> bool {
        let Some(live) = self.members.get_mut(id) else {
            return false;
        };
        live.until = now + LEASE;
        // Draining is final: a probe that still succeeds must not bring callers back.
        if live.readiness != Readiness::Draining || readiness == Readiness::Starting {
            live.readiness = readiness;
        }
        true
    }

    /// The sidecar's ADS stream began or ended.
    pub fn stream(&mut self, id: &str, opened: bool, now: Instant) {
        if let Some(live) = self.members.get_mut(id) {
            live.until = now + if opened { LEASE } else { RECONNECT };
            live.streams = if opened {
                live.streams + 1
            } else {
                live.streams.saturating_sub(1)
            };
        }
    }

    /// Members without a sign of life for [`FORGET`], now removed.
    pub fn forget(&mut self, now: Instant) -> Vec<Arc<Member>> {
        let gone: Vec<Arc<str>> = self
            .members
            .iter()
            .filter(|(_, live)| live.is_forgotten(now))
            .map(|(id, _)| id.clone())
            .collect();
        gone.iter().filter_map(|id| self.deregister(id)).collect()
    }

    /// When the next lease ends or registration is forgotten, for the timer.
    pub fn next_deadline(&self, now: Instant) -> Option<Instant> {
        self.members
            .values()
            .filter(|live| live.streams == 0)
            .map(|live| {
                if live.alive(now) {
                    live.until
                } else {
                    live.until + FORGET
                }
            })
            .min()
    }

    /// Whether the sidecar of a workload is connected.
    pub fn is_connected(&self, id: &str) -> bool {
        self.members.get(id).is_some_and(|live| live.streams > 0)
    }

    pub fn workloads(&self, now: Instant) -> Workloads {
        let mut workloads = Workloads::default();
        for live in self.members.values() {
            workloads.insert(Present {
                member: live.member.clone(),
                readiness: live.readiness,
                alive: live.alive(now),
            });
        }
        workloads
    }
}

/// Fills what was left empty and refuses what cannot be a name.
fn checked(mut request: Register) -> Result<Register, RegisterError> {
    if request.service.is_empty() && !request.ports.is_empty() {
        return Err(RegisterError::NoService);
    }
    for (what, value) in [
        ("a namespace", &request.namespace),
        ("a service", &request.service),
    ] {
        let client = what == "a service" && value.is_empty();
        if !client && !is_label(value) {
            return Err(RegisterError::Name {
                what,
                value: value.clone(),
            });
        }
    }
    if request.workload.is_empty() {
        request.workload = request.service.clone();
    }
    if request.service_account.is_empty() {
        request.service_account = request.service.clone();
    }
    for (what, value) in [
        ("a workload", &request.workload),
        ("a service account", &request.service_account),
    ] {
        if !is_label(value) {
            return Err(RegisterError::Name {
                what,
                value: value.clone(),
            });
        }
    }
    if request.ports.len() > MAX_PORTS || request.labels.len() > MAX_LABELS {
        return Err(RegisterError::TooMuch);
    }
    let mut seen = BTreeSet::new();
    for port in &request.ports {
        if port.port == 0 || port.target() == 0 {
            return Err(RegisterError::ZeroPort);
        }
        if !seen.insert(port.port) {
            return Err(RegisterError::DuplicatePort(port.port));
        }
    }
    Ok(request)
}

/// A DNS label (RFC 1123).
fn is_label(text: &str) -> bool {
    let byte = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty()
        && text.len() <= 63
        && text.bytes().all(byte)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn request(service: &str) -> Register {
        serde_json::from_value(serde_json::json!({
            "service": service,
            "ports": [{"name": "http", "port": 80, "target_port": 8080}],
        }))
        .unwrap()
    }

    fn join(
        registry: &mut Registry,
        allocator: &mut Allocator,
        service: &str,
        now: Instant,
    ) -> Arc<Member> {
        registry
            .register(request(service), allocator, &Ranges::default(), now)
            .unwrap()
            .member
    }

    #[test]
    fn replicas_get_names_and_addresses_of_their_own_and_keep_them() {
        let (mut registry, mut allocator, now) =
            (Registry::default(), Allocator::default(), Instant::now());
        let a = join(&mut registry, &mut allocator, "users", now);
        let b = join(&mut registry, &mut allocator, "users", now);
        assert_eq!((&*a.id, &*b.id), ("users-0.default", "users-1.default"));
        assert_ne!(a.addresses, b.addresses);
        assert_eq!(
            a.node(),
            format!(
                "sidecar~{}~users-0.default~default.svc.cluster.local",
                a.addresses.v4
            )
        );
        registry.deregister(&a.id);
        assert_eq!(
            join(&mut registry, &mut allocator, "users", now).addresses,
            a.addresses
        );
    }

    #[test]
    fn only_ready_and_living_members_take_traffic() {
        let (mut registry, mut allocator, now) =
            (Registry::default(), Allocator::default(), Instant::now());
        let member = join(&mut registry, &mut allocator, "users", now);
        let takes = |registry: &Registry, at| {
            let workloads = registry.workloads(at);
            workloads
                .of_service("users.default.svc.cluster.local")
                .filter(|p| p.takes_traffic())
                .count()
        };
        assert_eq!(takes(&registry, now), 0);
        assert!(registry.report(&member.id, Readiness::Ready, now));
        assert_eq!(takes(&registry, now), 1);
        assert_eq!(takes(&registry, now + LEASE), 0, "no sign of life");
        registry.stream(&member.id, true, now);
        assert_eq!(takes(&registry, now + LEASE * 10), 1, "its stream is open");
        registry.report(&member.id, Readiness::Draining, now);
        registry.report(&member.id, Readiness::Ready, now);
        assert_eq!(takes(&registry, now), 0, "draining is final");
        registry.stream(&member.id, false, now);
        assert!(registry.forget(now + FORGET).is_empty());
        assert_eq!(registry.forget(now + LEASE + FORGET).len(), 1);
        assert!(!registry.report(&member.id, Readiness::Ready, now));
    }

    #[test]
    fn a_host_that_fell_silent_is_left_within_the_lease() {
        let (mut registry, mut allocator, now) =
            (Registry::default(), Allocator::default(), Instant::now());
        let member = join(&mut registry, &mut allocator, "users", now);
        registry.stream(&member.id, true, now);
        let noticed = now + KEEPALIVE.0 + KEEPALIVE.1;
        registry.stream(&member.id, false, noticed);
        assert!(registry.workloads(noticed).by_id[&member.id].alive);
        assert!(!registry.workloads(now + LEASE).by_id[&member.id].alive);
    }

    #[test]
    fn workloads_of_a_host_share_its_address_and_keep_their_ports() {
        let (mut registry, mut allocator, now) =
            (Registry::default(), Allocator::default(), Instant::now());
        let (here, there) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let mut ports = BTreeSet::new();
        for _ in 0..200 {
            let asked = Register {
                advertise: Some(here),
                ..request("users")
            };
            let joined = registry.register(asked, &mut allocator, &Ranges::default(), now);
            let port = joined.unwrap().member.advertised[&8080];
            assert!((10_000..20_000).contains(&port) && !WELL_KNOWN.contains(&port));
            assert!(ports.insert(port));
        }
        let id = "users-7.default";
        let before = registry.member(id).unwrap().clone();
        assert_eq!(registry.place(id, String::new(), Some(here)), Ok(None));
        let moved = registry
            .place(id, String::new(), Some(there))
            .unwrap()
            .unwrap();
        assert_eq!(moved.advertise, Some(there));
        assert_eq!(moved.advertised, before.advertised);
        assert_eq!(**registry.member(id).unwrap(), *moved);
    }

    #[test]
    fn nobody_takes_a_living_workloads_place() {
        let (mut registry, mut allocator, now) =
            (Registry::default(), Allocator::default(), Instant::now());
        let id = join(&mut registry, &mut allocator, "users", now).id.clone();
        assert!(!registry.may_be(&id, "users", false, now));
        assert!(registry.may_be(&id, "users", true, now));
        assert!(registry.may_be(&id, "users", false, now + LEASE));
        assert!(!registry.may_be(&id, "other", true, now + LEASE));
        assert!(registry.may_be("fresh-0.default", "other", false, now));
    }

    #[test]
    fn restored_members_have_time_to_come_back() {
        let (mut registry, mut allocator, now) =
            (Registry::default(), Allocator::default(), Instant::now());
        let member = join(&mut registry, &mut allocator, "users", now);
        let registry = Registry::restore([(*member).clone()], now);
        assert!(registry.workloads(now).by_id[&member.id].takes_traffic());
        assert_eq!(registry.next_deadline(now), Some(now + LEASE));
    }

    #[test]
    fn bad_requests_say_what_is_wrong() {
        let (mut registry, mut allocator) = (Registry::default(), Allocator::default());
        let mut refused = |request: Register| {
            registry
                .register(request, &mut allocator, &Ranges::default(), Instant::now())
                .unwrap_err()
                .to_string()
        };
        assert!(
            refused(Register {
                namespace: "a/b".into(),
                ..request("users")
            })
            .contains("a/b")
        );
        assert!(
            refused(Register {
                service: String::new(),
                ..request("users")
            })
            .contains("name the service")
        );
        let port = request("users").ports[0].clone();
        assert!(
            refused(Register {
                ports: vec![port.clone(), port],
                ..request("users")
            })
            .contains("80")
        );
    }
}

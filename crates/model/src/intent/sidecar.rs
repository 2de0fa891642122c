//! `Sidecar` (networking.istio.io): which part of the mesh a workload's proxy is told about, as typed. It scopes what is sent;
//! it keeps nobody out.

use std::collections::BTreeMap;

use super::destination_rule::ConnectionPool;
use super::registry::covers;
use crate::schema::{record, token};

record! {
    #[derive(Default)]
    pub struct Sidecar {
        /// Unset is the whole namespace, or the mesh if that is the root namespace.
        workload_selector: Option<LabelSelector>,
        /// Empty is everything.
        egress: Vec<EgressListener>,
        ingress: Vec<IngressListener>,
        /// Of the inbound side; beats the service's DestinationRule, whole.
        inbound_connection_pool: Option<ConnectionPool>,
        outbound_traffic_policy: Option<OutboundTrafficPolicy>,
    }
}

record! {
    #[derive(Eq, Default)]
    pub struct LabelSelector {
        labels: BTreeMap<String, String>,
    }
}

record! {
    #[derive(Eq)]
    pub struct EgressListener {
        /// `namespace/host`: the namespace may be `*` (any), `.` (the workload's own) or `~` (none), the host a name, `*` or
        /// `*.suffix`. `~namespace/host` takes out what another entry brings in.
        hosts: Vec<String>,
        /// The listener is about this port of the services alone; one without it is about all ports that no other names.
        port: Option<SidecarPort>,
    }
    ignored {
        "bind": "the services' own addresses are listened on",
        "captureMode": "traffic is captured as for the rest of the workload",
    }
}

record! {
    #[derive(Eq)]
    pub struct SidecarPort {
        number: u16,
    }
    silent { "name", "protocol", "targetPort" }
}

record! {
    /// Read so that what would weaken security is refused; the inbound side follows the service's ports.
    #[derive(Eq)]
    pub struct IngressListener {
        port: SidecarPort,
    }
    silent { "bind", "captureMode", "connectionPool", "defaultEndpoint" }
    refused { "tls": "remove it: the port would take plain text; mesh mTLS is set with PeerAuthentication" }
}

record! {
    #[derive(Eq)]
    pub struct OutboundTrafficPolicy {
        /// Unset is REGISTRY_ONLY, as in Istio.
        mode: Option<OutboundMode>,
    }
    refused { "egressProxy": "route the hosts to the proxy with a VirtualService" }
}

token! {
    pub enum OutboundMode {
        /// Addresses outside the mesh are refused.
        RegistryOnly = "REGISTRY_ONLY",
        AllowAny = "ALLOW_ANY",
    }
}

/// An entry of `hosts`, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Import<'a> {
    /// It takes out instead of bringing in.
    pub excludes: bool,
    /// `*`, `.` or a name; empty is none.
    pub namespace: &'a str,
    pub host: &'a str,
}

impl<'a> Import<'a> {
    /// `None`: not of the form `namespace/host`.
    pub fn parse(text: &'a str) -> Option<Import<'a>> {
        let (namespace, host) = text.split_once('/')?;
        let (excludes, namespace) = match namespace.strip_prefix('~') {
            Some("") => (false, ""),
            Some(rest) => (true, rest),
            None if namespace.is_empty() => return None,
            None => (false, namespace),
        };
        let whole = !host.is_empty() && !host.contains('/');
        whole.then_some(Import {
            excludes,
            namespace,
            host,
        })
    }

    /// For a workload of namespace `own`.
    fn is_about(&self, own: &str, namespace: &str) -> bool {
        match self.namespace {
            "*" => true,
            "." => namespace == own,
            named => namespace == named,
        }
    }
}

impl EgressListener {
    fn imports(&self) -> impl Iterator<Item = Import<'_>> {
        self.hosts.iter().filter_map(|text| Import::parse(text))
    }

    fn brings(&self, own: &str, namespace: &str, matches: impl Fn(&str) -> bool) -> bool {
        let mut brought = false;
        for import in self.imports() {
            if import.is_about(own, namespace) && matches(import.host) {
                if import.excludes {
                    return false;
                }
                brought = true;
            }
        }
        brought
    }
}

impl Sidecar {
    /// Whether a workload of namespace `own` is told of `port` of the service `host`, or of any port.
    pub fn imports(&self, own: &str, namespace: &str, host: &str, port: Option<u16>) -> bool {
        let brings = |listener: &EgressListener| {
            listener.brings(own, namespace, |named| covers(named, host))
        };
        let of_port = |listener: &EgressListener, port: u16| {
            listener.port.as_ref().is_some_and(|own| own.number == port)
        };
        let Some(port) = port else {
            return self.egress.is_empty() || self.egress.iter().any(brings);
        };
        // The listener of a port takes it from those of all ports.
        let first = self.egress.iter().find(|listener| of_port(listener, port));
        match first {
            Some(listener) => brings(listener),
            None => {
                self.egress.is_empty()
                    || self
                        .egress
                        .iter()
                        .any(|listener| listener.port.is_none() && brings(listener))
            }
        }
    }

    /// Whether it is told of a VirtualService of `namespace` for `hosts`.
    pub fn imports_routes(&self, own: &str, namespace: &str, hosts: &[String]) -> bool {
        self.egress.is_empty()
            || self.egress.iter().any(|listener| {
                hosts.iter().any(|host| {
                    listener.brings(own, namespace, |named| {
                        covers(named, host) || covers(host, named)
                    })
                })
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sidecar(listeners: &[(Option<u16>, &[&str])]) -> Sidecar {
        let listener = |(port, hosts): &(Option<u16>, &[&str])| EgressListener {
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            port: port.map(|number| SidecarPort { number }),
        };
        Sidecar {
            egress: listeners.iter().map(listener).collect(),
            ..Sidecar::default()
        }
    }

    #[test]
    fn every_form_of_a_host() {
        for (hosts, told) in [
            (&["*/*"][..], [true, true, true]),
            (&["./*"], [true, false, false]),
            (&["shop/*"], [false, true, false]),
            (&["shop/a.shop"], [false, true, false]),
            (&["*/*.example.com"], [false, false, true]),
            (&["~/*"], [false, false, false]),
            (&["*/*", "~shop/*"], [true, false, true]),
            (&["./*", "*/api.example.com"], [true, false, true]),
            (&["nonsense"], [false, false, false]),
        ] {
            let scope = sidecar(&[(None, hosts)]);
            let services = [
                ("own", "a.own"),
                ("shop", "a.shop"),
                ("outside", "api.example.com"),
            ];
            let found =
                services.map(|(namespace, host)| scope.imports("own", namespace, host, None));
            assert_eq!(found, told, "{hosts:?}");
        }
    }

    #[test]
    fn a_listener_of_a_port_takes_it_from_the_others() {
        let scope = sidecar(&[(Some(90), &["shop/*"]), (None, &["./*"])]);
        let told = |namespace, port| scope.imports("own", namespace, "a", port);
        assert!(told("own", Some(80)) && !told("own", Some(90)));
        assert!(told("shop", Some(90)) && !told("shop", Some(80)));
        assert!(told("shop", None) && told("own", None) && !told("other", None));
        assert!(Sidecar::default().imports("own", "other", "a", Some(1)));
    }

    #[test]
    fn routes_come_with_the_namespace_and_a_host_in_common() {
        let scope = sidecar(&[(None, &["./*.example.com"])]);
        let told = |namespace: &str, host: &str| {
            scope.imports_routes("own", namespace, &[host.to_owned()])
        };
        assert!(told("own", "a.example.com") && told("own", "*.a.example.com"));
        assert!(!told("own", "b.other") && !told("shop", "a.example.com"));
    }
}

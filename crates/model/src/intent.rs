//! What the mesh is told: one typed object a resource, as it was written, with unset still visible.
//!
//! `compile` turns it into a Snapshot. [`Kind`] says which kinds there are; [`crate::analyze`] reads files into objects.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::schema::{Path, Sink, Typed};
use crate::yaml::{Node, Span};

pub mod authorization_policy;
pub mod destination_rule;
pub mod mesh;
pub mod peer_authentication;
pub mod registry;
pub mod selection;
pub mod service_entry;
pub mod sidecar;
pub mod virtual_service;
pub mod workload_entry;

pub use authorization_policy::AuthorizationPolicy;
pub use destination_rule::DestinationRule;
pub use mesh::Mesh;
pub use peer_authentication::PeerAuthentication;
pub use registry::Service;
pub use service_entry::ServiceEntry;
pub use sidecar::Sidecar;
pub use virtual_service::VirtualService;

/// The namespace of a resource that names none.
pub const DEFAULT_NAMESPACE: &str = "default";
/// Resources here apply to the whole mesh, unless the mesh says otherwise.
pub const DEFAULT_ROOT_NAMESPACE: &str = "istio-system";

/// A resource: what it is, what it says, where it came from. Two are equal if they say the same.
#[derive(Debug, Clone)]
pub struct Object {
    pub kind: Kind,
    pub namespace: String,
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    /// Who came first: the order in which conflicts are resolved (R1.1). Files count by name and position.
    pub created: Created,
    pub origin: Origin,
    pub spec: Spec,
}

/// When a resource was created, as far as is known: `creationTimestamp` (RFC 3339, which sorts as text; empty if there is none).
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Created(pub String);

/// Where a resource was written.
#[derive(Debug, Clone)]
pub struct Origin {
    pub file: Arc<str>,
    /// 1-based; 0 if unknown.
    pub line: u32,
    pub column: u32,
    /// The document, for the position of a field path.
    pub tree: Arc<Node>,
}

impl Origin {
    /// Where a field stands.
    pub fn locate(&self, path: &Path<'_>) -> Span {
        path.locate(&self.tree)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

impl PartialEq for Object {
    fn eq(&self, other: &Object) -> bool {
        (self.kind, &self.namespace, &self.name) == (other.kind, &other.namespace, &other.name)
            && self.labels == other.labels
            && self.annotations == other.annotations
            && self.created == other.created
            && self.spec == other.spec
    }
}

impl Object {
    pub fn key(&self) -> Key {
        Key {
            kind: self.kind,
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        }
    }

    /// The documented total order in which resources that overlap are resolved (R1.1): the older creation time first,
    /// one without a time last; then namespace, then name.
    pub fn precedence(&self, other: &Object) -> Ordering {
        let rank = |object: &Object| {
            (
                object.created.0.is_empty(),
                object.created.clone(),
                object.namespace.clone(),
                object.name.clone(),
            )
        };
        rank(self).cmp(&rank(other))
    }
}

/// The name of a resource; shown as `VirtualService shop/reviews`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    pub kind: Kind,
    pub namespace: String,
    pub name: String,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// Declares the served kinds once: [`Kind`], [`Spec`], how each is read, and its row of [`KINDS`].
macro_rules! kinds {
    ($( $name:ident, $group:literal, [$($version:literal),+], $plural:literal $(, $short:literal)?; )*) => {
        /// A kind that ripstop serves.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Kind { $( $name, )* }

        /// What a resource says.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Spec { $( $name(Box<$name>), )* }

        impl Kind {
            pub const ALL: &[Kind] = &[ $( Kind::$name, )* ];

            pub fn as_str(self) -> &'static str {
                match self { $( Kind::$name => stringify!($name), )* }
            }

            pub fn group(self) -> &'static str {
                match self { $( Kind::$name => $group, )* }
            }

            pub fn versions(self) -> &'static [&'static str] {
                match self { $( Kind::$name => &[$($version),+], )* }
            }

            /// As in `ripstop get virtualservices`.
            pub fn plural(self) -> &'static str {
                match self { $( Kind::$name => $plural, )* }
            }

            /// As Istio's resources are called for short, if they are.
            pub fn short(self) -> Option<&'static str> {
                let short: &[&str] = match self { $( Kind::$name => &[ $( $short )? ], )* };
                short.first().copied()
            }

            /// Reads the `spec` of a document.
            pub(crate) fn read_spec(self, node: &Node, at: &Path<'_>, sink: &mut Sink) -> Option<Spec> {
                match self { $( Kind::$name => <$name>::read(node, at, sink).map(|spec| Spec::$name(Box::new(spec))), )* }
            }
        }

        impl Spec {
            pub fn kind(&self) -> Kind {
                match self { $( Spec::$name(_) => Kind::$name, )* }
            }
        }
    };
}

kinds! {
    Mesh, "ripstop.dev", ["v1alpha1"], "meshes";
    VirtualService, "networking.istio.io", ["v1", "v1beta1", "v1alpha3"], "virtualservices", "vs";
    DestinationRule, "networking.istio.io", ["v1", "v1beta1", "v1alpha3"], "destinationrules", "dr";
    ServiceEntry, "networking.istio.io", ["v1", "v1beta1", "v1alpha3"], "serviceentries", "se";
    Sidecar, "networking.istio.io", ["v1", "v1beta1", "v1alpha3"], "sidecars";
    PeerAuthentication, "security.istio.io", ["v1", "v1beta1"], "peerauthentications", "pa";
    AuthorizationPolicy, "security.istio.io", ["v1", "v1beta1"], "authorizationpolicies", "ap";
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Kind {
    /// By kind name, plural, singular or short, any case: what a user types.
    pub fn named(word: &str) -> Option<Kind> {
        Kind::ALL.iter().copied().find(|kind| {
            let names = [Some(kind.as_str()), Some(kind.plural()), kind.short()];
            names
                .into_iter()
                .flatten()
                .any(|name| word.eq_ignore_ascii_case(name))
        })
    }

    /// By `kind` and group of a document.
    pub fn of(group: &str, kind: &str) -> Option<Kind> {
        Kind::ALL
            .iter()
            .copied()
            .find(|known| known.group() == group && known.as_str() == kind)
    }
}

/// Kinds that a mesh's configuration may hold and that are not served yet: group and kind.
pub(crate) const KNOWN: &[(&str, &[&str])] = &[
    (
        "networking.istio.io",
        &[
            "EnvoyFilter",
            "Gateway",
            "ProxyConfig",
            "WorkloadEntry",
            "WorkloadGroup",
        ],
    ),
    ("security.istio.io", &["RequestAuthentication"]),
    ("telemetry.istio.io", &["Telemetry"]),
    ("extensions.istio.io", &["TrafficExtension", "WasmPlugin"]),
    (
        "gateway.networking.k8s.io",
        &[
            "BackendTLSPolicy",
            "GRPCRoute",
            "Gateway",
            "GatewayClass",
            "HTTPRoute",
            "ListenerSet",
            "ReferenceGrant",
            "TCPRoute",
            "TLSRoute",
            "UDPRoute",
        ],
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_go_by_all_their_names() {
        for word in ["VirtualService", "virtualservice", "VIRTUALSERVICES", "vs"] {
            assert_eq!(Kind::named(word), Some(Kind::VirtualService), "{word}");
        }
        let short = |word| Kind::named(word).map(Kind::as_str);
        assert_eq!(short("dr"), Some("DestinationRule"));
        assert_eq!(short("se"), Some("ServiceEntry"));
        assert_eq!(short("pa"), Some("PeerAuthentication"));
        assert_eq!(short("ap"), Some("AuthorizationPolicy"));
        assert_eq!(short("v"), None);
    }
}

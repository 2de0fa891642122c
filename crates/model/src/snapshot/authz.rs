//! Authorization rules (`config.rbac.v3.RBAC`); deciding is [`crate::authz::Judge`].

use ipnet::IpNet;

use super::matching::{HeaderMatch, StringMatch};
use super::{Name, Resource};

/// One RBAC filter: the policies of one action.
#[derive(Debug, Clone, PartialEq)]
pub struct AuthzFilter {
    /// The filter's name in its chain: what `typed_per_filter_config` refers to.
    pub name: Name,
    pub action: Action,
    /// A request is matched when any policy matches.
    pub policies: Vec<Policy>,
    /// Evaluated and counted, never enforced (`shadow_rules`).
    pub dry_run: bool,
    pub stat_prefix: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Allow,
    Deny,
    /// Marks matching requests for the access log.
    Log,
}

/// Matches when any permission and any principal does. Policies are kept in the order of their names.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    pub name: Name,
    pub permissions: Vec<Rule>,
    pub principals: Vec<Rule>,
    /// Travels as the policy's name, `ns[NAMESPACE]-policy[NAME]-rule[N]` (Istio's), so it is set exactly when
    /// [`Policy::resource_of_name`] reads it there.
    pub resource: Option<Resource>,
}

impl Policy {
    /// Reads Istio's naming of RBAC policies: `ns[shop]-policy[allow-orders]-rule[0]`.
    pub fn resource_of_name(name: &str) -> Option<Resource> {
        let rest = name.strip_prefix("ns[")?.strip_suffix(']')?;
        let (namespace, rest) = rest.split_once("]-policy[")?;
        let (policy, rule) = rest.split_once("]-rule[")?;
        Some(Resource {
            kind: "AuthorizationPolicy".into(),
            namespace: namespace.into(),
            name: policy.into(),
            part: format!("rules[{rule}]").into(),
        })
    }

    /// The name of rule `index` of the AuthorizationPolicy `namespace/name`.
    pub fn name_of_rule(namespace: &str, name: &str, index: usize) -> Name {
        format!("ns[{namespace}]-policy[{name}]-rule[{index}]").into()
    }
}

/// Permissions and principals are one tree type: Envoy's two differ only in which leaves they allow.
#[derive(Debug, Clone, PartialEq)]
pub enum Rule {
    Any,
    And(Vec<Rule>),
    Or(Vec<Rule>),
    Not(Box<Rule>),
    Header(HeaderMatch),
    /// The normalised path without query.
    Path(StringMatch),
    /// `{*}` one segment, `{**}` the rest (`path.match.uri_template.v3`).
    PathTemplate(String),
    DestinationIp(IpNet),
    DestinationPort(u16),
    /// Half-open.
    DestinationPorts {
        start: u16,
        end: u16,
    },
    Sni(StringMatch),
    /// The verified peer's URI SAN, else DNS SAN, else subject; `None`: any verified peer.
    Principal(Option<StringMatch>),
    /// The peer of the connection.
    DirectIp(IpNet),
    /// After XFF or PROXY protocol.
    RemoteIp(IpNet),
}

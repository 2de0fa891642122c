//! Authorization rules (`config.rbac.v3.RBAC`); deciding is [`crate::authz::Judge`].

use ipnet::IpNet;

use super::matching::{HeaderMatch, StringMatch};
use super::{Name, Resource};

/// One RBAC filter: the policies of one action.
#[derive(Debug, Clone, PartialEq)]
pub struct AuthzFilter {
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

/// Matches when any permission and any principal does.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    pub name: Name,
    pub permissions: Vec<Rule>,
    pub principals: Vec<Rule>,
    pub resource: Option<Resource>,
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

//! `AuthorizationPolicy` (security.istio.io): who may do what to a workload, as typed.
//!
//! A condition that is not served is an error, never a warning: leaving it out would let a rule match more.

use super::selection::WorkloadSelector;
use crate::schema::{record, token};

record! {
    #[derive(Eq, Default)]
    pub struct AuthorizationPolicy {
        /// Unset is the whole namespace, or the mesh if that is the root namespace.
        selector: Option<WorkloadSelector>,
        /// Any of. Without rules nothing matches, so ALLOW denies everything; `rules: [{}]` matches everything.
        rules: Vec<Rule>,
        /// Unset is ALLOW.
        action: Option<Action>,
    }
    refused {
        "targetRefs": "select workloads with `selector`",
        "targetRef": "select workloads with `selector`",
        "provider": "external authorization is not served; use ALLOW or DENY rules",
    }
}

token! {
    pub enum Action {
        Allow = "ALLOW",
        Deny = "DENY",
    }
    refused {
        "CUSTOM": "external authorization is not served; use ALLOW or DENY rules",
    }
}

record! {
    /// `from` and `to` must both match; what is left out matches everything.
    #[derive(Eq, Default)]
    pub struct Rule {
        from: Vec<From>,
        to: Vec<To>,
    }
    refused { "when": "express the condition with `from` or `to`; `when` would otherwise be left out of the rule" }
}

record! {
    #[derive(Eq)]
    pub struct From {
        source: Source,
    }
}

record! {
    /// Fields are ANDed, the values of one are ORed. Values: exact, `abc*`, `*abc`, or `*` for any that is not empty.
    #[derive(Eq, Default)]
    pub struct Source {
        /// `trust domain/ns/NAMESPACE/sa/ACCOUNT`.
        principals: Vec<String>,
        not_principals: Vec<String>,
        namespaces: Vec<String>,
        not_namespaces: Vec<String>,
        /// `namespace/account`, or `account` in the policy's namespace; no wildcard.
        service_accounts: Vec<String>,
        not_service_accounts: Vec<String>,
        /// Of the packet.
        ip_blocks: Vec<String>,
        not_ip_blocks: Vec<String>,
    }
    refused {
        "requestPrincipals": "tokens are not validated yet",
        "notRequestPrincipals": "tokens are not validated yet",
        "remoteIpBlocks": "forwarded addresses are not trusted yet; use ipBlocks",
        "notRemoteIpBlocks": "forwarded addresses are not trusted yet; use notIpBlocks",
        "trustDomains": "use principals such as `cluster.local/*`",
        "notTrustDomains": "use notPrincipals such as `cluster.local/*`",
    }
    exclusive { "serviceAccounts" | "principals", "serviceAccounts" | "namespaces",
        "notServiceAccounts" | "notPrincipals", "notServiceAccounts" | "notNamespaces" }
}

record! {
    #[derive(Eq)]
    pub struct To {
        operation: Operation,
    }
}

record! {
    /// Fields are ANDed, the values of one are ORed.
    #[derive(Eq, Default)]
    pub struct Operation {
        /// Any case.
        hosts: Vec<String>,
        not_hosts: Vec<String>,
        /// Ports of the workload, as text.
        ports: Vec<String>,
        not_ports: Vec<String>,
        methods: Vec<String>,
        not_methods: Vec<String>,
        /// `{*}` is one segment, `{**}` the rest.
        paths: Vec<String>,
        not_paths: Vec<String>,
    }
}

impl Operation {
    /// Whether it names something that only HTTP has.
    pub fn is_http(&self) -> bool {
        !(self.hosts.is_empty()
            && self.not_hosts.is_empty()
            && self.methods.is_empty()
            && self.not_methods.is_empty()
            && self.paths.is_empty()
            && self.not_paths.is_empty())
    }
}

impl Source {
    /// Whether it names something that only mTLS proves.
    pub fn needs_mtls(&self) -> bool {
        !(self.principals.is_empty()
            && self.not_principals.is_empty()
            && self.namespaces.is_empty()
            && self.not_namespaces.is_empty()
            && self.service_accounts.is_empty()
            && self.not_service_accounts.is_empty())
    }
}

//! Authorization.

use super::*;

impl Entropy {
    pub(super) fn authz(&mut self, http: bool) -> AuthzFilter {
        let mut policies: BTreeMap<Name, Policy> = BTreeMap::new();
        for index in 0..self.below(3) {
            let name = one_of!(self; self.name(), Policy::name_of_rule("shop", "allow", index));
            let policy = Policy {
                resource: Policy::resource_of_name(&name),
                permissions: self.list(2, |e| e.rule(2, true, http)),
                principals: self.list(2, |e| e.rule(2, false, http)),
                name: name.clone(),
            };
            policies.insert(name, policy);
        }
        AuthzFilter {
            name: "envoy.filters.http.rbac".into(),
            action: one_of!(self; authz::Action::Deny, authz::Action::Allow, authz::Action::Log),
            policies: policies.into_values().collect(),
            dry_run: self.flag(),
            stat_prefix: self.text(),
        }
    }

    pub(super) fn rule(&mut self, depth: usize, permission: bool, http: bool) -> Rule {
        if depth > 0 && self.flag() {
            return one_of!(self;
                Rule::And(self.list(2, |e| e.rule(depth - 1, permission, http))),
                Rule::Or(self.list(2, |e| e.rule(depth - 1, permission, http))),
                Rule::Not(Box::new(self.rule(depth - 1, permission, http))),
            );
        }
        if http && self.flag() {
            return one_of!(self;
                Rule::Header(self.header_match()),
                Rule::Path(self.string_match()),
            );
        }
        if permission && http && self.flag() {
            return Rule::PathTemplate("/a/{*}/{**}".into());
        }
        if permission {
            one_of!(self;
                Rule::Any,
                Rule::DestinationIp(self.net()),
                Rule::DestinationPort(self.u16()),
                Rule::DestinationPorts { start: self.u16(), end: self.u16() },
                Rule::Sni(self.string_match()),
            )
        } else {
            one_of!(self;
                Rule::Any,
                Rule::Principal(self.optional(Self::string_match)),
                Rule::DirectIp(self.net()),
                Rule::RemoteIp(self.net()),
            )
        }
    }

    // TLS.
}

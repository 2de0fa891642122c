//! Objects → what is wrong with them or between them, and who wins where they overlap.
//!
//! Checks of one kind are in one file below; [`overlap`] compares resources with each other. A check reports where the
//! field stands, what it means for traffic, and what to write instead. Resources that overlap are resolved in the order
//! of [`Object::precedence`]; nothing is left undefined (R1.1).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::defaults::{ISTIO, RIPSTOP};
use crate::diagnostic::{Code, Diagnostic, Severity};
use crate::intent::mesh::{Defaults, Mesh};
use crate::intent::peer_authentication::MtlsMode;
use crate::intent::registry::{self, Service, covers, qualify};
use crate::intent::selection::WorkloadSelector;
use crate::intent::{
    DEFAULT_ROOT_NAMESPACE, DestinationRule, Key, Object, PeerAuthentication, Spec,
};
use crate::schema::repair::Lost;
use crate::schema::{Path, Sink};
use crate::snapshot::http::PathOptions;
use crate::yaml::Span;

mod authorization_policy;
mod destination_rule;
mod leaf;
mod mesh;
mod overlap;
mod peer_authentication;
mod service_entry;
mod shadow;
mod sidecar;
mod virtual_service;

/// What the checks found.
#[derive(Debug, Default)]
pub struct Verdict {
    pub diagnostics: Vec<Diagnostic>,
    /// Not to be applied: broken in themselves. A reference to something missing does not put a resource here; the
    /// routes that lead nowhere answer 503, the others work.
    pub invalid: BTreeSet<Key>,
    pub conflicts: Vec<Conflict>,
}

/// Two resources about the same thing (R1.1): the loser's status says `Conflicted`, with the winner's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    pub loser: Key,
    pub winner: Key,
    /// What both are about, such as `host reviews.default.svc.cluster.local`.
    pub over: String,
}

/// A workload that joined a running mesh, as `ripstop run` makes one.
#[derive(Debug, Clone, PartialEq)]
pub struct Joined {
    pub namespace: String,
    /// `None` for a client that nobody calls.
    pub service: Option<Service>,
    pub labels: BTreeMap<String, String>,
    pub service_account: String,
}

/// A resource that is not applied, as far as it could be read.
#[derive(Debug)]
pub(crate) struct Doubtful {
    pub object: Object,
    pub lost: Lost,
}

/// Checks each object, then all of them together. What is wrong beside its form with one that is doubtful is said at once with
/// that; warnings wait until it can be read whole.
pub(crate) fn check(objects: &[Object], doubtful: &[Doubtful], joined: &[Joined]) -> Verdict {
    let world = World::new(objects, doubtful, joined);
    let mut verdict = Verdict::default();
    for object in objects {
        let mut checker = Checker::new(object, &world);
        checker.check();
        if checker.invalid {
            verdict.invalid.insert(object.key());
        }
        verdict.diagnostics.append(&mut checker.sink.diagnostics);
    }
    for Doubtful { object, lost } in doubtful {
        let mut checker = Checker::new(object, &world);
        checker.check();
        let found = checker.sink.diagnostics.into_iter();
        let errors =
            found.filter(|found| found.is_error() && !lost.explains(found.code, &found.path));
        verdict.diagnostics.extend(errors);
    }
    overlap::check(&world, &mut verdict);
    verdict
}

/// A workload of a mesh file, or one that joined, as selectors see it.
struct KnownWorkload {
    namespace: String,
    service: Arc<str>,
    labels: BTreeMap<String, String>,
    service_account: String,
}

/// Everything that a check may look up.
struct World<'o> {
    objects: &'o [Object],
    services: Vec<Service>,
    by_host: HashMap<Arc<str>, usize>,
    rules: Vec<(&'o Object, &'o DestinationRule)>,
    workloads: Vec<KnownWorkload>,
    /// Whether a mesh file says which services there are; else what joins at run time is not known here.
    complete: bool,
    root_namespace: &'o str,
    /// How the data plane will normalise paths.
    paths: PathOptions,
}

impl<'o> World<'o> {
    fn new(objects: &'o [Object], doubtful: &'o [Doubtful], joined: &[Joined]) -> World<'o> {
        let doubtful = doubtful.iter().map(|doubtful| &doubtful.object);
        let all = || objects.iter().chain(doubtful.clone());
        let mut services = registry::services(all());
        let mut by_host = HashMap::new();
        for (index, service) in services.iter().enumerate() {
            by_host.entry(service.host.clone()).or_insert(index);
        }
        for service in joined.iter().filter_map(|joined| joined.service.as_ref()) {
            let index = *by_host
                .entry(service.host.clone())
                .or_insert(services.len());
            match services.get_mut(index) {
                Some(known) => known.join(service),
                None => services.push(service.clone()),
            }
        }
        fn mesh(object: &Object) -> Option<&Mesh> {
            match &object.spec {
                Spec::Mesh(mesh) => Some(mesh.as_ref()),
                _ => None,
            }
        }
        let meshes = || all().filter_map(mesh);
        let declared = meshes().flat_map(known_workloads);
        let joined = joined.iter().map(|joined| KnownWorkload {
            namespace: joined.namespace.clone(),
            service: joined
                .service
                .as_ref()
                .map_or_else(|| "".into(), |service| service.host.clone()),
            labels: joined.labels.clone(),
            service_account: joined.service_account.clone(),
        });
        World {
            objects,
            by_host,
            services,
            rules: all()
                .filter_map(|object| match &object.spec {
                    Spec::DestinationRule(rule) => Some((object, rule.as_ref())),
                    _ => None,
                })
                .collect(),
            workloads: declared.chain(joined).collect(),
            complete: objects.iter().any(|object| mesh(object).is_some())
                && doubtful.clone().all(|object| mesh(object).is_none()),
            root_namespace: meshes()
                .find_map(|mesh| mesh.root_namespace.as_deref())
                .unwrap_or(DEFAULT_ROOT_NAMESPACE),
            paths: match meshes().find_map(|mesh| mesh.defaults) {
                Some(Defaults::Istio) => ISTIO.path,
                Some(Defaults::Ripstop) | None => RIPSTOP.path,
            },
        }
    }

    /// The service that `host`, fully qualified, names; a wildcard of a ServiceEntry counts.
    fn service(&self, host: &str) -> Option<&Service> {
        self.by_host
            .get(host)
            .and_then(|index| self.services.get(*index))
            .or_else(|| {
                self.services
                    .iter()
                    .find(|service| covers(&service.host, host))
            })
    }

    /// The rules for a host, wildcard ones included.
    fn rules<'w>(
        &'w self,
        host: &'w str,
    ) -> impl Iterator<Item = &'w (&'o Object, &'o DestinationRule)> {
        self.rules
            .iter()
            .filter(move |(object, rule)| covers(&qualify(&rule.host, &object.namespace), host))
    }

    /// The workloads that a policy in `namespace` selects.
    fn selected<'w>(
        &'w self,
        namespace: &'w str,
        selector: Option<&'w WorkloadSelector>,
    ) -> impl Iterator<Item = &'w KnownWorkload> {
        let everywhere = namespace == self.root_namespace;
        self.workloads.iter().filter(move |workload| {
            (everywhere || workload.namespace == namespace)
                && selector.is_none_or(|selector| selector.matches(&workload.labels))
        })
    }

    /// How a workload's port treats plain text: mesh, namespace, workload and port, each overriding the wider one;
    /// among several of one scope the first by precedence.
    fn mtls(
        &self,
        namespace: &str,
        labels: &BTreeMap<String, String>,
        target: Option<u16>,
    ) -> MtlsMode {
        let policies = |scope: &dyn Fn(&Object, &PeerAuthentication) -> bool| {
            self.objects
                .iter()
                .filter_map(|object| match &object.spec {
                    Spec::PeerAuthentication(policy) if scope(object, policy) => {
                        Some((object, policy.as_ref()))
                    }
                    _ => None,
                })
                .min_by(|(a, _), (b, _)| a.precedence(b))
                .map(|(_, policy)| policy)
        };
        let selects = |policy: &PeerAuthentication| {
            policy
                .selector
                .as_ref()
                .filter(|selector| !selector.match_labels.is_empty())
                .map(|selector| selector.matches(labels))
        };
        let mesh = policies(&|o, p| o.namespace == self.root_namespace && selects(p).is_none());
        let wide = policies(&|o, p| o.namespace == namespace && selects(p).is_none());
        let own = policies(&|o, p| o.namespace == namespace && selects(p) == Some(true));
        let mut mode = MtlsMode::Permissive;
        for policy in [mesh, wide, own].into_iter().flatten() {
            match policy.mtls.as_ref().and_then(|mtls| mtls.mode) {
                None | Some(MtlsMode::Unset) => {}
                Some(set) => mode = set,
            }
        }
        let port = target.and_then(|port| own?.port_level_mtls.get(&port.to_string()));
        match port.and_then(|mtls| mtls.mode) {
            None | Some(MtlsMode::Unset) => mode,
            Some(set) => set,
        }
    }
}

fn known_workloads(mesh: &Mesh) -> impl Iterator<Item = KnownWorkload> {
    registry::workloads(mesh).map(|(service, workload)| KnownWorkload {
        namespace: service.namespace().to_owned(),
        service: qualify(&service.name, service.namespace()).into(),
        labels: workload.labels(service),
        service_account: workload.service_account(service).to_owned(),
    })
}

/// The checks of one object: reports at its fields and remembers whether it may be applied.
struct Checker<'a> {
    object: &'a Object,
    world: &'a World<'a>,
    sink: Sink,
    invalid: bool,
}

impl<'a> Checker<'a> {
    fn new(object: &'a Object, world: &'a World<'a>) -> Checker<'a> {
        let mut sink = Sink::new(object.origin.file.clone());
        sink.resource = object.key().to_string();
        Checker {
            object,
            world,
            sink,
            invalid: false,
        }
    }

    fn check(&mut self) {
        match &self.object.spec {
            Spec::Mesh(spec) => mesh::check(self, spec),
            Spec::VirtualService(spec) => virtual_service::check(self, spec),
            Spec::DestinationRule(spec) => destination_rule::check(self, spec),
            Spec::ServiceEntry(spec) => service_entry::check(self, spec),
            Spec::Sidecar(spec) => sidecar::check(self, spec),
            Spec::PeerAuthentication(spec) => peer_authentication::check(self, spec),
            Spec::AuthorizationPolicy(spec) => authorization_policy::check(self, spec),
        }
    }

    /// The value if there is one, else the key or what encloses it: where a caret helps most.
    fn span(&self, at: &Path<'_>) -> Span {
        match at.value(&self.object.origin.tree) {
            Some(node) if node.text().is_some() => node.span,
            _ => self.object.origin.locate(at),
        }
    }

    /// The resource is wrong and is not applied, unless the fault is only in what it refers to.
    fn error(&mut self, code: Code, at: &Path<'_>, message: impl Into<String>) -> &mut Diagnostic {
        self.invalid |= !code.is_reference();
        let span = self.span(at);
        self.sink.error(code, at, span, message)
    }

    fn warning(
        &mut self,
        code: Code,
        at: &Path<'_>,
        message: impl Into<String>,
    ) -> &mut Diagnostic {
        let span = self.span(at);
        self.sink.warning(code, at, span, message)
    }

    /// As [`Checker::report`], at the key: the name of a map entry is at fault, not its value.
    fn report_key(
        &mut self,
        severity: Severity,
        code: Code,
        at: &Path<'_>,
        message: impl Into<String>,
    ) -> &mut Diagnostic {
        let span = self.object.origin.locate(at);
        match severity {
            Severity::Error => {
                self.invalid |= !code.is_reference();
                self.sink.error(code, at, span, message)
            }
            Severity::Warning => self.sink.warning(code, at, span, message),
        }
    }

    fn report(
        &mut self,
        severity: Severity,
        code: Code,
        at: &Path<'_>,
        message: impl Into<String>,
    ) -> &mut Diagnostic {
        match severity {
            Severity::Error => self.error(code, at, message),
            Severity::Warning => self.warning(code, at, message),
        }
    }

    fn namespace(&self) -> &'a str {
        &self.object.namespace
    }

    /// A host as this resource means it.
    fn qualify(&self, host: &str) -> String {
        qualify(host, self.namespace())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyze::analyze;

    /// Mesh, namespace, workload, port: each overrides the wider one; of two in one scope the older counts.
    #[test]
    fn plain_text_follows_the_narrowest_scope() {
        let policies = r#"
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: mesh, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: older, namespace: shop, creationTimestamp: "2026-01-01T00:00:00Z"}
spec: {mtls: {mode: PERMISSIVE}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: a-younger, namespace: shop, creationTimestamp: "2026-01-02T00:00:00Z"}
spec: {mtls: {mode: DISABLE}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: db, namespace: shop}
spec:
  selector: {matchLabels: {app: db}}
  portLevelMtls: {"5432": {mode: DISABLE}, "80": {mode: UNSET}}
"#;
        let analysis = analyze(&[("f", policies)]);
        let world = World::new(&analysis.objects, &[], &[]);
        let labels = |app: &str| BTreeMap::from([("app".to_owned(), app.to_owned())]);
        let mode = |namespace, app, port| world.mtls(namespace, &labels(app), port);
        assert_eq!(mode("other", "x", None), MtlsMode::Strict);
        assert_eq!(mode("shop", "x", Some(5432)), MtlsMode::Permissive);
        assert_eq!(mode("shop", "db", Some(5432)), MtlsMode::Disable);
        assert_eq!(mode("shop", "db", Some(80)), MtlsMode::Permissive);
        assert_eq!(analysis.conflicts.len(), 1);
        assert_eq!(analysis.conflicts[0].loser.name, "a-younger");
        assert_eq!(analysis.conflicts[0].winner.name, "older");
    }
}

//! Files of configuration → the objects that are valid, and everything there is to say about the rest.
//!
//! One bad document never costs another (R3.1): every fault of every file is reported, what is sound is kept, and what
//! is not is listed as [`Rejected`], with the hosts and workloads it names, so that the control plane can keep its last
//! good version or fail closed for those alone.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::diagnostic::{Code, Diagnostic, Sources};
use crate::intent::{Created, DEFAULT_NAMESPACE, KNOWN, Key, Kind, Object, Origin, Spec};
use crate::schema::repair::{self, Lost};
use crate::schema::{Path, Sink, Typed, nearest, record};
use crate::validate::{self, Conflict, Doubtful, Joined};
use crate::yaml::{self, FaultKind, Node, Value};

/// What files say.
#[derive(Debug, Default)]
pub struct Analysis {
    /// Valid ones, in the order of the files and of the documents in them.
    pub objects: Vec<Object>,
    /// Those that errors keep out.
    pub rejected: Vec<Rejected>,
    /// In the order of the text, file by file.
    pub diagnostics: Vec<Diagnostic>,
    /// Who lost to whom where resources overlap; the losers are among `objects`.
    pub conflicts: Vec<Conflict>,
    /// The texts, for [`crate::diagnostic::render`].
    pub sources: Sources,
    /// Those of `rejected` of which enough could be read to go on with.
    doubtful: Vec<Doubtful>,
}

impl Analysis {
    pub fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(Diagnostic::is_error)
    }
}

/// A document of a served kind that is not applied.
#[derive(Debug, Clone)]
pub struct Rejected {
    pub kind: Kind,
    pub namespace: String,
    /// Empty if it has none.
    pub name: String,
    pub origin: Origin,
    /// As far as it could be read.
    pub spec: Option<Spec>,
}

impl Rejected {
    pub fn key(&self) -> Key {
        Key {
            kind: self.kind,
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        }
    }

    /// The hosts that it names as its own, as typed: what fails closed if there is no earlier version.
    pub fn hosts(&self) -> Vec<&str> {
        let Some(spec) = self.origin.tree.field("spec") else {
            return Vec::new();
        };
        let listed = spec.field("hosts").map(Node::items).unwrap_or_default();
        listed
            .iter()
            .chain(spec.field("host"))
            .filter_map(Node::text)
            .collect()
    }

    /// The workloads that it selects by label; `None` selects the namespace, or the mesh from the root namespace.
    pub fn selector(&self) -> Option<BTreeMap<String, String>> {
        let labels = self
            .origin
            .tree
            .field("spec")?
            .field("selector")?
            .field("matchLabels")?;
        let Value::Map(entries) = &labels.value else {
            return None;
        };
        Some(crate::intent::selection::labels(entries))
    }
}

/// Reads and checks `files`, each a name to show and its text, together.
pub fn analyze<P: AsRef<str>, T: AsRef<str>>(files: &[(P, T)]) -> Analysis {
    among(files, &[])
}

/// The same, in a mesh that `joined` are workloads of beside those that the files declare.
pub fn among<P: AsRef<str>, T: AsRef<str>>(files: &[(P, T)], joined: &[Joined]) -> Analysis {
    let mut analysis = Analysis::default();
    for (path, text) in files {
        read(path.as_ref(), text.as_ref(), &mut analysis);
    }
    drop_duplicates(&mut analysis);
    let doubtful = std::mem::take(&mut analysis.doubtful);
    let verdict = validate::check(&analysis.objects, &doubtful, joined);
    let objects = std::mem::take(&mut analysis.objects);
    for object in objects {
        if verdict.invalid.contains(&object.key()) {
            analysis.rejected.push(Rejected {
                kind: object.kind,
                namespace: object.namespace,
                name: object.name,
                origin: object.origin,
                spec: Some(object.spec),
            });
        } else {
            analysis.objects.push(object);
        }
    }
    analysis.diagnostics.extend(verdict.diagnostics);
    analysis.conflicts = verdict.conflicts;
    let order: HashMap<Arc<str>, usize> = files
        .iter()
        .enumerate()
        .map(|(index, (path, _))| (Arc::from(path.as_ref()), index))
        .collect();
    analysis.diagnostics.sort_by_key(|diagnostic| {
        (
            order.get(&diagnostic.file).copied(),
            diagnostic.span.start,
            diagnostic.code,
        )
    });
    analysis
}

/// Reads one file; what is said about it does not depend on any other.
fn read(path: &str, text: &str, analysis: &mut Analysis) {
    let file: Arc<str> = path.into();
    analysis.sources.insert(file.clone(), text.into());
    for document in yaml::parse(text) {
        let mut sink = Sink::new(file.clone());
        let sound = document.faults.is_empty();
        for fault in document.faults {
            let code = match fault.kind {
                FaultKind::Syntax => Code::Syntax,
                FaultKind::DuplicateKey => Code::DuplicateKey,
                FaultKind::TooLarge => Code::TooLarge,
            };
            let diagnostic = sink.error(code, &Path::ROOT, fault.span, fault.message);
            match (code, fault.earlier) {
                (Code::DuplicateKey, Some(earlier)) => {
                    diagnostic
                        .help("keep one of them")
                        .related(&file, earlier, "first set here");
                }
                (Code::Syntax, _) => {
                    diagnostic.help("this document is skipped; the others of the file are read");
                }
                _ => {}
            }
        }
        match document.root {
            Some(root) => document_of(root, sound, sink, analysis),
            None => analysis.diagnostics.append(&mut sink.diagnostics),
        }
    }
}

/// One document, or each item of a Kubernetes `List`.
fn document_of(root: Node, sound: bool, mut sink: Sink, analysis: &mut Analysis) {
    let is_list = root.field("kind").and_then(Node::text) == Some("List")
        && root.field("apiVersion").and_then(Node::text) == Some("v1");
    if !is_list {
        object_of(root, sound, &mut sink, analysis);
        analysis.diagnostics.append(&mut sink.diagnostics);
        return;
    }
    if let Value::Map(entries) = root.value {
        let items = entries.into_iter().find(|entry| entry.key == "items");
        if let Some(Value::List(items)) = items.map(|entry| entry.value.value) {
            for item in items {
                sink.resource.clear();
                object_of(item, sound, &mut sink, analysis);
            }
        }
    }
    analysis.diagnostics.append(&mut sink.diagnostics);
}

record! {
    struct Envelope {
        metadata: Metadata,
    }
    silent { "apiVersion", "kind", "spec", "status" }
}

record! {
    struct Metadata {
        name: String,
        namespace: Option<String>,
        labels: BTreeMap<String, String>,
        annotations: BTreeMap<String, String>,
        creation_timestamp: Option<String>,
    }
    silent {
        "deletionGracePeriodSeconds", "deletionTimestamp", "finalizers", "generateName", "generation", "managedFields",
        "ownerReferences", "resourceVersion", "selfLink", "uid",
    }
}

fn object_of(root: Node, sound: bool, sink: &mut Sink, analysis: &mut Analysis) {
    let Some(kind) = kind_of(&root, sink) else {
        return;
    };
    let metadata = root.field("metadata");
    let text = |field: &str| {
        metadata
            .and_then(|metadata| metadata.field(field))
            .and_then(Node::text)
            .unwrap_or_default()
            .to_owned()
    };
    let namespace = Some(text("namespace"))
        .filter(|namespace| !namespace.is_empty())
        .unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned());
    let name = text("name");
    sink.resource = format!("{kind} {namespace}/{name}");
    if kind == Kind::AuthorizationPolicy && judges_nothing(&root, sink) {
        return;
    }
    let begun = sink.diagnostics.len();
    let already = sink.diagnostics.iter().filter(|d| d.is_error()).count();

    let envelope = Envelope::read(&root, &Path::ROOT, sink);
    let at = Path::ROOT.field("spec");
    let empty = Node {
        span: root.entry("spec").map_or(root.span, |spec| spec.key_span),
        value: Value::Map(Vec::new()),
    };
    let typed = root.field("spec").unwrap_or(&empty);
    let spec = kind.read_spec(typed, &at, sink);
    let errors = sink.diagnostics.iter().filter(|d| d.is_error()).count();
    let faults = sink.diagnostics.get(begun..).unwrap_or_default();
    let mut lost = Lost::of(faults);
    let spec = spec.or_else(|| readable(kind, typed, &at, faults, &mut lost));

    let start = root.entry("apiVersion").or(root.entry("kind"));
    let start = start.map_or(root.span, |entry| entry.key_span);
    let origin = Origin {
        file: sink.file.clone(),
        line: start.line,
        column: start.column,
        tree: Arc::new(root),
    };
    match (envelope, spec) {
        (Some(envelope), Some(spec)) if sound && errors == already => {
            let Metadata {
                name,
                labels,
                annotations,
                creation_timestamp,
                ..
            } = envelope.metadata;
            analysis.objects.push(Object {
                kind,
                namespace,
                name,
                labels,
                annotations,
                created: Created(creation_timestamp.unwrap_or_default()),
                origin,
                spec,
            });
        }
        (_, spec) => {
            analysis.doubtful.extend(spec.clone().map(|spec| Doubtful {
                object: Object {
                    kind,
                    namespace: namespace.clone(),
                    name: name.clone(),
                    labels: BTreeMap::new(),
                    annotations: BTreeMap::new(),
                    created: Created::default(),
                    origin: origin.clone(),
                    spec,
                },
                lost,
            }));
            analysis.rejected.push(Rejected {
                kind,
                namespace,
                name,
                origin,
                spec,
            });
        }
    }
}

/// What can be read of a spec without its `faults`, all of which have been said.
fn readable(
    kind: Kind,
    typed: &Node,
    at: &Path<'_>,
    faults: &[Diagnostic],
    lost: &mut Lost,
) -> Option<Spec> {
    /// What lacks a required field goes as well, and what lacks that.
    const ROUNDS: u32 = 16;
    let mut rest = repair::without(typed, at, faults, lost)?;
    for _ in 0..ROUNDS {
        let mut sink = Sink::new("".into());
        if let Some(spec) = kind.read_spec(&rest, at, &mut sink) {
            return Some(spec);
        }
        rest = repair::without(&rest, at, &sink.diagnostics, lost)?;
    }
    None
}

/// A policy that changes no decision in Istio either: left out with a warning, so that nothing fails closed for it.
fn judges_nothing(root: &Node, sink: &mut Sink) -> bool {
    let metadata = Path::ROOT.field("metadata");
    let annotations = metadata.field("annotations");
    let spec = Path::ROOT.field("spec");
    for (at, value, what) in [
        (
            annotations.field("istio.io/dry-run"),
            "true",
            "dry runs are",
        ),
        (spec.field("action"), "AUDIT", "AUDIT is"),
    ] {
        let found = at.value(root).filter(|node| node.text() == Some(value));
        if let Some(node) = found {
            sink.warning(
                Code::NotSupportedYet,
                &at,
                node.span,
                format!("{what} not supported yet; this policy is not evaluated"),
            )
            .help("it would not change any decision");
            return true;
        }
    }
    false
}

/// Which served kind a document is; says why it is none.
fn kind_of(root: &Node, sink: &mut Sink) -> Option<Kind> {
    if !matches!(root.value, Value::Map(_)) {
        sink.error(
            Code::WrongType,
            &Path::ROOT,
            root.span,
            format!("expected a resource, found {}", root.describe()),
        )
        .help("a resource has apiVersion, kind, metadata and spec");
        return None;
    }
    let mut word = |field: &str| {
        let at = Path::ROOT.field(field);
        match root.field(field) {
            Some(node) => String::read(node, &at, sink),
            None => {
                sink.error(
                    Code::MissingField,
                    &at,
                    root.span,
                    format!("`{field}` is missing"),
                )
                .help("a resource has apiVersion, kind, metadata and spec");
                None
            }
        }
    };
    let (version, kind) = (word("apiVersion"), word("kind"));
    let (version, kind) = (version?, kind?);
    let (group, short) = version.split_once('/').unwrap_or(("", &version));
    let at_kind = Path::ROOT.field("kind");
    let kind_span = at_kind.value(root).map_or(root.span, |node| node.span);
    if let Some(known) = Kind::of(group, &kind) {
        if !known.versions().contains(&short) {
            let at = Path::ROOT.field("apiVersion");
            let span = at.value(root).map_or(root.span, |node| node.span);
            sink.error(
                Code::UnknownVersion,
                &at,
                span,
                format!("{kind} has no version `{short}`"),
            )
            .help(format!(
                "write apiVersion: {group}/{}",
                known.versions().first().copied().unwrap_or_default()
            ));
            return None;
        }
        return Some(known);
    }
    if KNOWN
        .iter()
        .any(|(known, kinds)| *known == group && kinds.contains(&kind.as_str()))
    {
        sink.warning(
            Code::NotSupportedYet,
            &at_kind,
            kind_span,
            format!("{kind} is not supported yet; this resource has no effect"),
        );
        return None;
    }
    if KUBERNETES.contains(&group) {
        sink.warning(
            Code::NotSupportedYet,
            &at_kind,
            kind_span,
            format!("{kind} is a Kubernetes resource; the mesh does not read it"),
        )
        .help("declare services and workloads in a Mesh, hosts outside in a ServiceEntry");
        return None;
    }
    unknown_kind(group, &version, &kind, root, sink);
    None
}

/// Groups of Kubernetes' own kinds, which often lie in the same folders.
const KUBERNETES: &[&str] = &[
    "",
    "apps",
    "autoscaling",
    "batch",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
];

fn unknown_kind(group: &str, version: &str, kind: &str, root: &Node, sink: &mut Sink) {
    let of_kind = Kind::ALL.iter().find(|known| known.as_str() == kind);
    let (field, message, help) = match of_kind {
        Some(known) => (
            "apiVersion",
            format!("`{version}` has no kind {kind}"),
            format!(
                "write apiVersion: {}/{}",
                known.group(),
                known.versions().first().copied().unwrap_or_default()
            ),
        ),
        None => {
            let kinds = || Kind::ALL.iter().map(|known| known.as_str());
            let help = match nearest(kind, kinds()) {
                Some(near) => format!("did you mean {near}?"),
                None => format!("the kinds are {}", kinds().collect::<Vec<_>>().join(", ")),
            };
            let message = if group.is_empty() {
                format!("unknown kind {kind}")
            } else {
                format!("unknown kind {kind} in {group}")
            };
            ("kind", message, help)
        }
    };
    let at = Path::ROOT.field(field);
    let span = at.value(root).map_or(root.span, |node| node.span);
    sink.error(Code::UnknownKind, &at, span, message).help(help);
}

/// Of several resources with one name the first counts.
fn drop_duplicates(analysis: &mut Analysis) {
    let mut first: HashMap<Key, Origin> = HashMap::new();
    for object in std::mem::take(&mut analysis.objects) {
        let key = object.key();
        let at = Path::ROOT.field("metadata");
        let at = at.field("name");
        match first.get(&key) {
            None => {
                first.insert(key, object.origin.clone());
                analysis.objects.push(object);
            }
            Some(earlier) => {
                let mut sink = Sink::new(object.origin.file.clone());
                sink.resource = key.to_string();
                sink.error(
                    Code::DuplicateResource,
                    &at,
                    object.origin.locate(&at),
                    format!("{key} is declared twice"),
                )
                .help("rename one of them or merge the two; this one is not applied")
                .related(&earlier.file, earlier.locate(&at), "first declared here");
                analysis.diagnostics.append(&mut sink.diagnostics);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDERS: &str = r#"
apiVersion: ripstop.dev/v1alpha1
kind: Mesh
metadata: {name: orders}
spec:
  config: [./config]
  services:
  - name: user-service
    ports: [{name: http, port: 80, targetPort: 8080, publish: 9000}]
    workloads:
    - name: user-service-v1
      replicas: 2
      labels: {version: v1}
      command: [python3, users.py, 5]
      env: {COLOR: blue, RETRIES: 3}
      user: nobody
      readiness: {http: {path: /healthz}}
      hostPorts: [5432]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: users, namespace: shop}
spec:
  hosts: [user-service.default]
  http:
  - retries: {attempts: 3, perTryTimeout: 2s, retryOn: "gateway-error,connect-failure,retriable-4xx"}
    route:
    - destination: {host: user-service.default.svc.cluster.local}
"#;

    #[test]
    fn a_mesh_file_with_its_rules() {
        let analysis = analyze(&[("mesh.yaml", ORDERS)]);
        assert!(!analysis.has_errors(), "{:#?}", analysis.diagnostics);
        let [mesh, rule] = analysis.objects.as_slice() else {
            panic!("{:#?}", analysis.objects);
        };
        let Spec::Mesh(mesh) = &mesh.spec else {
            panic!("{mesh:?}");
        };
        let service = &mesh.services[0];
        let workload = &service.workloads[0];
        assert_eq!(workload.command.0, ["python3", "users.py", "5"]);
        assert_eq!(workload.env["RETRIES"].0, "3");
        assert_eq!(workload.service_account(service), "user-service");
        assert_eq!(
            service.ports[0].publish.map(|p| p.to_string()).as_deref(),
            Some("127.0.0.1:9000")
        );
        let Spec::VirtualService(spec) = &rule.spec else {
            panic!("{rule:?}");
        };
        let retries = spec.http[0].retries.as_ref().unwrap();
        assert_eq!(retries.attempts, Some(3));
        assert_eq!(retries.backoff, None);
        assert_eq!((rule.origin.line, rule.namespace.as_str()), (20, "shop"));
        let route = Path::ROOT.field("spec");
        let route = route.field("http");
        let route = route.index(0);
        let route = route.field("retries");
        let route = route.field("attempts");
        assert_eq!(route.to_string(), "spec.http[0].retries.attempts");
        let span = rule.origin.locate(&route);
        assert_eq!((span.line, span.column), (26, 15));
    }

    #[test]
    fn every_fault_at_once_and_the_rest_stays() {
        let bad = ORDERS
            .replace("attempts: 3", "atempts: 3")
            .replace("2s", "2")
            .replace("retryOn: \"", "retryOn: [\"")
            .replace("4xx\"", "4xx\"]");
        let analysis = analyze(&[("mesh.yaml", bad)]);
        let codes: Vec<Code> = analysis.diagnostics.iter().map(|d| d.code).collect();
        assert_eq!(
            codes,
            [Code::UnknownField, Code::InvalidDuration, Code::WrongType],
            "{:#?}",
            analysis.diagnostics
        );
        assert_eq!(analysis.objects.len(), 1);
        assert_eq!(analysis.rejected[0].hosts(), ["user-service.default"]);
    }
}

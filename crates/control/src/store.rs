//! Listings → the resources in force, each with its origin and its standing. Pure: files and the state file are read and written
//! by others.
//!
//! One bad resource never blocks another: it keeps its last good version, across restarts too, and one that never had any fails
//! closed for what it names alone (R3.1).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ripstop_model::analyze::{self, Analysis, Rejected};
use ripstop_model::diagnostic::{Code, Diagnostic};
use ripstop_model::intent::{Key, Kind, Object, Origin, Spec, registry};
use ripstop_model::validate::Joined;
use ripstop_model::yaml::{Entry, Node, Value};
use serde::{Deserialize, Serialize};

use crate::api::message::{Conflict, Resource, ResourceStatus, SourceStatus};
use crate::source::Change;

/// The pseudo file of a resource that came over the API.
const API: &str = "api";

/// What is in force.
#[derive(Debug, Clone, Default)]
pub struct Configuration {
    pub objects: Vec<Arc<Object>>,
    pub closed: Vec<Closed>,
}

/// A resource that is not accepted and never was: what it names is refused rather than served as if it were not there.
#[derive(Debug, Clone, PartialEq)]
pub struct Closed {
    pub key: Key,
    /// As typed; short names mean the resource's namespace.
    pub hosts: Vec<String>,
    /// `None`: the whole namespace.
    pub selector: Option<BTreeMap<String, String>>,
}

/// The last good version of a source's resource, as it survives a restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    pub source: String,
    pub file: String,
    /// Where the text began.
    pub line: u32,
    pub text: String,
}

/// A resource of an earlier run, and the source that it came from.
type Remembered = (Arc<str>, Arc<Object>);

#[derive(Debug, Default)]
struct SourceState {
    /// It has been read at least once.
    listed: bool,
    files: Vec<(String, String)>,
    problems: Vec<String>,
    error: Option<String>,
}

#[derive(Debug, Default)]
pub struct Store {
    sources: BTreeMap<Arc<str>, SourceState>,
    /// Applied over the API: key → text.
    applied: BTreeMap<String, String>,
    /// In force, last good versions included.
    accepted: BTreeMap<Key, Arc<Object>>,
    /// Keys that are in force in an earlier version.
    last_good: BTreeSet<Key>,
    /// Of an earlier run, with their sources: in force until the source has been read.
    remembered: BTreeMap<Key, Remembered>,
    /// The workloads that there are, those of the mesh file among them.
    joined: Vec<Joined>,
    analysis: Analysis,
    revision: u64,
}

impl Store {
    /// With what an earlier run was given over the API, and what it last accepted from its sources.
    pub fn new(
        applied: impl IntoIterator<Item = (String, String)>,
        memories: impl IntoIterator<Item = Memory>,
    ) -> Store {
        let mut store = Store {
            applied: applied.into_iter().collect(),
            remembered: memories.into_iter().filter_map(recall).collect(),
            ..Store::default()
        };
        store.settle();
        store
    }

    /// Grows whenever what is in force changes.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Whether what is in force changed.
    pub fn change(&mut self, change: Change) -> bool {
        match change {
            Change::Failed { source, error } => {
                self.sources.entry(source).or_default().error = Some(error);
                false
            }
            Change::Listing {
                source,
                files,
                problems,
            } => {
                let state = self.sources.entry(source).or_default();
                *state = SourceState {
                    listed: true,
                    files,
                    problems,
                    error: None,
                };
                self.settle()
            }
        }
    }

    /// Who is in the mesh now: resources that refer to them are judged anew. Whether what is in force changed.
    pub fn join(&mut self, joined: Vec<Joined>) -> bool {
        let news = self.news(&joined) != self.news(&self.joined);
        self.joined = joined;
        news && self.settle()
    }

    /// Those of whom no mesh file in force says as much: all others change no verdict.
    fn news<'j>(&self, joined: &'j [Joined]) -> Vec<&'j Joined> {
        let objects = || self.accepted.values().map(|object| &**object);
        let mut ports: BTreeMap<Arc<str>, BTreeSet<u16>> = BTreeMap::new();
        for service in registry::services(objects()) {
            let numbers = service.ports.iter().map(|port| port.number);
            ports.entry(service.host).or_default().extend(numbers);
        }
        let mut declared: BTreeSet<(String, BTreeMap<String, String>, &str)> = BTreeSet::new();
        for object in objects() {
            let Spec::Mesh(mesh) = &object.spec else {
                continue;
            };
            declared.extend(registry::workloads(mesh).map(|(service, workload)| {
                let host = registry::qualify(&service.name, service.namespace());
                let account = workload.service_account(service);
                (host, workload.labels(service), account)
            }));
        }
        let is_known = |joined: &&Joined| {
            joined.service.as_ref().is_some_and(|service| {
                let host = service.host.to_string();
                let account = joined.service_account.as_str();
                let known = ports.get(&service.host);
                declared.contains(&(host, joined.labels.clone(), account))
                    && service
                        .ports
                        .iter()
                        .all(|port| known.is_some_and(|known| known.contains(&port.number)))
            })
        };
        joined.iter().filter(|joined| !is_known(joined)).collect()
    }

    /// Sources that are no longer configured take their resources along.
    pub fn keep_sources(&mut self, names: &BTreeSet<Arc<str>>) -> bool {
        self.sources.retain(|name, _| names.contains(name));
        self.remembered
            .retain(|_, (source, _)| names.contains(source));
        self.settle()
    }

    /// Reads everything anew. The files of one source come in its order, the API's resources last, so that of two with one
    /// name the file's counts.
    fn settle(&mut self) -> bool {
        let mut all = self.files();
        all.extend(
            self.applied
                .iter()
                .map(|(key, text)| (format!("{API}/{key}"), text.as_str())),
        );
        let mut analysis = analyze::among(&all, &self.joined);
        for diagnostic in &mut analysis.diagnostics {
            takes_back(diagnostic);
        }
        let mut accepted: BTreeMap<Key, Arc<Object>> = BTreeMap::new();
        for object in &analysis.objects {
            let key = object.key();
            // What did not change stays the same allocation.
            let place = (&object.origin.file, object.origin.tree.span);
            let same = self.accepted.get(&key).filter(|old| {
                ***old == *object && (&old.origin.file, old.origin.tree.span) == place
            });
            let object = same.map_or_else(|| Arc::new(object.clone()), Arc::clone);
            accepted.insert(key, object);
        }
        let unreadable: BTreeSet<&Arc<str>> = analysis
            .diagnostics
            .iter()
            .filter(|d| matches!(d.code, Code::Syntax | Code::TooLarge) && d.is_error())
            .map(|d| &d.file)
            .collect();
        let rejected: BTreeSet<Key> = analysis.rejected.iter().map(Rejected::key).collect();
        let mut last_good = BTreeSet::new();
        for (key, old) in &self.accepted {
            // A document that cannot be parsed may be any that its file held before.
            let lost = rejected.contains(key) || unreadable.contains(&old.origin.file);
            if lost && !accepted.contains_key(key) {
                accepted.insert(key.clone(), old.clone());
                last_good.insert(key.clone());
            }
        }
        let silent = |source: &Arc<str>| self.sources.get(source).is_none_or(|s| !s.listed);
        for (key, (source, old)) in &self.remembered {
            let lost = rejected.contains(key) || unreadable.contains(&old.origin.file);
            if (lost || silent(source)) && !accepted.contains_key(key) {
                accepted.insert(key.clone(), old.clone());
                last_good.insert(key.clone());
            }
        }
        let closed_before = closed(&self.analysis, &self.accepted);
        let changed = accepted != self.accepted || closed(&analysis, &accepted) != closed_before;
        self.remembered
            .retain(|_, (source, _)| self.sources.get(source).is_none_or(|state| !state.listed));
        self.accepted = accepted;
        self.last_good = last_good;
        self.analysis = analysis;
        if changed {
            self.revision += 1;
        }
        changed
    }

    pub fn configuration(&self) -> Configuration {
        Configuration {
            objects: self.accepted.values().cloned().collect(),
            closed: closed(&self.analysis, &self.accepted),
        }
    }

    /// What `text` would change: the documents that can be applied, each with its own text, and everything to say about it
    /// among the resources that there are.
    pub fn check(&self, text: &str) -> (Vec<(Key, String)>, Vec<Diagnostic>) {
        const REQUEST: &str = "request";
        let alone = analyze::analyze(&[(REQUEST, text)]);
        let documents: Vec<(Key, String)> = alone
            .objects
            .iter()
            .map(|object| (object.key(), excerpt(text, &object.origin)))
            .collect();
        let replaced: BTreeSet<String> = documents.iter().map(|(key, _)| path_of(key)).collect();
        let mut all = self.files();
        all.extend(
            self.applied
                .iter()
                .filter(|(key, _)| !replaced.contains(*key))
                .map(|(key, text)| (format!("{API}/{key}"), text.as_str())),
        );
        all.push((REQUEST.to_owned(), text));
        let mut diagnostics = analyze::among(&all, &self.joined).diagnostics;
        // What a file declares as well is refused with that file's name.
        diagnostics.retain(|diagnostic| {
            *diagnostic.file == *REQUEST
                && (diagnostic.code != Code::DuplicateResource
                    || diagnostic
                        .related
                        .iter()
                        .all(|related| *related.file == *REQUEST))
        });
        (documents, diagnostics)
    }

    /// The sources' files, each with its text.
    fn files(&self) -> Vec<(String, &str)> {
        self.sources
            .values()
            .flat_map(|source| &source.files)
            .map(|(name, text)| (name.clone(), text.as_str()))
            .collect()
    }

    /// The resources in force that came from sources.
    pub fn from_sources(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.accepted
            .values()
            .filter(|object| !is_api(&object.origin))
    }

    /// What to remember of a resource that was accepted just now.
    pub fn memory(&self, object: &Object) -> Option<Memory> {
        let file = &object.origin.file;
        let holds = |state: &SourceState| state.files.iter().any(|(name, _)| **name == **file);
        let (source, _) = self.sources.iter().find(|(_, state)| holds(state))?;
        Some(Memory {
            source: source.to_string(),
            file: file.to_string(),
            line: object.origin.tree.span.line.max(1),
            text: excerpt(self.analysis.sources.get(file)?, &object.origin),
        })
    }

    /// Applies one document over the API.
    pub fn put(&mut self, key: &Key, text: String) -> bool {
        self.applied.insert(path_of(key), text);
        self.settle()
    }

    /// Takes back what came over the API, also where a file declares the same. `None`: nothing was applied under that name.
    pub fn delete(&mut self, key: &Key) -> Option<bool> {
        self.applied.remove(&path_of(key))?;
        Some(self.settle())
    }

    /// The file that declares a resource, unless it came over the API.
    pub fn file_of(&self, key: &Key) -> Option<Arc<str>> {
        let object = self.accepted.get(key)?;
        (!is_api(&object.origin)).then(|| object.origin.file.clone())
    }

    /// The resources in force, optionally of one kind, namespace, name.
    pub fn list(
        &self,
        kind: Option<Kind>,
        namespace: Option<&str>,
        name: Option<&str>,
    ) -> Vec<Resource> {
        self.accepted
            .values()
            .filter(|object| kind.is_none_or(|kind| object.kind == kind))
            .filter(|object| namespace.is_none_or(|namespace| object.namespace == namespace))
            .filter(|object| name.is_none_or(|name| object.name == name))
            .map(|object| Resource {
                kind: object.kind.to_string(),
                namespace: object.namespace.clone(),
                name: object.name.clone(),
                origin: origin(&object.origin),
                text: self
                    .analysis
                    .sources
                    .get(&object.origin.file)
                    .map(|text| excerpt(text, &object.origin))
                    .unwrap_or_default(),
            })
            .collect()
    }

    /// The standing of every resource, without what only proxies know.
    pub fn resources(&self) -> Vec<ResourceStatus> {
        let rejected = self.analysis.rejected.iter().map(|r| (r.key(), &r.origin));
        let mut standing: BTreeMap<Key, ResourceStatus> = BTreeMap::new();
        for (key, place) in rejected {
            standing
                .entry(key)
                .or_insert_with_key(|key| ResourceStatus {
                    resource: path_of(key),
                    origin: origin(place),
                    ..ResourceStatus::default()
                });
        }
        for (key, object) in &self.accepted {
            let last_good = self.last_good.contains(key);
            let status = standing
                .entry(key.clone())
                .or_insert_with(|| ResourceStatus {
                    resource: path_of(key),
                    origin: origin(&object.origin),
                    ..ResourceStatus::default()
                });
            status.accepted = !last_good;
            status.last_good = last_good;
        }
        for conflict in &self.analysis.conflicts {
            if let Some(status) = standing.get_mut(&conflict.loser) {
                status.conflicts.push(Conflict {
                    winner: path_of(&conflict.winner),
                    about: conflict.over.clone(),
                });
            }
        }
        for (key, status) in &mut standing {
            let name = key.to_string();
            let own = self
                .analysis
                .diagnostics
                .iter()
                .filter(|d| d.resource == name);
            status.messages = own.map(Diagnostic::to_string).collect();
        }
        standing.into_values().collect()
    }

    pub fn source_statuses(&self) -> Vec<SourceStatus> {
        let status = |(name, state): (&Arc<str>, &SourceState)| {
            let files: BTreeSet<&str> = state.files.iter().map(|(file, _)| file.as_str()).collect();
            let said = self
                .analysis
                .diagnostics
                .iter()
                .filter(|diagnostic| files.contains(&*diagnostic.file));
            SourceStatus {
                source: name.to_string(),
                resources: self
                    .accepted
                    .values()
                    .filter(|object| files.contains(&*object.origin.file))
                    .count(),
                error: state.error.clone(),
                messages: state
                    .problems
                    .iter()
                    .cloned()
                    .chain(said.map(Diagnostic::to_string))
                    .collect(),
            }
        };
        self.sources.iter().map(status).collect()
    }
}

/// Who applied what a file declares as well is told how to undo that.
fn takes_back(diagnostic: &mut Diagnostic) {
    let Some(path) = diagnostic.file.strip_prefix(API) else {
        return;
    };
    let parts: Vec<&str> = path.split('/').collect();
    if let (Code::DuplicateResource, ["", kind, namespace, name]) =
        (diagnostic.code, parts.as_slice())
    {
        diagnostic.help(format!(
            "the file's counts; take this one back with `ripstop delete {} {name} -n {namespace}`",
            kind.to_ascii_lowercase()
        ));
    }
}

/// `None`: this program no longer takes what an earlier one accepted.
fn recall(memory: Memory) -> Option<(Key, Remembered)> {
    // Positions stay what they were.
    let above = memory.line.saturating_sub(1) as usize;
    let text = format!("{}{}", "\n".repeat(above), memory.text);
    let mut objects = analyze::analyze(&[(&memory.file, &text)]).objects;
    let object = objects.pop().filter(|_| objects.is_empty())?;
    Some((object.key(), (memory.source.into(), Arc::new(object))))
}

fn closed(analysis: &Analysis, accepted: &BTreeMap<Key, Arc<Object>>) -> Vec<Closed> {
    let mut closed: Vec<Closed> = analysis
        .rejected
        .iter()
        .filter(|rejected| !accepted.contains_key(&rejected.key()))
        .map(|rejected| Closed {
            key: rejected.key(),
            hosts: rejected.hosts().into_iter().map(str::to_owned).collect(),
            selector: rejected.selector(),
        })
        .collect();
    closed.sort_by(|a, b| a.key.cmp(&b.key));
    closed.dedup();
    closed
}

/// `VirtualService/default/orders`.
pub fn path_of(key: &Key) -> String {
    format!("{}/{}/{}", key.kind, key.namespace, key.name)
}

fn is_api(origin: &Origin) -> bool {
    origin
        .file
        .strip_prefix(API)
        .is_some_and(|rest| rest.starts_with('/'))
}

fn origin(origin: &Origin) -> String {
    if is_api(origin) {
        API.to_owned()
    } else {
        origin.to_string()
    }
}

/// The document's own text: from its first key to the next document marker. An item of a `List` is written out anew, since its
/// text means nothing outside the list.
fn excerpt(text: &str, origin: &Origin) -> String {
    let start = origin.tree.span.start as usize;
    let rest = text.get(start..).unwrap_or_default();
    let end = ["\n---", "\n..."]
        .iter()
        .filter_map(|marker| rest.find(marker))
        .min()
        .unwrap_or(rest.len());
    let own = format!("{}\n", rest.get(..end).unwrap_or_default().trim_end());
    let alone = analyze::analyze(&[("excerpt", own.as_str())]);
    match alone.objects.as_slice() {
        [only] if same_shape(&only.origin.tree, &origin.tree) => own,
        _ => {
            let mut flow = String::new();
            write_flow(&origin.tree, &mut flow);
            flow.push('\n');
            flow
        }
    }
}

/// Equal but for positions.
fn same_shape(a: &Node, b: &Node) -> bool {
    match (&a.value, &b.value) {
        (Value::Null, Value::Null) => true,
        (Value::Scalar(a), Value::Scalar(b)) => a == b,
        (Value::List(a), Value::List(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_shape(a, b))
        }
        (Value::Map(a), Value::Map(b)) => {
            let same = |(a, b): (&Entry, &Entry)| a.key == b.key && same_shape(&a.value, &b.value);
            a.len() == b.len() && a.iter().zip(b).all(same)
        }
        _ => false,
    }
}

/// YAML's flow style, which is JSON but for plain scalars.
fn write_flow(node: &Node, out: &mut String) {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    match &node.value {
        Value::Null => out.push_str("null"),
        // A number in quotes would be text, a word without them need not be.
        Value::Scalar(scalar) => {
            let literal = scalar.text.parse::<f64>().is_ok()
                || matches!(scalar.text.as_str(), "true" | "false" | "null" | "~");
            if scalar.plain && literal {
                out.push_str(&scalar.text);
            } else {
                out.push_str(&quoted(&scalar.text));
            }
        }
        Value::List(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                write_flow(item, out);
            }
            out.push(']');
        }
        Value::Map(entries) => {
            out.push('{');
            for (index, entry) in entries.iter().enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                out.push_str(&quoted(&entry.key));
                out.push_str(": ");
                write_flow(&entry.value, out);
            }
            out.push('}');
        }
    }
}

#[cfg(test)]
mod tests;

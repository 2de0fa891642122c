//! A folder of `cases` → a [`Case`]: its bootstrap, its upstreams (listening), its steps.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use ripstop_testkit::port::{self, Port};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::bootstrap;
use super::script::{Scripted, Server};
use super::transport::Tls;

pub(crate) struct Case {
    pub(crate) name: String,
    /// Words replaced by ports.
    pub(crate) bootstrap: Value,
    pub(crate) steps: Vec<Step>,
    pub(crate) upstreams: Scripted,
    /// Names of counters and gauges that both must have at the same value in the end.
    pub(crate) counters: Vec<String>,
    ports: BTreeMap<String, Port>,
    /// What the clusters of a variant have behind their names.
    mark: String,
}

/// A case with something left out of its bootstrap, to be played beside it.
#[derive(Debug, Clone)]
pub(crate) struct Cut {
    /// A JSON pointer.
    pub(crate) at: String,
    /// Told apart from the variants that are played beside it.
    pub(crate) number: usize,
}

/// One line of `requests.yaml`: a request, or several at once.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Together(Vec<Request>),
    One(Box<Request>),
}

/// What is sent, and what is known of the answer.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Request {
    /// `GET /path`; `{n}` counts from 0 where `times` is given.
    #[serde(default)]
    pub(crate) request: String,
    /// Why this request is here.
    #[serde(default)]
    pub(crate) why: String,
    /// The whole request as it goes on the wire, in place of the fields that describe one.
    #[serde(default)]
    pub(crate) raw: Option<String>,
    /// Another listener than `main`.
    #[serde(default)]
    pub(crate) to: Option<String>,
    #[serde(default)]
    pub(crate) host: Option<String>,
    /// A value, or a list of values: a line each. `AT name` is an address.
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, Value>,
    #[serde(default)]
    pub(crate) body: Option<String>,
    /// A chunked body.
    #[serde(default)]
    pub(crate) chunks: Option<Vec<String>>,
    /// After the chunks.
    #[serde(default)]
    pub(crate) trailers: BTreeMap<String, String>,
    /// The address that the client has; the machine's choice on loopback if not given.
    #[serde(default)]
    pub(crate) from: Option<IpAddr>,
    /// Sent before TLS or HTTP: PROXY protocol.
    #[serde(default)]
    pub(crate) preamble: Option<String>,
    #[serde(default)]
    pub(crate) tls: Option<Tls>,
    /// HTTP/2, a connection for each request.
    #[serde(default)]
    pub(crate) http2: bool,
    /// Of an extended CONNECT (RFC 8441).
    #[serde(default)]
    pub(crate) protocol: Option<String>,
    /// Not HTTP: lines, each sent when the one before was answered with a line; then what comes until the end, if
    /// `until_end`.
    #[serde(default)]
    pub(crate) lines: Option<Vec<String>>,
    #[serde(default)]
    pub(crate) until_end: bool,
    /// Seconds before each line, or each chunk of a body.
    #[serde(default)]
    pub(crate) pause: f64,
    /// Seconds that the connection is then left alone before it is seen whether it has been ended: `ended` or `open`
    /// is part of what happened.
    #[serde(default)]
    pub(crate) linger: Option<f64>,
    /// Sent once the response has been 101 (or 200 to an extended CONNECT); as many bytes are read back.
    #[serde(default)]
    pub(crate) tunnel: Option<String>,
    /// Sent so many times, on one connection.
    #[serde(default)]
    pub(crate) times: Option<usize>,
    /// How many answers of each kind there were is compared, not each answer: so many of a hundred may differ.
    #[serde(default)]
    pub(crate) tolerance: Option<f64>,
    /// Seconds after the others of `together`, or after the step before.
    #[serde(default)]
    pub(crate) after: f64,
    /// `200 a b`: the status that Envoy gives (or `closed`) and the upstreams that saw the request, in their order.
    /// `any`: what it does is only compared.
    /// Many answers of several kinds: one of them a line, as far as they are certain.
    pub(crate) expect: Value,
    /// Only the status is compared: which endpoint was chosen is chance.
    #[serde(default)]
    pub(crate) only_status: bool,
    /// Seconds that the answer takes, at least and at most, from either.
    #[serde(default)]
    pub(crate) takes: Option<(f64, f64)>,
    /// Upstreams that see the request without the client waiting for it: how many of each are awaited.
    #[serde(default)]
    pub(crate) also: BTreeMap<String, usize>,
    /// ripstop differs here, by a row of the closed list.
    #[serde(default)]
    pub(crate) differs: Option<Differs>,
    /// Of a variant: nothing is known of the answer.
    #[serde(skip)]
    pub(crate) loose: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Differs {
    /// The row of `differences::BEHAVIOUR`.
    pub(crate) by: String,
    /// What ripstop does, as `expect` says it.
    pub(crate) ripstop: String,
}

impl Request {
    pub(crate) fn listener(&self) -> &str {
        self.to.as_deref().unwrap_or("main")
    }
}

impl Case {
    /// Every case, by name.
    pub(crate) fn all() -> Vec<Case> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle/cases");
        let mut folders: Vec<_> = std::fs::read_dir(&folder)
            .expect("the folder of cases")
            .map(|entry| entry.expect("a readable folder").path())
            .collect();
        folders.sort();
        folders
            .iter()
            .map(|folder| Case::read(folder, None))
            .collect()
    }

    /// The case `name` with something left out; nothing if it has no such place.
    pub(crate) fn variant(name: &str, cut: &Cut) -> Case {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle/cases");
        Case::read(&folder.join(name), Some(cut))
    }

    fn read(folder: &Path, cut: Option<&Cut>) -> Case {
        let name = folder
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        let mut bootstrap: Value = yaml(&folder.join("bootstrap.yaml"));
        let scripts = folder.join("upstreams.yaml");
        let scripts: BTreeMap<String, Server> = match scripts.exists() {
            true => yaml(&scripts),
            false => BTreeMap::new(),
        };
        let mut ports = BTreeMap::new();
        let words = bootstrap::words(&bootstrap);
        let pipes = bootstrap::pipes(&bootstrap);
        for word in &words {
            ports.insert(word.clone(), port::reserve());
        }
        for upstream in scripts.keys() {
            assert!(
                words.contains(upstream),
                "{name}: the bootstrap never mentions `AT {upstream}`"
            );
        }
        let number = |word: &str| ports[word].number();
        bootstrap::fill(&name, &mut bootstrap, &number);
        let listeners = bootstrap::listeners(&bootstrap);
        let mut steps = steps(&folder.join("requests.yaml"));
        let address = |name: &str| format!("127.0.0.1:{}", number(name));
        steps.iter_mut().for_each(|step| step.fill(&address));
        let counters = folder.join("counters.yaml");
        let mut counters: Vec<String> = match counters.exists() {
            true => yaml(&counters),
            false => Vec::new(),
        };
        let mut mark = String::new();
        if let Some(cut) = cut {
            mark = format!("-v{}", cut.number);
            bootstrap::cut(&mut bootstrap, &cut.at);
            let names = bootstrap::mark(&mut bootstrap, &mark);
            steps.iter_mut().for_each(|step| step.loosen(&names, &mark));
            // The names of connection managers' counters are not marked, and would be those of the case itself.
            counters.retain(|name| name.starts_with("cluster."));
            for counter in &mut counters {
                for name in &names {
                    let (plain, marked) =
                        (format!("cluster.{name}."), format!("cluster.{name}{mark}."));
                    *counter = counter.replace(&plain, &marked);
                }
            }
        }
        let upstreams = Scripted::start(
            words
                .iter()
                .filter(|word| !listeners.contains(&number(word)))
                .map(|word| (word.clone(), ports[word].addr())),
            scripts,
            &pipes,
        );
        Case {
            steps,
            name,
            bootstrap,
            upstreams,
            counters,
            ports,
            mark,
        }
    }

    /// Whether a share of many answers, or the time between two steps, is part of what is compared.
    pub(crate) fn has_chance(&self) -> bool {
        let mut requests = self.steps.iter().flat_map(Step::requests);
        requests.any(|request| {
            request.tolerance.is_some() || request.after > 0.0 || request.takes.is_some()
        })
    }

    /// A line of an answer without what tells this playing of the case from another.
    pub(crate) fn neutral(&self, line: &str) -> String {
        let mut line = line.to_owned();
        if !self.mark.is_empty() {
            line = line.replace(&self.mark, "");
        }
        for (name, port) in &self.ports {
            line = line.replace(&format!(":{}", port.number()), &format!(":({name})"));
        }
        line
    }

    /// The address of a listener.
    pub(crate) fn listener(&self, name: &str) -> SocketAddr {
        match self.ports.get(name) {
            Some(port) => port.addr(),
            None => panic!("{}: no `AT {name}` in the bootstrap", self.name),
        }
    }
}

impl Step {
    pub(crate) fn requests(&self) -> &[Request] {
        match self {
            Step::Together(group) => group,
            Step::One(request) => std::slice::from_ref(request),
        }
    }

    fn requests_mut(&mut self) -> &mut [Request] {
        match self {
            Step::Together(group) => group.as_mut_slice(),
            Step::One(request) => std::slice::from_mut(&mut **request),
        }
    }

    /// Replaces `AT name` in headers and the host.
    fn fill(&mut self, address: &dyn Fn(&str) -> String) {
        for request in self.requests_mut() {
            for value in request.headers.values_mut() {
                if let Some(name) = value.as_str().and_then(|text| text.strip_prefix("AT ")) {
                    *value = address(name).into();
                }
            }
            if let Some(name) = request
                .host
                .as_deref()
                .and_then(|text| text.strip_prefix("AT "))
            {
                request.host = Some(address(name));
            }
        }
    }

    fn loosen(&mut self, clusters: &[String], mark: &str) {
        for request in self.requests_mut() {
            request.loose = true;
            for value in request.headers.values_mut() {
                if clusters.iter().any(|name| value.as_str() == Some(name)) {
                    *value = format!("{}{mark}", value.as_str().unwrap_or_default()).into();
                }
            }
        }
    }
}

fn steps(file: &Path) -> Vec<Step> {
    let all: Vec<Value> = yaml(file);
    let step = |(at, step): (usize, Value)| {
        let read = match step.get("together") {
            Some(group) => serde_json::from_value(group.clone()).map(Step::Together),
            None => serde_json::from_value(step).map(Step::One),
        };
        read.unwrap_or_else(|error| panic!("{}, #{}: {error}", file.display(), at + 1))
    };
    all.into_iter().enumerate().map(step).collect()
}

fn yaml<T: DeserializeOwned>(file: &Path) -> T {
    let text =
        std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let mut documents = ripstop_model::yaml::parse(&text);
    let document = documents
        .pop()
        .unwrap_or_else(|| panic!("{} is empty", file.display()));
    assert!(
        document.faults.is_empty(),
        "{}: {:?}",
        file.display(),
        document.faults
    );
    let root = document
        .root
        .unwrap_or_else(|| panic!("{} is empty", file.display()));
    serde_json::from_value(root.to_json())
        .unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

//! One look at a mesh, typed. Serialised, these types are the API (`docs/dashboard.md`): fields are added, never renamed.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

/// The longest text that is shown, in characters. Names and errors come from files and from peers.
const MAX_TEXT: usize = 2000;
/// The most notes that one thing has.
const MAX_NOTES: usize = 50;

/// What a look at the mesh gave.
#[derive(Debug, Clone, PartialEq)]
pub struct Look {
    pub mesh: Text,
    /// Of ripstop.
    pub version: Text,
    /// What the control plane says, or why it says nothing.
    pub control: Result<Control, String>,
    pub traffic: Traffic,
}

/// What the metrics say.
#[derive(Debug, Clone, PartialEq)]
pub enum Traffic {
    /// Nobody collects metrics here.
    Unmeasured,
    Measured(Vec<Edge>),
    /// Why they cannot be had now.
    Silent(String),
}

/// What the control plane says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Control {
    /// Grows with every change of the configuration.
    pub revision: u64,
    /// When the signing certificate ends, seconds since 1970.
    pub authority_expires: Option<u64>,
    pub services: Vec<Service>,
    pub workloads: Vec<Workload>,
    pub proxies: Vec<Proxy>,
    pub resources: Vec<Resource>,
    pub sources: Vec<Source>,
}

/// What flows from one service to another.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Edge {
    pub source: Text,
    pub destination: Text,
    pub requests_per_second: f64,
    /// `None` without requests.
    pub success_percent: Option<f64>,
    pub p50_milliseconds: Option<f64>,
    pub p90_milliseconds: Option<f64>,
    pub p99_milliseconds: Option<f64>,
    /// Of TCP.
    pub connections_per_second: f64,
    /// Over TCP, both ways.
    pub bytes_per_second: f64,
    /// Of the requests and connections, as the called side saw them; `None` where it reports none.
    pub mutual_tls_percent: Option<f64>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Service {
    /// Fully qualified.
    pub host: Text,
    pub namespace: Text,
    pub name: Text,
    /// Callers get workload addresses from DNS.
    pub headless: bool,
    pub addresses: Vec<IpAddr>,
    pub ports: Vec<ServicePort>,
    /// Ids of the workloads that take traffic, and of all.
    pub ready: Vec<Text>,
    pub workloads: Vec<Text>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    pub name: Text,
    pub number: u16,
    pub target: u16,
    pub protocol: Text,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Workload {
    pub id: Text,
    pub namespace: Text,
    /// Empty: a client only.
    pub service: Text,
    pub service_account: Text,
    pub labels: BTreeMap<Text, Text>,
    pub addresses: Vec<IpAddr>,
    pub state: State,
    pub ports: Vec<Port>,
    /// Empty: the control plane's own host.
    pub host: Text,
    /// `spiffe://…`
    pub identity: Text,
}

/// Whether a workload takes traffic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    #[default]
    Starting,
    Ready,
    Unready,
    Draining,
    /// Its sidecar neither is connected nor reports.
    Lost,
}

/// A port on which a workload is called.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Port {
    pub name: Text,
    pub number: u16,
    pub target: u16,
    /// `disable`, `permissive` or `strict`; empty where it is not known.
    pub mutual_tls: Text,
    /// Where clients outside the mesh are let in.
    pub published: Option<SocketAddr>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Proxy {
    pub node: Text,
    pub workload: Option<Text>,
    /// Name and version.
    pub agent: Text,
    /// `delta` or `sotw`.
    pub protocol: Text,
    /// The verified SPIFFE identity; empty over plain text.
    pub identity: Text,
    /// Seconds since 1970.
    pub connected_since: u64,
    /// The configuration revision of which it has accepted everything that it was sent.
    pub acked_revision: u64,
    pub types: Vec<Kind>,
    /// What it refuses now.
    pub rejected: Vec<Rejected>,
}

/// One type of xDS resources.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Kind {
    pub kind: Text,
    /// What is sent, and how much of that is accepted.
    pub resources: usize,
    pub acked: usize,
}

/// What a proxy refuses.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rejected {
    pub kind: Text,
    pub names: Notes,
    /// The proxy's words, with the field path where it gave one.
    pub message: Text,
}

/// A resource of the configuration.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Resource {
    /// `VirtualService/default/orders`
    pub resource: Text,
    /// `file:line`, or `api`.
    pub origin: Text,
    pub accepted: bool,
    /// An earlier version stays in force because the present one is not accepted.
    pub last_good: bool,
    /// Every connected proxy has accepted everything it was sent from this configuration.
    pub programmed: bool,
    pub proxies_acked: usize,
    pub proxies: usize,
    pub conflicts: Vec<Conflict>,
    pub rejected: Vec<Rejected>,
    /// Errors and warnings, with file, line and column.
    pub messages: Notes,
}

/// Where another resource won.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Conflict {
    pub winner: Text,
    pub about: Text,
}

/// Where configuration comes from.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    pub source: Text,
    pub resources: usize,
    /// Why it cannot be read now; what it said last stays in force.
    pub error: Option<Text>,
    pub messages: Notes,
}

impl Proxy {
    pub(crate) fn is_well(&self, revision: u64) -> bool {
        self.rejected.is_empty() && self.acked_revision >= revision
    }
}

impl Resource {
    pub(crate) fn is_well(&self) -> bool {
        self.accepted
            && self.conflicts.is_empty()
            && self.rejected.is_empty()
            && self.messages.0.is_empty()
    }
}

/// Text that somebody else wrote, cut to [`MAX_TEXT`] characters.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Text(String);

impl<T: Into<String>> From<T> for Text {
    fn from(text: T) -> Text {
        let mut text = text.into();
        if let Some((end, _)) = text.char_indices().nth(MAX_TEXT) {
            text.truncate(end);
            text.push('…');
        }
        Text(text)
    }
}

/// Some texts, the first [`MAX_NOTES`] of them and how many more there are.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Notes(Vec<Text>);

impl<T: Into<Text>> FromIterator<T> for Notes {
    fn from_iter<I: IntoIterator<Item = T>>(texts: I) -> Notes {
        let mut texts = texts.into_iter();
        let mut notes: Vec<Text> = texts.by_ref().take(MAX_NOTES).map(Into::into).collect();
        let more = texts.count();
        if more > 0 {
            notes.push(format!("… and {more} more").into());
        }
        Notes(notes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_write_is_bounded() {
        let long = Text::from("é".repeat(MAX_TEXT + 1));
        assert_eq!(long.0.chars().count(), MAX_TEXT + 1);
        assert!(long.0.ends_with('…'));
        assert_eq!(Text::from("é".repeat(MAX_TEXT)).0.chars().count(), MAX_TEXT);
        let notes: Notes = vec!["a"; MAX_NOTES + 7].into_iter().collect();
        assert_eq!(notes.0.len(), MAX_NOTES + 1);
        assert_eq!(notes.0.last(), Some(&Text::from("… and 7 more")));
    }
}

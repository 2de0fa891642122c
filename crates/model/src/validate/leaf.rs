//! Checks of single values that several kinds share: hosts, blocks, patterns, paths, headers, durations.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::Checker;
use crate::diagnostic::{Code, Severity};
use crate::intent::DEFAULT_NAMESPACE;
use crate::intent::registry::CLUSTER_DOMAIN;
use crate::intent::selection::{StringMatch, WorkloadSelector};
use crate::normalize;
use crate::schema::{Path, nearest};
use crate::snapshot::http::PathOptions;
use crate::snapshot::matching::Pattern;

/// Which hosts a field takes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Hosts {
    /// Names only.
    Exact,
    /// And `*.suffix`.
    Wildcards,
}

impl Checker<'_> {
    /// Whether `host` can name anything; reports why not.
    pub(super) fn host(&mut self, at: &Path<'_>, host: &str, allowed: Hosts) -> bool {
        let name = host.strip_suffix('.').unwrap_or(host);
        let rest = match (name.strip_prefix("*."), allowed) {
            (Some(rest), Hosts::Wildcards) => rest,
            _ => name,
        };
        if let Some((before, port)) = rest.split_once(':')
            && !before.is_empty()
            && port.parse::<u16>().is_ok()
        {
            self.error(Code::InvalidHost, at, format!("`{host}` has a port in it"))
                .help(format!(
                    "write `{before}`, and the port where the field for it is"
                ));
            return false;
        }
        if host.is_empty() {
            self.error(Code::InvalidHost, at, "the host is empty")
                .help("name a service, or a full name such as api.example.com");
            return false;
        }
        if rest.bytes().any(|b| b.is_ascii_uppercase()) {
            self.error(
                Code::InvalidHost,
                at,
                format!("`{host}` has upper-case letters; no host would ever equal it"),
            )
            .help(format!("write `{}`", host.to_ascii_lowercase()));
            return false;
        }
        if !rest.split('.').all(is_label) || rest.len() > 253 {
            let hint = match allowed {
                Hosts::Exact => "letters, digits and dashes between dots, no wildcard",
                Hosts::Wildcards => "letters, digits and dashes between dots; `*.` only in front",
            };
            self.error(
                Code::InvalidHost,
                at,
                format!("`{host}` is not a host name"),
            )
            .help(hint);
            return false;
        }
        true
    }

    /// A name for a resource part: a DNS label.
    pub(super) fn label(&mut self, at: &Path<'_>, name: &str, what: &str) -> bool {
        if is_label(name) && !name.bytes().any(|b| b.is_ascii_uppercase() || b == b'_') {
            return true;
        }
        self.error(Code::InvalidName, at, format!("`{name}` cannot be {what}"))
            .help(
                "lower-case letters, digits and dashes, at most 63, neither first nor last a dash",
            );
        false
    }

    pub(super) fn port(&mut self, at: &Path<'_>, port: u16) -> bool {
        if port == 0 {
            self.error(Code::InvalidPort, at, "0 is not a port")
                .help("1 to 65535");
        }
        port != 0
    }

    /// An address block; one whose host bits are set is read as the block, with a warning.
    pub(super) fn block(&mut self, at: &Path<'_>, text: &str) {
        let parsed = text
            .parse::<IpNet>()
            .or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        match parsed {
            Ok(net) => self.host_bits(at, net, Severity::Warning),
            Err(_) => {
                self.error(
                    Code::InvalidAddress,
                    at,
                    format!("`{text}` is neither an IP address nor a CIDR block"),
                )
                .help("such as 10.0.0.0/8, 2001:db8::/32 or 192.0.2.7");
            }
        }
    }

    pub(super) fn host_bits(&mut self, at: &Path<'_>, net: IpNet, severity: Severity) {
        if net.addr() != net.network() {
            self.report(
                severity,
                Code::CidrHostBits,
                at,
                format!(
                    "`{net}` has bits set beyond its prefix; it means all of {}",
                    net.trunc()
                ),
            )
            .help(format!("write {} or {}", net.trunc(), net.addr()));
        }
    }

    pub(super) fn regex(&mut self, at: &Path<'_>, pattern: &str) -> bool {
        let error = match Pattern::new(pattern) {
            Ok(_) => return true,
            Err(error) => error,
        };
        let (why, help) = match &error {
            regex::Error::CompiledTooBig(limit) => (
                format!("it compiles to more than {limit} bytes"),
                "shorten its repetitions, or match a prefix",
            ),
            // The library draws the pattern with a caret over several lines; the last one says what is wrong.
            _ => (
                error
                    .to_string()
                    .lines()
                    .last()
                    .unwrap_or_default()
                    .trim_start_matches("error: ")
                    .to_owned(),
                "RE2 syntax: no look-around, no back-references",
            ),
        };
        self.error(
            Code::InvalidRegex,
            at,
            format!("`{pattern}` is not a usable regular expression: {why}"),
        )
        .help(help);
        false
    }

    /// A string match of anything but a path.
    pub(super) fn string_match(&mut self, at: &Path<'_>, value: &StringMatch) {
        match value {
            StringMatch::Regex(pattern) if pattern != "*" => {
                self.regex(&at.field("regex"), pattern);
            }
            StringMatch::Prefix(prefix) if prefix.is_empty() => {
                self.warning(Code::NoEffect, at, "an empty prefix matches everything")
                    .help("write {} to ask that it be there, or remove it");
            }
            StringMatch::Regex(_)
            | StringMatch::Prefix(_)
            | StringMatch::Exact(_)
            | StringMatch::Present => {}
        }
    }

    /// A matcher on the normalised path.
    pub(super) fn path_match(&mut self, at: &Path<'_>, value: &StringMatch) {
        match value {
            StringMatch::Exact(path) => self.path(&at.field("exact"), path, false),
            StringMatch::Prefix(path) => self.path(&at.field("prefix"), path, true),
            StringMatch::Regex(_) | StringMatch::Present => self.string_match(at, value),
        }
    }

    /// What no request can match, because paths are compared in their normalised form.
    pub(super) fn path(&mut self, at: &Path<'_>, path: &str, prefix: bool) {
        let Some((why, instead)) = unreachable(path, prefix, &self.world.paths) else {
            return;
        };
        self.warning(
            Code::UnreachablePath,
            at,
            format!("`{path}` matches no request: {why}"),
        )
        .help(instead);
    }

    pub(super) fn percent(&mut self, at: &Path<'_>, value: f64) {
        if !(0.0..=100.0).contains(&value) {
            self.error(
                Code::InvalidValue,
                at,
                format!("{value} is not a percentage"),
            )
            .help("0 to 100");
        }
    }

    /// Istio's bound on durations that switch something on.
    pub(super) fn at_least_1ms(&mut self, at: &Path<'_>, duration: Option<Duration>) {
        if duration.is_some_and(|duration| duration < Duration::from_millis(1)) {
            self.error(Code::InvalidDuration, at, "this must be at least 1ms");
        }
    }

    /// A header name that configuration gives; names are compared in lower case.
    pub(super) fn header(&mut self, at: &Path<'_>, name: &str) -> bool {
        if !is_token(name) {
            self.report_key(
                Severity::Error,
                Code::InvalidHeader,
                at,
                format!("`{name}` is not a header name"),
            )
            .help("letters, digits and dashes");
            return false;
        }
        if name.bytes().any(|b| b.is_ascii_uppercase()) {
            self.report_key(
                Severity::Warning,
                Code::InvalidHeader,
                at,
                format!("header names are compared in lower case; `{name}` is read so"),
            )
            .help(format!("write `{}`", name.to_ascii_lowercase()));
        }
        true
    }

    pub(super) fn header_value(&mut self, at: &Path<'_>, value: &str) {
        if value.bytes().any(|b| matches!(b, b'\r' | b'\n' | 0)) {
            self.error(
                Code::InvalidHeader,
                at,
                "a header value cannot hold line ends or NUL",
            )
            .help("put the value on one line");
        }
    }

    /// `.`, `*`, `~` or the name of a namespace.
    pub(super) fn export_to(&mut self, at: &Path<'_>, list: &[String]) {
        for (index, entry) in list.iter().enumerate() {
            if !matches!(entry.as_str(), "." | "*" | "~") {
                let at = at.index(index);
                if self.label(&at, entry, "a namespace in `exportTo`") {
                    self.in_use(&at, entry);
                }
            }
        }
        if list.len() > 1 && list.iter().any(|entry| entry == "*") {
            self.warning(
                Code::NoEffect,
                at,
                "`*` is every namespace; the other entries add nothing",
            );
        }
    }

    /// A namespace by its name, of which something should be known.
    pub(super) fn in_use(&mut self, at: &Path<'_>, namespace: &str) {
        let world = self.world;
        let services = world.services.iter().map(|service| &service.namespace);
        let workloads = world.workloads.iter().map(|workload| &workload.namespace);
        let mut used = services.chain(workloads).map(String::as_str);
        let own = [DEFAULT_NAMESPACE, world.root_namespace, self.namespace()];
        if !world.complete || own.contains(&namespace) || used.any(|used| used == namespace) {
            return;
        }
        let names = world.services.iter().map(|s| s.namespace.as_str());
        let help = match nearest(namespace, names) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "it may belong to a workload that joins later".to_owned(),
        };
        self.warning(
            Code::UnknownNamespace,
            at,
            format!("nothing is in a namespace `{namespace}`"),
        )
        .help(help);
    }

    /// Labels that select workloads: exact values only, and at least one workload.
    pub(super) fn selector(&mut self, at: &Path<'_>, selector: &WorkloadSelector) {
        self.labels(&at.field("matchLabels"), selector);
    }

    /// The same, where the labels stand at `labels`.
    pub(super) fn labels(&mut self, labels: &Path<'_>, selector: &WorkloadSelector) {
        for (key, value) in &selector.match_labels {
            if key.is_empty() || key.contains('*') || value.contains('*') {
                self.error(
                    Code::InvalidValue,
                    &labels.field(key),
                    "labels are compared exactly; `*` has no meaning here",
                )
                .help("leave the label out to match any value");
            }
        }
        if self.world.complete
            && !selector.match_labels.is_empty()
            && self
                .world
                .selected(self.namespace(), Some(selector))
                .next()
                .is_none()
        {
            let namespace = self.namespace();
            self.warning(
                Code::NoWorkload,
                labels,
                format!("no workload in namespace `{namespace}` has these labels"),
            )
            .help(
                "a workload's labels are those under `labels:` in the mesh file, and app: SERVICE",
            );
        }
    }

    /// Reports a host that nothing declares.
    pub(super) fn unknown_host(
        &mut self,
        severity: Severity,
        at: &Path<'_>,
        host: &str,
        effect: &str,
    ) {
        let full = self.qualify(host);
        // The cluster's suffix is the same for all and would make everything look alike.
        let suffix = format!(".svc.{CLUSTER_DOMAIN}");
        let names: Vec<&str> = self
            .world
            .services
            .iter()
            .filter(|service| host.contains('.') || service.namespace == self.object.namespace)
            .map(|service| {
                if host.contains('.') {
                    service.host.strip_suffix(&suffix).unwrap_or(&service.host)
                } else {
                    service.name.as_str()
                }
            })
            .collect();
        let near = nearest(host.strip_suffix(&suffix).unwrap_or(host), names);
        let help = match near.filter(|near| *near != host) {
            Some(near) => format!("did you mean `{near}`?"),
            None if host.contains('.') && !full.ends_with(&suffix) => {
                format!("declare it with a ServiceEntry for `{full}`")
            }
            None => "declare it under `services:`, or check the namespace".to_owned(),
        };
        self.report(
            severity,
            Code::UnknownHost,
            at,
            format!("no service is called `{full}`; {effect}"),
        )
        .help(help);
    }
}

/// A DNS label; underscores occur in real names (`_grpc`), upper case is judged elsewhere.
pub(super) fn is_label(label: &str) -> bool {
    !label.is_empty()
        && label.len() <= 63
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

/// RFC 9110 section 5.6.2.
pub(super) fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// Why no request's path equals `path`, or starts with it, and what to write instead: the data plane's own normalisation
/// decides, under the mesh's options.
fn unreachable(path: &str, prefix: bool, options: &PathOptions) -> Option<(String, String)> {
    if !path.starts_with('/') {
        let instead = format!("write `/{path}`");
        return Some(("paths start with `/`".to_owned(), instead));
    }
    if let Some(end) = path.find(['?', '#']) {
        return Some((
            "the query is not part of the path".to_owned(),
            format!(
                "write `{}` and match the query with `queryParams`",
                &path[..end]
            ),
        ));
    }
    // A prefix may end inside a segment or an escape that is harmless once it is complete: `/.` of `/.well-known`.
    let tails: &[&str] = if prefix { &["x", "5", "25"] } else { &[""] };
    let mut first = None;
    for tail in tails {
        let whole = format!("{path}{tail}");
        let found = match normalize::path(&whole, options) {
            Ok(normalize::Path::Forward(normal)) if normal == whole => return None,
            Ok(normalize::Path::Forward(normal)) => {
                let normal = normal.strip_suffix(tail).unwrap_or(&normal);
                (
                    format!("such a path is rewritten to `{normal}` before matching"),
                    format!("write `{normal}`"),
                )
            }
            Ok(normalize::Path::Redirect(normal)) => (
                "such a path is redirected to its normal form".to_owned(),
                format!("write `{normal}`"),
            ),
            Err(error) => (
                format!("it is answered with 400, {error}"),
                "write the path as clients send it".to_owned(),
            ),
        };
        first.get_or_insert(found);
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::defaults::{ISTIO, RIPSTOP};

    #[test]
    fn paths_that_normalisation_makes_unreachable() {
        let options = &RIPSTOP.path;
        for path in [
            "a", "/a//b", "/a/../b", "/a/.", "/%61", "/a%zz", "/a?b", "/a\\b",
        ] {
            assert!(unreachable(path, false, options).is_some(), "{path}");
        }
        for path in ["/", "/a/b", "/a.b/..c", "/%2F", "/a%20b", "/.well-known/x"] {
            assert!(unreachable(path, false, options).is_none(), "{path}");
        }
        for path in ["/a//b", "/a/../b", "/%61"] {
            assert!(unreachable(path, true, options).is_some(), "{path}");
        }
        for path in ["/.", "/a/..", "/a%2", "/a%", "/"] {
            assert!(unreachable(path, true, options).is_none(), "{path}");
        }
        assert!(unreachable("/a//b", false, &ISTIO.path).is_none());
    }
}

//! An Envoy v3 bootstrap (YAML or JSON) → [`Bootstrap`], with every problem at once, each with line, column and field path.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ripstop_model::snapshot::tls::Secret;
use ripstop_model::snapshot::{Cluster, Listener, Local, Name, Snapshot};
use ripstop_model::yaml::{self, Node as Tree, Span};

use crate::decode::{
    self, Decoding, Position, Problem, Problems, Severity, Strictness, fields, is, socket_address,
};
use crate::descriptor::Descriptors;
use crate::node::Node;
use crate::pb::downstream_connections::DownstreamConnectionsConfig;
use crate::pb::{bootstrap as wire, core, overload};
use crate::text;

/// What a proxy is told at start.
#[derive(Debug, Clone, PartialEq)]
pub struct Bootstrap {
    pub node: Node,
    /// Where the admin interface listens; `None`: it does not.
    pub admin: Option<SocketAddr>,
    pub listeners: Vec<Arc<Listener>>,
    pub clusters: Vec<Arc<Cluster>>,
    pub secrets: Vec<Arc<Secret>>,
    /// The control plane; `None`: everything is static.
    pub ads: Option<AdsSource>,
    /// Listeners come from ADS too.
    pub lds: bool,
    /// Clusters come from ADS too.
    pub cds: bool,
    /// `cluster_manager.local_cluster_name`, and the node's locality.
    pub local: Option<Local>,
    /// Downstream connections that may be open at once: `overload_manager`'s `global_downstream_max_connections`.
    pub max_connections: Option<usize>,
}

impl Bootstrap {
    /// What it has of its own: all that runs where nothing is discovered.
    pub fn snapshot(&self) -> Snapshot {
        let (listeners, clusters) = (self.listeners.iter(), self.clusters.iter());
        Snapshot {
            listeners: listeners.map(|l| (l.name.clone(), l.clone())).collect(),
            clusters: clusters.map(|c| (c.name.clone(), c.clone())).collect(),
            local: self.local.clone(),
            ..Snapshot::default()
        }
    }
}

/// `dynamic_resources.ads_config`.
#[derive(Debug, Clone, PartialEq)]
pub struct AdsSource {
    /// The static cluster that is dialled.
    pub cluster: Name,
    /// `:authority` of the stream; the cluster's name when empty.
    pub authority: String,
    pub delta: bool,
    /// Metadata sent with the stream.
    pub headers: Vec<(String, String)>,
    pub node_on_first_message_only: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("cannot read {}: {error}", path.display())]
    Read {
        path: PathBuf,
        error: std::io::Error,
    },
    /// One problem to a line.
    #[error("{}", Listing { path: Some(path), problems })]
    Invalid { path: PathBuf, problems: Problems },
}

/// Problems, each prefixed by the file.
struct Listing<'a> {
    path: Option<&'a Path>,
    problems: &'a Problems,
}

impl fmt::Display for Listing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            if let Some(path) = self.path {
                write!(f, "{}:", path.display())?;
                if let Some(Position { line, column }) = problem.at {
                    write!(f, "{line}:{column}:")?;
                }
                f.write_str(" ")?;
            }
            if !problem.path.is_empty() {
                write!(f, "{}: ", problem.path)?;
            }
            f.write_str(&problem.message)?;
        }
        Ok(())
    }
}

const UNKNOWN: &str = "this build carries no descriptor of Envoy's bootstrap";

/// Reads the bootstrap file at `path`. What `ripstop proxy --mode validate` checks is what this accepts.
pub fn load(path: &Path) -> Result<Bootstrap, LoadError> {
    let text = std::fs::read_to_string(path).map_err(|error| LoadError::Read {
        path: path.to_owned(),
        error,
    })?;
    parse(&text).map_err(|problems| LoadError::Invalid {
        path: path.to_owned(),
        problems,
    })
}

/// Reads a bootstrap from YAML or JSON.
pub fn parse(text: &str) -> Result<Bootstrap, Problems> {
    let invalid = |message: &str| Problems::one("", Severity::Invalid, message);
    let mut documents = yaml::parse(text);
    let document = match documents.pop() {
        Some(document) if documents.is_empty() => document,
        Some(_) => return Err(invalid("a bootstrap is one document; remove the others")),
        None => return Err(invalid("the bootstrap is empty")),
    };
    let mut problems: Vec<Problem> = document
        .faults
        .into_iter()
        .map(|fault| Problem {
            path: String::new(),
            severity: Severity::Invalid,
            message: fault.message,
            at: Some(fault.span.into()),
        })
        .collect();
    let Some(root) = document.root else {
        return Err(Problems(problems));
    };
    let descriptors = Descriptors::load();
    let descriptors = descriptors.map_err(|error| invalid(&format!("{UNKNOWN}: {error}")))?;
    let Some(schema) = descriptors.message("envoy.config.bootstrap.v3.Bootstrap") else {
        return Err(invalid(UNKNOWN));
    };
    let message = text::read(&root, &schema, &mut problems);
    let bootstrap: wire::Bootstrap = message
        .transcode_to()
        .map_err(|error| invalid(&format!("cannot be encoded: {error}")))?;

    let mut cx = Decoding::of_file();
    let decoded = self::bootstrap(&mut cx, bootstrap);
    // What could not be read is missing from the message, so "is required" about such a field would say it twice.
    let read = |problem: &Problem| !problems.iter().any(|p| p.path.starts_with(&problem.path));
    match cx.finish(decoded, Strictness::Static) {
        Ok(decoded) if problems.is_empty() => Ok(decoded.value),
        Ok(_) => Err(Problems(problems)),
        Err(Problems(found)) => {
            let mut found: Vec<Problem> = found.into_iter().filter(read).collect();
            for problem in &mut found {
                problem.at = Some(locate(&root, &problem.path).into());
            }
            problems.extend(found);
            problems.sort_by(|a, b| (a.at, &a.path).cmp(&(b.at, &b.path)));
            Err(Problems(problems))
        }
    }
}

#[allow(deprecated)]
fn bootstrap(cx: &mut Decoding, m: wire::Bootstrap) -> Option<Bootstrap> {
    // Statistics, watchdogs, runtime and allocator settings are Envoy's internals: ripstop has its own, fixed.
    fields!(cx, m => wire::Bootstrap { node, static_resources, dynamic_resources, admin, cluster_manager, overload_manager }
    refuse { default_socket_interface, certificate_provider_instances }
    ignore {
        hds_config, stats_sinks, tracing, use_tcp_for_dns_lookups, dns_resolution_config,
        bootstrap_extensions, config_sources, default_config_source, inline_headers,
        default_regex_engine, xds_delegate_extension, xds_config_tracker_extension,
        listener_manager, header_prefix, layered_runtime, typed_dns_resolver_config,
    }
    inert {
        node_context_params, flags_path, deferred_stat_options, stats_config,
        stats_flush_interval, watchdog, watchdogs, enable_dispatcher_stats,
        stats_server_version_override, fatal_actions,
        perf_tracing_file_path, application_log_config, grpc_async_client_manager_config,
        memory_allocator_manager, enable_worker_cpu_affinity, stats_flush, stats_eviction,
    });
    let statics = static_resources.unwrap_or_default();
    let (listeners, clusters, secrets) = cx.field("static_resources", |cx| {
        fields!(cx, statics => wire::bootstrap::StaticResources { listeners, clusters, secrets });
        (
            cx.each("listeners", listeners, |cx, m| {
                decode::listener(cx, m).map(Arc::new)
            }),
            cx.each("clusters", clusters, |cx, m| {
                decode::cluster(cx, m).map(Arc::new)
            }),
            cx.each("secrets", secrets, |cx, m| {
                decode::secret(cx, m).map(Arc::new)
            }),
        )
    });
    unique(
        cx,
        "static_resources.listeners",
        listeners.iter().map(|l| &l.name),
    );
    unique(
        cx,
        "static_resources.clusters",
        clusters.iter().map(|c| &c.name),
    );
    let local = cx.field("cluster_manager", |cx| {
        let m = cluster_manager.unwrap_or_default();
        fields!(cx, m => wire::ClusterManager { local_cluster_name }
            ignore { upstream_bind_config, load_stats_config }
            inert { outlier_detection, enable_deferred_cluster_creation });
        let is_known = clusters.iter().any(|c| *c.name == *local_cluster_name);
        if !local_cluster_name.is_empty() && !is_known {
            cx.invalid(
                "local_cluster_name",
                format!("`{local_cluster_name}` is not in static_resources.clusters"),
            );
        }
        is_known.then(|| Name::from(local_cluster_name))
    });
    let admin = cx.field("admin", |cx| admin.and_then(|m| self::admin(cx, m)));
    let dynamic = dynamic_resources.unwrap_or_default();
    let (ads, lds, cds) = cx.field("dynamic_resources", |cx| dynamic_sources(cx, dynamic));
    if let Some(ads) = &ads
        && !clusters.iter().any(|c| c.name == ads.cluster)
    {
        cx.invalid(
            "dynamic_resources.ads_config",
            format!(
                "names the cluster `{}`, which is not in static_resources.clusters",
                ads.cluster
            ),
        );
    }
    if ads.is_none() && (lds || cds) {
        cx.invalid(
            "dynamic_resources.ads_config",
            "is required by lds_config and cds_config",
        );
    }
    let node = node.map(Node::from_message).unwrap_or_default();
    if ads.is_some() && node.id.is_empty() {
        cx.invalid("node.id", "is required with a control plane");
    }
    Some(Bootstrap {
        local: local.map(|cluster| Local {
            cluster,
            locality: node.locality.clone(),
        }),
        node,
        admin,
        listeners,
        clusters,
        secrets,
        ads,
        lds,
        cds,
        max_connections: overload_manager
            .and_then(|m| cx.field("overload_manager", |cx| overload(cx, m))),
    })
}

/// Of all that Envoy watches, the number of downstream connections.
fn overload(cx: &mut Decoding, m: overload::OverloadManager) -> Option<usize> {
    use overload::resource_monitor::ConfigType;
    fields!(cx, m => overload::OverloadManager { resource_monitors }
        refuse { actions, loadshed_points, buffer_factory_config }
        inert { refresh_interval });
    let limits = cx.each("resource_monitors", resource_monitors, |cx, m| {
        fields!(cx, m => overload::ResourceMonitor { config_type } inert { name });
        let Some(ConfigType::TypedConfig(any)) = config_type else {
            cx.invalid("typed_config", "is required");
            return None;
        };
        cx.field("typed_config", |cx| {
            if !is::<DownstreamConnectionsConfig>(&any) {
                cx.invalid_here(format!(
                    "resource monitor {} is not supported",
                    any.type_url
                ));
                return None;
            }
            let m = cx.unpack::<DownstreamConnectionsConfig>(&any)?;
            fields!(cx, m => DownstreamConnectionsConfig { max_active_downstream_connections });
            let limit = usize::try_from(max_active_downstream_connections).ok();
            if limit.is_none_or(|limit| limit == 0) {
                cx.invalid("max_active_downstream_connections", "must be above 0");
            }
            limit
        })
    });
    limits.into_iter().min()
}

fn unique<'a>(cx: &mut Decoding, path: &str, names: impl Iterator<Item = &'a Name>) {
    let mut seen = std::collections::HashSet::new();
    for (i, name) in names.enumerate() {
        if !seen.insert(name) {
            cx.invalid(
                &format!("{path}[{i}].name"),
                format!("`{name}` is taken by an earlier one"),
            );
        }
    }
}

#[allow(deprecated)]
fn admin(cx: &mut Decoding, m: wire::Admin) -> Option<SocketAddr> {
    fields!(cx, m => wire::Admin { address }
        refuse { allow_paths }
        ignore { access_log, socket_options }
        inert { access_log_path, profile_path, ignore_global_conn_limit });
    cx.optional("address", address, socket_address)
}

fn dynamic_sources(
    cx: &mut Decoding,
    m: wire::bootstrap::DynamicResources,
) -> (Option<AdsSource>, bool, bool) {
    fields!(cx, m => wire::bootstrap::DynamicResources { lds_config, cds_config, ads_config }
        ignore { lds_resources_locator, cds_resources_locator });
    let mut from_ads = |name: &str, source: Option<core::ConfigSource>| match source {
        Some(source) => {
            cx.field(name, |cx| decode::from_ads(cx, source));
            true
        }
        None => false,
    };
    let lds = from_ads("lds_config", lds_config);
    let cds = from_ads("cds_config", cds_config);
    let ads = cx.optional("ads_config", ads_config, ads_source);
    (ads, lds, cds)
}

#[allow(deprecated)]
fn ads_source(cx: &mut Decoding, m: core::ApiConfigSource) -> Option<AdsSource> {
    use core::api_config_source::ApiType;
    use core::grpc_service::TargetSpecifier;
    fields!(cx, m => core::ApiConfigSource { api_type, grpc_services, set_node_on_first_message_only }
        refuse { config_validators }
        ignore { cluster_names, refresh_delay }
        inert { transport_api_version, request_timeout, rate_limit_settings });
    let delta = match cx.enumeration("api_type", api_type)? {
        ApiType::Grpc | ApiType::AggregatedGrpc => false,
        ApiType::DeltaGrpc | ApiType::AggregatedDeltaGrpc => true,
        ApiType::Rest | ApiType::DeprecatedAndUnavailableDoNotUse => {
            cx.invalid("api_type", "must be GRPC or DELTA_GRPC");
            return None;
        }
    };
    let services = cx.each("grpc_services", grpc_services, |cx, m| {
        fields!(cx, m => core::GrpcService { initial_metadata, target_specifier }
            inert { timeout, retry_policy });
        let Some(TargetSpecifier::EnvoyGrpc(m)) = target_specifier else {
            cx.invalid("envoy_grpc", "is required");
            return None;
        };
        let headers = initial_metadata
            .into_iter()
            .map(|m| (m.key, m.value))
            .collect();
        Some(AdsSource {
            cluster: m.cluster_name.into(),
            authority: m.authority,
            delta,
            headers,
            node_on_first_message_only: set_node_on_first_message_only,
        })
    });
    if services.len() != 1 {
        cx.invalid("grpc_services", "must name exactly one service");
    }
    services.into_iter().next()
}

/// The place of the field at `path`, or of the deepest part of it that the text has.
fn locate(root: &Tree, path: &str) -> Span {
    let mut node = root;
    let mut span = root.span;
    let mut rest = path;
    while !rest.is_empty() {
        let found = if let Some(keyed) = rest.strip_prefix('[') {
            // A key may hold dots, not brackets.
            let (key, tail) = keyed.split_once(']').unwrap_or((keyed, ""));
            rest = tail;
            match key.parse().ok().and_then(|i| node.item(i)) {
                Some(item) => Some((item.span, item)),
                None => node.entry(key).map(|e| (e.key_span, &e.value)),
            }
        } else {
            rest = rest.strip_prefix('.').unwrap_or(rest);
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            let (name, tail) = rest.split_at(end);
            rest = tail;
            node.entry(name)
                .or_else(|| node.entry(&camel(name)))
                .map(|e| (e.key_span, &e.value))
        };
        match found {
            Some((at, inner)) => (span, node) = (at, inner),
            None => break,
        }
    }
    span
}

/// `connect_timeout` → `connectTimeout`, as JSON writes it.
fn camel(snake: &str) -> String {
    let mut out = String::with_capacity(snake.len());
    let mut upper = false;
    for c in snake.chars() {
        if c == '_' {
            upper = true;
        } else if std::mem::take(&mut upper) {
            out.push(c.to_ascii_uppercase());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests;

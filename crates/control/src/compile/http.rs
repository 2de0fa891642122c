//! How HTTP is served on a chain: the connection managers of either direction.

use std::sync::Arc;

use ripstop_model::defaults::envoy;
use ripstop_model::snapshot::fault::Fault;
use ripstop_model::snapshot::http::{
    Codec, ForwardClientCert, HttpFilter, HttpProxy, RequestId, RouteSource, Router, ServerHeader,
    StripPort, Tracing, Underscores, Xfcc,
};
use ripstop_model::snapshot::{AuthzFilter, Fraction};

use super::OTLP;
use crate::view::View;

pub(super) fn outbound(view: &View<'_>, stat_prefix: String, routes: RouteSource) -> HttpProxy {
    let mut filters = metadata(view);
    filters.extend(common());
    HttpProxy {
        server_header: view.mesh.settings.table().server_header(),
        filters,
        ..manager(view, stat_prefix, routes)
    }
}

/// `outside`: the clients are not sidecars, so nothing they say of themselves is believed.
pub(super) fn inbound(
    view: &View<'_>,
    stat_prefix: String,
    routes: RouteSource,
    authz: Vec<Arc<AuthzFilter>>,
    outside: bool,
) -> HttpProxy {
    let mut filters = metadata(view);
    filters.extend(authz.into_iter().map(HttpFilter::Authz));
    filters.extend(common());
    HttpProxy {
        filters,
        use_remote_address: outside,
        client_cert: ForwardClientCert {
            mode: if outside {
                Xfcc::Sanitize
            } else {
                Xfcc::AppendForward
            },
            subject: true,
            cert: false,
            chain: false,
            dns: true,
            uri: true,
        },
        ..manager(view, stat_prefix, routes)
    }
}

/// A stock Envoy has no such filter.
fn metadata(view: &View<'_>) -> Vec<HttpFilter> {
    if view.client.stock {
        Vec::new()
    } else {
        vec![HttpFilter::PeerMetadata]
    }
}

/// In Istio's order (D5). The fault filter is empty: routes bring their own.
fn common() -> [HttpFilter; 4] {
    [
        HttpFilter::GrpcStats,
        HttpFilter::Fault(Arc::new(Fault::default())),
        HttpFilter::Cors,
        HttpFilter::Router(Router::default()),
    ]
}

fn manager(view: &View<'_>, stat_prefix: String, routes: RouteSource) -> HttpProxy {
    let table = view.mesh.settings.table();
    HttpProxy {
        stat_prefix,
        codec: Codec::Auto,
        routes,
        filters: Vec::new(),
        path: table.path,
        timeouts: table.timeouts.clone(),
        limits: table.limits.clone(),
        http1: table.http1.clone(),
        http2: envoy::HTTP2,
        upgrades: vec!["websocket".to_owned()],
        server_header: ServerHeader::PassThrough,
        via: None,
        use_remote_address: false,
        xff_trusted_hops: 0,
        skip_xff_append: false,
        internal: Vec::new(),
        request_id: RequestId {
            generate: true,
            preserve_external: true,
            set_in_response: false,
        },
        client_cert: ForwardClientCert::default(),
        strip_port: StripPort::No,
        underscores: Underscores::Allow,
        tracing: Some(tracing(view)),
        access_logs: view.mesh.settings.access_logs.clone(),
    }
}

/// Context is always propagated. A service name is for spans, and travels with the collector's name only.
fn tracing(view: &View<'_>) -> Tracing {
    let settings = &view.mesh.settings.tracing;
    let client = view.client;
    let app = client.labels.get("app").unwrap_or(&client.service_account);
    let cluster = settings.otlp.as_ref().map(|_| OTLP.into());
    Tracing {
        service_name: match cluster {
            Some(_) => format!("{app}.{}", client.namespace),
            None => String::new(),
        },
        cluster,
        random: Fraction::percent(settings.sampling),
        overall: Fraction::ALWAYS,
    }
}

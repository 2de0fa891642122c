//! One request's facts while it is served: where it came from, where it goes, what was decided.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use ripstop_model::authz::{Caller, Judge};
use ripstop_model::hash::NewCookie;
use ripstop_model::reason::{Flag, Reason};
use ripstop_model::request::RequestView;
use ripstop_model::route::Selected;
use ripstop_model::snapshot::fault::Fault;
use ripstop_model::snapshot::http::HttpProxy;
use ripstop_model::snapshot::route::{Action, Forward, Share, Split};
use ripstop_model::snapshot::{Name, Resource};
use ripstop_model::split;
use ripstop_telemetry::record::{Known, Workload};
use ripstop_telemetry::trace::{Attribution, SpanContext};
use tokio::time::Instant;

use super::{Moments, Proxy, Verdict, stamp};
use crate::cluster::Cluster;
use crate::connection::Connection;
use crate::error::Error;
use crate::exchange::Part;
use crate::forwarding::{self, Sender};
use crate::grpc::Messages;
use crate::headers;
use crate::labels;
use crate::live::Tables;
use crate::message::{RequestHead, ResponseHead};
use crate::peer;
use crate::policy::headers::{Compiled, Values};
use crate::policy::{Stage, authz, cors};
use crate::reply::Reply;
use crate::route;
use crate::trace;
use crate::worker::Worker;

/// One request on its way. Everything it refers to is of one version of the tables.
pub struct Request<'v> {
    pub connection: &'v Rc<Connection>,
    pub view: &'v Tables,
    pub proxy: &'v Proxy,
    pub sender: Sender,
    table: Option<&'v Arc<route::Table>>,
    pub selected: Option<Selected<'v>>,
    /// The weighted cluster that was drawn.
    pub share: Option<&'v Share>,
    cluster_name: Option<Name>,
    pub moments: Moments,
    pub(super) started: SystemTime,
    /// Body bytes from the client and to it.
    pub received: u64,
    pub sent: u64,
    /// Of a gRPC call, from the client and to it.
    messages: Option<(Messages, Messages)>,
    pub attempts: u32,
    pub upstream_host: Option<SocketAddr>,
    pub upstream_local: Option<SocketAddr>,
    /// The head of a response is on its way: no other can be given.
    pub responded: bool,
    /// The origin that CORS allowed.
    pub origin: Option<String>,
    pub verdict: Verdict,
    /// The workload at the other end: of the client, or of the endpoint that was chosen.
    pub peer: Option<Arc<Known<Workload>>>,
    /// From the trailers of a gRPC response.
    pub grpc_status: Option<u32>,
    pub span: Option<SpanContext>,
    /// Set on the response: the client is to keep its place in a consistent hash.
    pub cookie: Option<NewCookie>,
}

impl<'v> Request<'v> {
    pub fn new(connection: &'v Rc<Connection>, view: &'v Tables, proxy: &'v Proxy) -> Request<'v> {
        Request {
            connection,
            view,
            proxy,
            sender: Sender {
                remote: connection.peer.ip(),
                edge: false,
                internal: false,
            },
            table: None,
            selected: None,
            share: None,
            cluster_name: None,
            moments: Moments {
                start: Instant::now(),
                received: None,
                sent: None,
                answered: None,
            },
            started: SystemTime::now(),
            received: 0,
            sent: 0,
            messages: None,
            attempts: 0,
            upstream_host: None,
            upstream_local: None,
            responded: false,
            origin: None,
            verdict: Verdict::default(),
            peer: None,
            grpc_status: None,
            span: None,
            cookie: None,
        }
    }

    pub fn worker(&self) -> &'v Rc<Worker> {
        &self.connection.worker
    }

    pub fn config(&self) -> &'v HttpProxy {
        &self.proxy.config
    }

    /// Whether the client showed a certificate, whatever came of it.
    fn presents_certificate(&self) -> bool {
        let tls = self.connection.tls.as_ref();
        tls.is_some_and(|tls| !tls.certificates.is_empty())
    }

    pub fn is_tls(&self) -> bool {
        self.connection.tls.is_some()
    }

    /// Whether `x-envoy-*` request headers are obeyed: from internal clients only.
    pub fn honours_headers(&self) -> bool {
        self.sender.internal
    }

    /// Writes the forwarding headers, the request id and the trace context.
    pub fn enter(&mut self, head: &mut RequestHead) {
        forwarding::settle_authority(self.connection, self.config(), head);
        // Before the request gets an id: the one of its cause, if that is known.
        let attributor = self.worker().shared.attributor.as_ref();
        let attribution = attributor.map_or(Attribution::NotAsked, |attributor| {
            attributor.inherit(self.connection, head)
        });
        self.sender = forwarding::enter(self.connection, self.config(), head);
        if !self.sender.internal
            && let Some(table) = self.proxy.routes(self.view)
        {
            for name in &table.config().internal_only_headers {
                head.headers.remove_named(name);
            }
        }
        self.span = trace::enter(self.connection, self.config(), head, attribution);
        self.messages = is_grpc(head).then(Default::default);
    }

    /// Selects the route and, where the route splits, the share.
    pub fn select(&mut self, head: &RequestHead) {
        self.table = self.proxy.routes(self.view);
        let draw = self.worker().random();
        let found = self
            .table
            .and_then(|table| table.select(head, draw, self.presents_certificate()).ok());
        self.selected = found;
        let Some(Action::Forward(forward)) = found.map(|found| &found.route.action) else {
            return;
        };
        self.cluster_name = match &forward.to {
            Split::One(name) => Some(name.clone()),
            Split::Weighted { shares, total } => {
                self.share = split::pick(shares, *total, self.worker().random());
                self.share.map(|share| share.cluster.clone())
            }
            Split::Header(name) => head.header(name).map(|value| Name::from(&*value)),
        };
    }

    /// The user's resource whose routes do not match, where the host has any.
    pub fn unmatched(&self, head: &RequestHead) -> Option<&'v Resource> {
        self.table?.resource_of(head.authority())
    }

    /// Why no route was found.
    pub fn miss(&self) -> Reason {
        match self.table {
            Some(_) => Reason::RouteNotFound,
            None => Reason::RouteConfigMissing,
        }
    }

    /// The cluster that the request goes to.
    pub fn cluster(
        &self,
        forward: &Forward,
        _head: &RequestHead,
    ) -> Result<&'v Arc<Cluster>, Box<Reply>> {
        self.cluster_name
            .as_ref()
            .and_then(|name| self.view.clusters.get(name))
            .ok_or_else(|| {
                let mut reply = Reply::new(Reason::ClusterNotFound).decided_by(self.resource());
                reply.status = forward.missing_cluster_status;
                reply
            })
    }

    pub fn cluster_name(&self) -> Option<&Name> {
        self.cluster_name.as_ref()
    }

    /// The user's resource behind the route.
    pub fn resource(&self) -> Option<&'v Resource> {
        self.selected
            .and_then(|found| found.route.resource.as_ref())
    }

    pub fn caller(&self) -> Caller {
        let mut caller = self.connection.caller.clone();
        caller.remote_ip = self.sender.remote;
        caller
    }

    /// The judge that stands in the place of a named filter: `Some(None)` turns it off.
    pub fn authz_override(&self, filter: &Name) -> Option<Option<&'v Judge>> {
        self.table?.authz(&self.selected?, self.share, filter)
    }

    pub fn fault_override(&self) -> Option<Arc<Fault>> {
        let found = self.selected?;
        let share = self.share.and_then(|share| share.per_filter.fault.as_ref());
        share
            .or(found.route.per_filter.fault.as_ref())
            .or(found.host.per_filter.fault.as_ref())
            .cloned()
    }

    /// The CORS settings of the route, and those of its virtual host for what the route leaves unset.
    pub fn cors(&self) -> Option<cors::Settings<'v>> {
        let found = self.selected?;
        cors::Settings::new(
            found.route.per_filter.cors.as_deref(),
            found.host.per_filter.cors.as_deref(),
        )
    }

    /// Peer metadata belongs to the mesh: an application never sees it.
    pub fn read_peer(&mut self, head: &mut RequestHead) {
        let introduced = peer::take(head);
        let Some(principals) = self.connection.caller.principals.as_deref() else {
            return;
        };
        let principal = principals.first().map_or("", String::as_str);
        let workload = introduced.unwrap_or_default();
        self.peer = Some(Arc::new(labels::workload(&workload, principal)));
    }

    /// Counts a piece of the request's body.
    pub fn asked(&mut self, part: Part<'_>) {
        self.received += part.len() as u64;
        if let (Some((up, _)), Part::Data(data)) = (&mut self.messages, part) {
            up.take(data);
        }
    }

    /// Counts a piece of the response's body.
    pub fn answered(&mut self, part: Part<'_>) {
        self.sent += part.len() as u64;
        if let (Some((_, down)), Part::Data(data)) = (&mut self.messages, part) {
            down.take(data);
        }
    }

    /// Whether it is a gRPC call.
    pub fn is_call(&self) -> bool {
        self.messages.is_some()
    }

    /// gRPC messages, from the client and to it.
    pub(super) fn messages(&self) -> (u64, u64) {
        self.messages
            .map_or((0, 0), |(up, down)| (up.count(), down.count()))
    }

    pub fn flag(&mut self, flag: Flag) {
        self.verdict.flags.set(flag);
    }

    /// Remembers why the proxy itself answered or ended the request.
    pub fn decide(&mut self, reply: &Reply) {
        if let Some(flag) = reply.reason.flag() {
            self.verdict.flags.set(flag);
        }
        self.verdict.reason = Some(reply.reason);
        let resource = reply.resource.as_ref().or(self.resource());
        self.verdict.resource = resource.map(ToString::to_string);
        self.verdict.cause = reply.cause.clone();
    }

    /// What the levels of the route add to the request.
    pub fn edit_request(&self, head: &mut RequestHead) {
        let (Some(table), Some(selected)) = (self.table, &self.selected) else {
            return;
        };
        for level in table.levels(selected, self.share) {
            let values = self.values(&level.request, head, None);
            level.request.apply(&mut head.headers, &values);
        }
    }

    /// What the levels of the route, the router and the connection manager add to an upstream's response.
    pub fn edit_response(
        &mut self,
        head: &RequestHead,
        response: &mut ResponseHead,
        sent: Instant,
    ) {
        let upgrade = head.headers.has(headers::Known::Upgrade);
        if !self.proxy.router.suppress_envoy_headers && !upgrade {
            let took = self
                .moments
                .answered
                .unwrap_or(sent)
                .saturating_duration_since(sent);
            response.headers.set_named(
                "x-envoy-upstream-service-time",
                itoa::Buffer::new().format(took.as_millis()),
            );
        }
        if self
            .selected
            .is_some_and(|found| found.host.response_attempt_count)
        {
            response.headers.set_named(
                "x-envoy-attempt-count",
                itoa::Buffer::new().format(self.attempts),
            );
        }
        if let Some(cookie) = &self.cookie {
            response
                .headers
                .append(headers::Known::SetCookie, set_cookie(cookie));
        }
        self.edit_levels(head, response);
        if let (Some(cors), Some(origin)) = (self.cors(), &self.origin) {
            cors.mark(origin, response);
        }
        self.finish_response(head, response);
    }

    /// As [`Request::edit_response`], for a response of the proxy's own.
    pub fn edit_reply(&mut self, head: &RequestHead, response: &mut ResponseHead) {
        self.edit_levels(head, response);
        self.finish_response(head, response);
    }

    fn edit_levels(&self, head: &RequestHead, response: &mut ResponseHead) {
        let (Some(table), Some(selected)) = (self.table, &self.selected) else {
            return;
        };
        for level in table.levels(selected, self.share) {
            let values = self.values(&level.response, head, Some(response));
            level.response.apply(&mut response.headers, &values);
        }
    }

    fn finish_response(&self, head: &RequestHead, response: &mut ResponseHead) {
        let config = self.config();
        if config.request_id.set_in_response
            && let Some(id) = head.headers.get(headers::Known::XRequestId)
        {
            response.headers.set(headers::Known::XRequestId, id);
        }
        if let Some(via) = &config.via {
            let all = match response.headers.joined("via") {
                Some(before) => format!("{before}, {via}"),
                None => via.clone(),
            };
            response.headers.set_named("via", all);
        }
        stamp(config, self.worker(), response);
    }

    /// What the templates of a level are worth now.
    fn values(
        &self,
        edits: &Compiled,
        head: &RequestHead,
        response: Option<&ResponseHead>,
    ) -> Values {
        match edits.asks() {
            true => super::record::with(self, head, response, |record| edits.values(record)),
            false => Values::default(),
        }
    }

    /// Judged again, by the policies that run now: a stream that they deny ends.
    pub fn is_still_allowed(&self, head: &RequestHead) -> bool {
        let view = self.worker().view();
        let chain = self.connection.chain(&view);
        if !chain
            .judge
            .judge(&self.connection.caller, None)
            .is_allowed()
        {
            return false;
        }
        let Some(proxy) = &chain.http else {
            return false;
        };
        let mut now = Request::new(self.connection, &view, proxy);
        now.sender = self.sender;
        now.select(head);
        proxy.stages.iter().all(|stage| match stage {
            Stage::Authz { filter, judge } => authz::enforce(filter, judge, &now, head).is_ok(),
            Stage::PeerMetadata | Stage::GrpcStats | Stage::Fault(_) | Stage::Cors => true,
        })
    }

    /// An outcome of an upstream that ended without a response the client can be given.
    pub fn fail(&mut self, error: &Error) {
        if let Some(flag) = error.kind.flag() {
            self.verdict.flags.set(flag);
        }
    }

    /// The request is over: counts and logs it.
    pub fn record(&self, head: &RequestHead, response: &ResponseHead) {
        super::record::finish(self, head, response);
    }
}

pub(crate) fn is_grpc(head: &RequestHead) -> bool {
    head.headers
        .text(headers::Known::ContentType)
        .is_some_and(ripstop_model::route::is_grpc_content_type)
}

/// `name="value"; Max-Age=…; Path=…; HttpOnly`, as Envoy writes it.
fn set_cookie(cookie: &NewCookie) -> String {
    let mut text = format!("{}=\"{}\"", cookie.name, cookie.value);
    if !cookie.ttl.is_zero() {
        text.push_str(&format!("; Max-Age={}", cookie.ttl.as_secs()));
    }
    if !cookie.path.is_empty() {
        text.push_str(&format!("; Path={}", cookie.path));
    }
    for (name, value) in &cookie.attributes {
        match value.is_empty() {
            true => text.push_str(&format!("; {name}")),
            false => text.push_str(&format!("; {name}={value}")),
        }
    }
    text.push_str("; HttpOnly");
    text
}

//! THE SPINE: one request from its head to its record. [`exchange`] reads in the order in which things happen.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ripstop_model::reason::{Flag, Flags, Reason};
use ripstop_model::snapshot::http::{
    HttpFilter, HttpProxy, RouteSource, Router, ServerHeader, Underscores,
};
use ripstop_model::snapshot::route::{Action, Forward, RouteConfig};
use ripstop_telemetry::Stats;
use tokio::time::Instant;

use crate::attempt::{self, Outcome};
use crate::connection::Connection;
use crate::error::Error;
use crate::exchange::{Downstream, Upstream};
use crate::headers::Known;
use crate::http1::Upgrade;
use crate::limit::Limit;
use crate::live::Tables;
use crate::logs::{Filtered, Logs};
use crate::message::{RequestHead, ResponseHead, Version};
use crate::policy::{self, Stage};
use crate::relay;
use crate::reply::Reply;
use crate::route;
use crate::stats;
use crate::worker::Timer;

mod record;
mod request;

pub use request::Request;
pub(crate) use request::is_grpc;

/// How long the head of a request may take from its first byte, where the configuration sets no limit (R15.2). Envoy sets
/// none.
pub(crate) const HEAD_TIME: Duration = Duration::from_secs(10);

/// An HTTP connection manager, compiled.
pub struct Proxy {
    pub config: Arc<HttpProxy>,
    pub stages: Vec<Stage>,
    pub router: Router,
    /// `None`: by name, from the tables.
    inline: Option<Arc<route::Table>>,
    pub logs: Vec<Filtered>,
    pub stats: Arc<stats::Http>,
    /// Routes may have upgrade lists of their own.
    routes_upgrade: bool,
}

impl Proxy {
    pub fn new(config: Arc<HttpProxy>, logs: &Logs, stats: &Stats) -> Proxy {
        let router = config.filters.iter().find_map(|filter| match filter {
            HttpFilter::Router(router) => Some(router.clone()),
            _ => None,
        });
        Proxy {
            logs: logs.open(&config.access_logs),
            stats: stats::Http::new(stats, &config.stat_prefix),
            routes_upgrade: match &config.routes {
                RouteSource::Inline(routes) => has_upgrades(routes),
                // Not known here: asking is allowed, the route decides.
                RouteSource::Named(_) => true,
            },
            stages: config.filters.iter().filter_map(Stage::new).collect(),
            router: router.unwrap_or_default(),
            inline: match &config.routes {
                RouteSource::Inline(routes) => Some(Arc::new(route::Table::new(routes.clone()))),
                RouteSource::Named(_) => None,
            },
            config,
        }
    }

    /// The table that routes are selected from.
    pub fn routes<'v>(&'v self, view: &'v Tables) -> Option<&'v Arc<route::Table>> {
        match &self.config.routes {
            RouteSource::Inline(_) => self.inline.as_ref(),
            RouteSource::Named(name) => view.routes.get(name),
        }
    }

    /// Whether some route may allow an upgrade.
    pub fn may_upgrade(&self, upgrade: Upgrade) -> bool {
        self.config
            .upgrades
            .iter()
            .any(|token| token == name_of(upgrade))
            || self.routes_upgrade
    }

    /// Whether CONNECT may lead anywhere, by the routes that run now.
    pub fn serves_tunnels(&self, view: &Tables) -> bool {
        let connect = name_of(Upgrade::Connect);
        let own = self.config.upgrades.iter().any(|token| token == connect);
        let routes = self.routes(view);
        own || routes.is_some_and(|table| has_upgrades(table.config()))
    }

    /// Whether this route does.
    pub fn allows(&self, upgrade: Upgrade, forward: &Forward) -> bool {
        let name = name_of(upgrade);
        let own = forward.upgrades.iter().find(|(token, _)| token == name);
        match own {
            Some((_, enabled)) => *enabled,
            None => self.config.upgrades.iter().any(|token| token == name),
        }
    }
}

fn name_of(upgrade: Upgrade) -> &'static str {
    match upgrade {
        Upgrade::WebSocket => "websocket",
        Upgrade::Connect => "connect",
    }
}

/// Whether a table has routes with an upgrade list of their own.
fn has_upgrades(routes: &RouteConfig) -> bool {
    routes.hosts.iter().flat_map(|host| &host.routes).any(
        |route| matches!(&route.action, Action::Forward(forward) if !forward.upgrades.is_empty()),
    )
}

/// Serves one request whose head has arrived, up to the last byte of its response.
pub async fn serve<D: Downstream>(connection: &Rc<Connection>, down: &mut D, timer: &mut Timer) {
    let worker = &connection.worker;
    let view = worker.view();
    let chain = connection.chain(&view);
    let Some(proxy) = &chain.http else {
        return down.abort();
    };
    let _active = proxy.stats.request();
    let mut request = Request::new(connection, &view, proxy);
    let mut response = worker.take_response();
    match exchange(&mut request, down, timer, &mut response).await {
        Ok(()) => {}
        Err(reply) if reply.status == 0 || request.responded => {
            request.decide(&reply);
            down.abort();
        }
        Err(reply) => answer(&mut request, down, &reply, &mut response),
    }
    request.record(down.request(), &response);
    worker.give_response(response);
}

/// The life of a request. An error is what the proxy itself answers.
async fn exchange<D: Downstream>(
    request: &mut Request<'_>,
    down: &mut D,
    timer: &mut Timer,
    response: &mut ResponseHead,
) -> Result<(), Box<Reply>> {
    // One form of path and authority for everything that follows.
    normalise(request, down)?;
    // Who sent it, what it is called, which trace it belongs to.
    request.enter(down.request_mut());
    if let Some(refusal) = &request.connection.refusal {
        return Err(Reply::new(refusal.reason).decided_by(refusal.resource.as_ref()));
    }
    // Where it would go. Policies look at it first: their settings may come with the route.
    request.select(down.request());
    policy::run(&request.proxy.stages, request, down.request_mut()).await?;
    let selected = request
        .selected
        .ok_or_else(|| Reply::new(request.miss()).decided_by(request.unmatched(down.request())))?;
    if route::requires_tls(&selected, down.request(), request.sender.internal) {
        return Err(route::to_https(down.request()));
    }
    let forward = match &selected.route.action {
        Action::Forward(forward) => forward,
        Action::Direct(direct) => return Err(route::direct(direct)),
        Action::Redirect(redirect) => {
            let matched = &selected.route.matches.path;
            return Err(route::answer_redirect(redirect, matched, down.request()));
        }
        // A route that leads to no cluster, which is what Envoy says of it.
        Action::None => return Err(Reply::new(Reason::ClusterNotFound)),
    };
    if let Some(upgrade) = down.admitted().upgrade
        && !request.proxy.allows(upgrade, forward)
    {
        return Err(Reply::new(Reason::UpgradeNotAllowed).decided_by(request.resource()));
    }
    // From here on it is the upstream's: its limits, its edits, its attempts.
    let cluster = request.cluster(forward, down.request())?;
    let mut plan = attempt::Plan::new(request, forward, cluster, down.request());
    request.edit_request(down.request_mut());
    route::rewrite(
        forward,
        request.share,
        &selected.route.matches.path,
        !request.proxy.router.suppress_envoy_headers,
        down.request_mut(),
    );
    let active = cluster.breaker(forward.priority).request();
    let _active = active.map_err(|reason| plan.reply(request, &Error::terminal(reason)))?;
    let (mut up, accepted) = loop {
        match attempt::run(request, &mut plan, down, timer, response).await {
            Outcome::Response(up, accepted) => break (up, accepted),
            Outcome::Again(pause) => attempt::wait(request, &plan, timer, pause).await?,
            Outcome::Failed(error) => {
                plan.release(request, false);
                return Err(plan.reply(request, &error));
            }
        }
    };
    if would_open_a_tunnel(down, response, accepted.tunnel) {
        let error = Error::terminal(Reason::UpstreamProtocol);
        plan.release(request, false);
        return Err(plan.reply(request, &error));
    }
    // The response: what routes and policies add to it, then its body, both ways at once.
    request.edit_response(down.request(), response, plan.started());
    request.responded = true;
    match accepted.tunnel {
        true => down.upgrade(response),
        false => down.respond(response, accepted.framing),
    }
    let relayed = relay::run(request, &mut plan, down, &mut up, timer, accepted).await;
    plan.conclude(request, relayed.as_ref().err());
    plan.release(request, false);
    relayed.map_err(|error| Reply::of_error(&error))?;
    up.finish();
    Ok(())
}

/// To a client of HTTP/2 any 2xx says that its WebSocket is open (RFC 8441 section 5), also one of a server that knows nothing
/// of upgrades.
fn would_open_a_tunnel<D: Downstream>(down: &D, response: &ResponseHead, tunnel: bool) -> bool {
    !tunnel
        && down.admitted().upgrade == Some(Upgrade::WebSocket)
        && down.request().version == Version::Http2
        && (200..300).contains(&response.status)
}

fn normalise<D: Downstream>(request: &Request<'_>, down: &mut D) -> Result<(), Box<Reply>> {
    let named_oddly =
        |head: &RequestHead| head.headers.iter().any(|field| field.name.contains(&b'_'));
    if request.config().underscores == Underscores::Reject && named_oddly(down.request()) {
        return Err(Reply::new(Reason::BadRequest));
    }
    match down.request_mut().normalize(&request.config().path) {
        Ok(None) => Ok(()),
        Ok(Some(path)) => {
            let mut reply = Reply::new(Reason::Redirected);
            reply.status = 307;
            let query = down.request().query().map(|query| format!("?{query}"));
            let location = format!("{path}{}", query.unwrap_or_default());
            reply.headers.push(("location", location));
            Err(reply)
        }
        Err(_) => Err(Reply::new(Reason::BadPath)),
    }
}

/// Answers with a response of the proxy's own.
fn answer<D: Downstream>(
    request: &mut Request<'_>,
    down: &mut D,
    reply: &Reply,
    response: &mut ResponseHead,
) {
    request.decide(reply);
    let grpc = request::is_grpc(down.request());
    let (framing, body) = reply.head(grpc, response);
    request.edit_reply(down.request(), response);
    let sent = send_whole(down, response, framing, body);
    request.sent += sent;
}

fn send_whole<D: Downstream>(
    down: &mut D,
    response: &ResponseHead,
    framing: crate::http1::Framing,
    body: &[u8],
) -> u64 {
    use crate::exchange::Part;
    down.respond(response, framing);
    // A body whose length was announced has it.
    let sent = down
        .push(Part::Data(body))
        .and_then(|()| down.push(Part::End));
    match sent {
        Ok(()) => body.len() as u64,
        Err(_) => 0,
    }
}

/// How what never became a request is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    Answer,
    /// The caller ends the stream; it is recorded all the same.
    Silence,
}

/// Turns away what never became a request.
pub fn refuse<D: Downstream>(
    connection: &Rc<Connection>,
    down: &mut D,
    reason: Reason,
    how: Refusal,
) {
    let worker = &connection.worker;
    let view = worker.view();
    let chain = connection.chain(&view);
    let Some(proxy) = &chain.http else {
        return down.abort();
    };
    let _active = proxy.stats.request();
    if reason.flag() == Some(Flag::DownstreamProtocolError) {
        proxy.stats.cx_protocol_error.inc();
    }
    let mut request = Request::new(connection, &view, proxy);
    let mut response = worker.take_response();
    let limit = Limit::of_head(reason, &proxy.config, HEAD_TIME);
    let reply = Reply::new(reason).for_limit(limit);
    request.decide(&reply);
    if how == Refusal::Answer {
        let (framing, body) = reply.head(false, &mut response);
        stamp(&proxy.config, worker, &mut response);
        send_whole(down, &response, framing, body);
    }
    request.record(down.request(), &response);
    worker.give_response(response);
}

/// `date` and `server` as Envoy writes them.
fn stamp(config: &HttpProxy, worker: &crate::worker::Worker, response: &mut ResponseHead) {
    match &config.server_header {
        ServerHeader::Overwrite(name) => response.headers.set(Known::Server, name),
        ServerHeader::AppendIfAbsent(name) if !response.headers.has(Known::Server) => {
            response.headers.append(Known::Server, name);
        }
        ServerHeader::AppendIfAbsent(_) | ServerHeader::PassThrough => {}
    }
    if !response.headers.has(Known::Date) {
        response.headers.append(Known::Date, &*worker.date());
    }
}

/// The moments of a request.
#[derive(Debug, Clone, Copy)]
pub struct Moments {
    pub start: Instant,
    /// The request's last byte.
    pub received: Option<Instant>,
    pub sent: Option<Instant>,
    pub answered: Option<Instant>,
}

/// What is known of a request's end, for the log.
#[derive(Debug, Default)]
pub struct Verdict {
    pub flags: Flags,
    pub reason: Option<Reason>,
    pub resource: Option<String>,
    pub cause: Option<String>,
}

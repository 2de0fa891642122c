//! Copies of a request to the clusters that its route mirrors to, piece by piece as it comes; nobody waits for their
//! answers, and a mirror that is too slow is given up rather than waited for.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use ripstop_model::snapshot::route::{Forward, Priority};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::attempt::Plan;
use crate::balance::Wish;
use crate::cluster::Cluster;
use crate::connection::Connection;
use crate::error::Error;
use crate::exchange::{Body, Part, Upstream};
use crate::headers::Headers;
use crate::http::Request;
use crate::http1::Framing;
use crate::message::{RequestHead, ResponseHead};
use crate::peer;
use crate::pool;
use crate::relay::BACKLOG;
use crate::upstream::Leg;

/// How long a mirrored request may take once the client has sent all of it.
const SHADOW: Duration = Duration::from_secs(15);

/// Bytes of a body that a copy may be behind (Envoy's default buffer limit).
const BEHIND: usize = 1 << 20;
/// Pieces of a body that a copy may be behind, however small they are.
const PIECES: usize = 1024;

/// The copies of one request that still listen.
#[derive(Default)]
pub struct Mirrors(Vec<Copy>);

struct Copy {
    queue: mpsc::Sender<Piece>,
    /// Bytes in the queue.
    held: Rc<Cell<usize>>,
    cluster: Arc<Cluster>,
}

/// A [`Part`] on its way to several.
#[derive(Clone)]
enum Piece {
    Data(Rc<[u8]>),
    Trailers(Rc<Headers>),
    End,
}

/// Begins the copies that the route wants. `framing`: of the body that will be copied.
pub fn start(
    request: &Request<'_>,
    forward: &Forward,
    head: &RequestHead,
    framing: Framing,
) -> Mirrors {
    let mut mirrors = Mirrors::default();
    for mirror in &forward.mirrors {
        if !mirror.fraction.holds(request.worker().random()) {
            continue;
        }
        let Some(cluster) = request.view.clusters.get(&mirror.cluster) else {
            continue;
        };
        let mut copy = head.clone();
        if mirror.shadow_suffix {
            copy.set_authority(&shadow_of(head.authority_sent()));
        }
        let (queue, pieces) = mpsc::channel(PIECES);
        let held = Rc::new(Cell::new(0));
        let shadow = Shadow {
            connection: request.connection.clone(),
            cluster: cluster.clone(),
            priority: forward.priority,
            head: copy,
            framing,
            pieces,
            held: held.clone(),
        };
        tokio::task::spawn_local(shadow.send());
        if framing != Framing::None {
            mirrors.0.push(Copy {
                queue,
                held,
                cluster: cluster.clone(),
            });
        }
    }
    mirrors
}

impl Mirrors {
    /// Copies a piece of the body. A copy that is behind by more than [`BEHIND`] or [`PIECES`] ends here, counted.
    pub fn take(&mut self, part: Part<'_>, plan: &Cluster) {
        if self.0.is_empty() {
            return;
        }
        let piece = match part {
            Part::Data(data) => Piece::Data(data.into()),
            Part::Trailers(trailers) => Piece::Trailers(Rc::new(trailers.clone())),
            Part::End => Piece::End,
        };
        self.0.retain(|copy| {
            let held = copy.held.get() + part.len();
            copy.held.set(held);
            // One that has ended, by an answer or an error, wants no more of it.
            if copy.queue.is_closed() {
                return false;
            }
            let kept = held <= BEHIND && copy.queue.try_send(piece.clone()).is_ok();
            if !kept {
                plan.stats.retry_or_shadow_abandoned.inc();
                tracing::debug!(
                    cluster = %copy.cluster.config.name,
                    behind = held,
                    "a mirrored request is given up: its cluster does not keep up with the client"
                );
            }
            kept
        });
    }
}

/// `host-shadow`, before the port (Envoy's shadow writer).
fn shadow_of(authority: &str) -> String {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            format!("{host}-shadow:{port}")
        }
        _ => format!("{authority}-shadow"),
    }
}

struct Shadow {
    connection: Rc<Connection>,
    cluster: Arc<Cluster>,
    priority: Priority,
    head: RequestHead,
    framing: Framing,
    pieces: mpsc::Receiver<Piece>,
    held: Rc<Cell<usize>>,
}

impl Shadow {
    async fn send(mut self) {
        // Nobody is told how it went: a mirror never affects the request it copies.
        let Ok(Some(mut up)) = self.begin().await else {
            return;
        };
        if self.body(&mut up).await.is_ok()
            && let Ok(Ok(())) = tokio::time::timeout(SHADOW, answer(&mut up)).await
        {
            up.finish();
        }
    }

    /// The head; `None`: nobody to send it to.
    async fn begin(&mut self) -> Result<Option<Leg>, Error> {
        let worker = self.connection.worker.clone();
        let destination = self.connection.original();
        let Some(picked) = worker.choose(&self.cluster, Wish::default(), destination) else {
            return Ok(None);
        };
        peer::introduce(&worker, &self.cluster, &picked.member, &mut self.head);
        let mut up = pool::acquire(
            &self.connection,
            &self.cluster,
            self.priority,
            &picked.member,
            pool::Wanted {
                strict: true,
                fresh: false,
                until: Some(Instant::now() + SHADOW),
                head: &self.head,
                upgrade: None,
            },
        )
        .await?;
        up.send(&self.head, self.framing, None);
        Ok(Some(up))
    }

    /// The body, as fast as the client sends it and the mirror takes it. An error also where the client broke off.
    async fn body(&mut self, up: &mut Leg) -> Result<(), Broken> {
        if self.framing == Framing::None {
            return Ok(());
        }
        poll_fn(|cx| self.poll_body(up, cx)).await
    }

    fn poll_body(&mut self, up: &mut Leg, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        loop {
            if up.backlog() >= BACKLOG {
                std::task::ready!(up.poll_flush(cx)).map_err(|_| Broken)?;
            }
            let piece = match self.pieces.poll_recv(cx) {
                Poll::Ready(Some(piece)) => piece,
                Poll::Ready(None) => return Poll::Ready(Err(Broken)),
                Poll::Pending => {
                    // What is queued goes out meanwhile; how far that comes is seen at the next piece.
                    return match up.poll_flush(cx) {
                        Poll::Ready(Err(_)) => Poll::Ready(Err(Broken)),
                        Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
                    };
                }
            };
            let (pushed, ended) = match &piece {
                Piece::Data(data) => {
                    self.held.set(self.held.get().saturating_sub(data.len()));
                    (up.push(Part::Data(data)), false)
                }
                Piece::Trailers(trailers) => (up.push(Part::Trailers(trailers)), true),
                Piece::End => (up.push(Part::End), true),
            };
            pushed.map_err(|_| Broken)?;
            if ended {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

/// The copy cannot be completed.
struct Broken;

/// Reads the answer and forgets it.
async fn answer(up: &mut Leg) -> Result<(), Error> {
    let mut response = ResponseHead::default();
    let mut answered = false;
    let mut ended = false;
    poll_fn(|cx| {
        if let Poll::Ready(Err(error)) = up.poll_flush(cx) {
            return Poll::Ready(Err(error));
        }
        while !answered {
            let accepted = std::task::ready!(up.poll_response(cx, &mut response))?;
            answered = !accepted.interim;
            ended = answered && accepted.framing == Framing::None;
        }
        while !ended {
            std::task::ready!(up.poll_receive(cx, &mut |part| ended |= part.is_end()))?;
        }
        Poll::Ready(Ok(()))
    })
    .await
}

impl Plan<'_> {
    /// Copies a piece of the request body to its mirrors.
    pub fn copy(&mut self, part: Part<'_>) {
        self.mirrors.take(part, self.cluster);
    }
}

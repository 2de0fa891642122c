//! Copies of a request to the clusters that its route mirrors to; nobody waits for their answers.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use ripstop_model::snapshot::route::{Forward, Priority};

use crate::attempt::Plan;
use crate::cluster::Cluster;
use crate::connection::Connection;
use crate::error::Error;
use crate::exchange::{Body, Part, Upstream};
use crate::http::Request;
use crate::http1::Framing;
use crate::message::{RequestHead, ResponseHead};
use crate::pool;

/// Sends copies of the request where the route wants them; nobody waits for their answers.
pub fn send(request: &Request<'_>, forward: &Forward, plan: &Plan<'_>, head: &RequestHead) {
    if forward.mirrors.is_empty() {
        return;
    }
    let Some(body) = plan.whole_body() else {
        return;
    };
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
        let shadow = Shadow {
            connection: request.connection.clone(),
            cluster: cluster.clone(),
            priority: forward.priority,
            head: copy,
            body: body.to_vec(),
        };
        tokio::task::spawn_local(shadow.send());
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

/// How long a mirrored request may take.
const SHADOW: Duration = Duration::from_secs(15);

struct Shadow {
    connection: Rc<Connection>,
    cluster: Arc<Cluster>,
    priority: Priority,
    head: RequestHead,
    body: Vec<u8>,
}

impl Shadow {
    async fn send(self) {
        // Nobody is told how it went: a mirror never affects the request it copies.
        let _ = tokio::time::timeout(SHADOW, self.exchange()).await;
    }

    async fn exchange(self) -> Result<(), Error> {
        let worker = self.connection.worker.clone();
        let Some(picked) = worker.choose(&self.cluster, None, &[], self.connection.destination)
        else {
            return Ok(());
        };
        let mut up = pool::acquire(
            &self.connection,
            &self.cluster,
            self.priority,
            &picked.member,
            pool::Wanted {
                strict: true,
                head: &self.head,
                upgrade: None,
            },
        )
        .await?;
        let framing = match self.body.len() {
            0 => Framing::None,
            length => Framing::Length(length as u64),
        };
        up.send(&self.head, framing, None);
        up.push(Part::Data(&self.body))?;
        up.push(Part::End)?;
        let mut response = ResponseHead::default();
        let mut answered = false;
        let mut ended = false;
        poll_fn(|cx| {
            if let Poll::Ready(Err(error)) = up.poll_flush(cx) {
                return Poll::Ready(Err(error));
            }
            while !answered {
                answered = !std::task::ready!(up.poll_response(cx, &mut response))?.interim;
                ended = response.status == 204;
            }
            while !ended {
                std::task::ready!(up.poll_receive(cx, &mut |part| ended |= part.is_end()))?;
            }
            Poll::Ready(Ok(()))
        })
        .await?;
        up.finish();
        Ok(())
    }
}

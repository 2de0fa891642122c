//! Requests → answers: the page's files, the API's parts, the stream of their changes.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use http_body_util::{Either, Full, StreamBody};
use hyper::body::{Frame as BodyFrame, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Request, Response, StatusCode};
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::feed::{self, Feed};
use crate::frame::{Frame, PARTS};
use crate::guard::{self, Refusal};
use crate::page;

type Chunk = Result<BodyFrame<Bytes>, Infallible>;
pub(crate) type Body = Either<Full<Bytes>, StreamBody<BoxStream<'static, Chunk>>>;

/// Where a browser looks for the next event after a connection was lost, in milliseconds.
const GREETING: &str = "retry: 2000\n\n";
const JSON: &str = "application/json";

pub(crate) struct Api {
    pub(crate) feed: Arc<Feed>,
    /// Host names that are ours beside `localhost`.
    pub(crate) names: Vec<String>,
    /// A permit per stream of events.
    pub(crate) streams: Arc<Semaphore>,
    /// True when the server stops.
    pub(crate) stopped: watch::Receiver<bool>,
}

impl Api {
    pub(crate) async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let (method, uri) = (request.method(), request.uri());
        let mut response = match guard::judge(method, uri, request.headers(), &self.names) {
            Ok(()) => self.path(uri.path()).await,
            Err(refusal) => refused(refusal),
        };
        page::protect(response.headers_mut());
        response
    }

    async fn path(&self, path: &str) -> Response<Body> {
        if let Some(file) = page::file(path) {
            return whole(StatusCode::OK, file.kind, file.body());
        }
        match path
            .strip_prefix("/api")
            .map(|rest| rest.trim_start_matches('/'))
        {
            Some("") => self.of_frame(Frame::whole).await,
            Some("events") => self.events(),
            Some(name) if PARTS.contains(&name) => {
                let part = |frame: &Frame| {
                    frame
                        .part(name)
                        .map(|part| part.json.clone())
                        .unwrap_or_default()
                };
                self.of_frame(part).await
            }
            _ => {
                let known = PARTS.map(|part| format!("/api/{part}")).join(", ");
                let text =
                    format!("nothing is at this path; there are /, /api, /api/events, {known}");
                error(StatusCode::NOT_FOUND, &text)
            }
        }
    }

    async fn of_frame(&self, part: impl FnOnce(&Frame) -> Bytes) -> Response<Body> {
        match self.feed.frame().await {
            Some(frame) => whole(StatusCode::OK, JSON, part(&frame)),
            None => error(
                StatusCode::SERVICE_UNAVAILABLE,
                "the mesh says nothing; is it stopping?",
            ),
        }
    }

    /// Every part once, and then each that changes. Who reads slowly misses frames, never gets a queue of them.
    fn events(&self) -> Response<Body> {
        let Ok(permit) = Arc::clone(&self.streams).try_acquire_owned() else {
            let text =
                "too many streams are open: close some of the pages that show this dashboard";
            let mut response = error(StatusCode::SERVICE_UNAVAILABLE, text);
            response
                .headers_mut()
                .insert(RETRY_AFTER, HeaderValue::from_static("10"));
            return response;
        };
        let events = Events {
            frames: self.feed.watch(),
            sent: [0; PARTS.len()],
            ready: VecDeque::from([Bytes::from_static(GREETING.as_bytes())]),
            stopped: self.stopped.clone(),
            _permit: permit,
        };
        let chunks = stream::unfold(events, |mut events| async move {
            let chunk = events.next().await?;
            Some((Ok(BodyFrame::data(chunk)), events))
        });
        let mut response = Response::new(Either::Right(StreamBody::new(chunks.boxed())));
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        response
    }
}

/// One reader of the stream.
struct Events {
    frames: watch::Receiver<Arc<Frame>>,
    /// The version of each part that was sent last.
    sent: [u64; PARTS.len()],
    ready: VecDeque<Bytes>,
    stopped: watch::Receiver<bool>,
    _permit: OwnedSemaphorePermit,
}

impl Events {
    /// `None` ends the stream.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            let first = self.sent.iter().all(|version| *version == 0);
            let frame = tokio::select! {
                _ = self.stopped.wait_for(|stopped| *stopped) => return None,
                frame = next(&mut self.frames, first) => frame?,
            };
            for (part, sent) in frame.parts.iter().zip(&mut self.sent) {
                if part.version > *sent {
                    *sent = part.version;
                    self.ready.push_back(part.event.clone());
                }
            }
        }
    }
}

async fn next(frames: &mut watch::Receiver<Arc<Frame>>, first: bool) -> Option<Arc<Frame>> {
    if first {
        return feed::fresh(frames).await;
    }
    frames.changed().await.ok()?;
    Some(Arc::clone(&frames.borrow_and_update()))
}

fn whole(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::new(body)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn error(status: StatusCode, text: &str) -> Response<Body> {
    whole(status, JSON, json!({ "error": text }).to_string().into())
}

fn refused(refusal: Refusal) -> Response<Body> {
    let mut response = error(refusal.status(), &refusal.to_string());
    if refusal == Refusal::Method {
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}

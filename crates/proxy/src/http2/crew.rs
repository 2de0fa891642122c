//! Tasks that serve streams, one stream after the other: a stream costs neither a task nor a timer of its own.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use super::server::{Call, exchange};
use crate::worker::{Timer, Worker};

/// Tasks of a worker that are kept while there is nothing to do.
const IDLE: usize = 64;

/// The tasks of one worker that wait for a stream, the one that ran last first.
#[derive(Default)]
pub(crate) struct Crew(RefCell<Vec<Rc<Place>>>);

/// Where a task waits.
#[derive(Default)]
struct Place {
    call: Cell<Option<Call>>,
    waker: Cell<Option<Waker>>,
}

impl Crew {
    pub(super) fn serve(worker: &Rc<Worker>, call: Call) {
        let place = worker.crew.0.borrow_mut().pop();
        match place {
            Some(place) => {
                place.call.set(Some(call));
                if let Some(waker) = place.waker.take() {
                    waker.wake();
                }
            }
            None => {
                tokio::task::spawn_local(run(worker.clone(), call));
            }
        }
    }
}

/// A panic ends this task and with it the stream that it served.
async fn run(worker: Rc<Worker>, mut call: Call) {
    let place = Rc::new(Place::default());
    let mut timer = Timer::default();
    loop {
        exchange(call, &mut timer).await;
        timer.set(None);
        {
            let mut idle = worker.crew.0.borrow_mut();
            if idle.len() >= IDLE {
                return;
            }
            idle.push(place.clone());
        }
        call = poll_fn(|cx| match place.call.take() {
            Some(call) => Poll::Ready(call),
            None => {
                place.waker.set(Some(cx.waker().clone()));
                Poll::Pending
            }
        })
        .await;
    }
}

//! A connection whose protocol nobody declared → which chain takes it, or an upstream that is open already because the
//! bytes are opaque. The client's bytes are only looked at, never consumed.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use ripstop_model::snapshot::listener::Inspect;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::{First, Greeting, Habit, MOST, Place, first, greeting};
use crate::connection::{Connection, Hello};
use crate::error::Error;
use crate::tcp::{self, Attempts, Upstream};
use crate::worker::Worker;

/// On a port whose clients are known to speak first, the upstream is opened only when this one is late.
const LATE: Duration = Duration::from_millis(200);
/// Where mesh TLS is accepted beside plain text, a server's greeting is held back for so long: told to a member of the mesh
/// whose ClientHello is on its way, it would break the handshake. Nothing is held back from callers that are known to
/// wait for it.
const HELD: Duration = Duration::from_millis(100);
/// The same for a caller that is known to speak first.
const HELD_LONGER: Duration = Duration::from_secs(1);
/// How long a client may leave its first bytes incomplete before they are taken as they are.
const PARTIAL: Duration = Duration::from_secs(2);
/// After the upstream could not be reached: a client that speaks HTTP gets a proper answer, if it speaks by then.
const FAREWELL: Duration = Duration::from_secs(1);

/// What was decided.
pub(crate) enum Decision {
    /// The chain is chosen by this.
    Choose(Hello),
    /// Opaque, by the chain for opaque bytes.
    Opaque(Opened),
    /// The client broke the connection, or was silent for too long.
    Gone,
}

/// An upstream for opaque bytes, or why there is none.
pub(crate) struct Opened {
    pub(crate) connection: Rc<Connection>,
    pub(crate) upstream: Result<Upstream, Error>,
    pub(crate) attempts: Attempts,
    /// What the server has said already.
    pub(crate) greeting: Vec<u8>,
    /// Where the server is to be remembered as the one who speaks first, once the client has taken its greeting.
    pub(crate) greeted: Option<Place>,
}

/// Decides. `opaque` is the connection as the chain for opaque bytes would serve it, where there is one and its policies
/// allow it: only then is the upstream opened before the client has spoken. `tunnels`: whether HTTP here serves CONNECT; a
/// client that asks a proxy beyond for a tunnel is passed on (R11.3).
pub(crate) async fn decide(
    worker: &Rc<Worker>,
    inspect: &Inspect,
    stream: &TcpStream,
    place: Place,
    opaque: Option<Rc<Connection>>,
    tunnels: impl Fn() -> bool,
) -> Decision {
    let Some(connection) = opaque else {
        let spoken = first_bytes(stream);
        let spoken = match inspect.timeout {
            None => spoken.await,
            Some(limit) => match timeout(limit, spoken).await {
                Ok(spoken) => spoken,
                Err(_) if inspect.continue_on_timeout => return Decision::Choose(Hello::default()),
                Err(_) => return Decision::Gone,
            },
        };
        return match spoken {
            Ok(first) => Decision::Choose(hello(inspect, first).unwrap_or_default()),
            Err(_) => Decision::Gone,
        };
    };
    let choose = |first: First| match first {
        First::Connect if !tunnels() => None,
        first => hello(inspect, first),
    };
    let learnt = worker.learnt.borrow().of(place, Instant::now());
    let habit = learnt.or(place.is_of_a_sidecar().then_some(Habit::Client));
    let learn = |first: &First| {
        if *first != First::Ended {
            let mut learnt = worker.learnt.borrow_mut();
            learnt.learn(place, Habit::Client, Instant::now());
        }
    };
    let mut attempts = Attempts::default();
    if habit == Some(Habit::Server) && place.caller.is_none() {
        let upstream = tcp::connect(&connection, &mut attempts).await;
        return Decision::Opaque(Opened {
            connection,
            upstream,
            attempts,
            greeting: Vec::new(),
            greeted: None,
        });
    }
    let client = first_bytes(stream);
    tokio::pin!(client);
    if habit == Some(Habit::Client) {
        // Known to speak first: probing would only cost the server a connection.
        if let Ok(spoken) = timeout(LATE, &mut client).await {
            let Ok(first) = spoken else {
                return Decision::Gone;
            };
            return match choose(first) {
                Some(hello) => Decision::Choose(hello),
                None => {
                    let upstream = tcp::connect(&connection, &mut attempts).await;
                    Decision::Opaque(Opened {
                        connection,
                        upstream,
                        attempts,
                        greeting: Vec::new(),
                        greeted: None,
                    })
                }
            };
        }
    }
    let mut spoken = None;
    let upstream = {
        let connecting = tcp::connect(&connection, &mut attempts);
        tokio::pin!(connecting);
        loop {
            tokio::select! {
                biased;
                first = &mut client, if spoken.is_none() => {
                    let Ok(first) = first else { return Decision::Gone };
                    learn(&first);
                    if let Some(hello) = choose(first) {
                        return Decision::Choose(hello);
                    }
                    spoken = Some(());
                }
                upstream = &mut connecting => break upstream,
            }
        }
    };
    let opened = |upstream, greeting| Opened {
        connection,
        upstream,
        attempts,
        greeting,
        greeted: None,
    };
    if spoken.is_some() {
        return Decision::Opaque(opened(upstream, Vec::new()));
    }
    let mut upstream = match upstream {
        Ok(upstream) => upstream,
        Err(error) => {
            return match timeout(FAREWELL, client).await {
                Ok(Ok(first)) => match choose(first) {
                    Some(hello) => Decision::Choose(hello),
                    None => Decision::Opaque(opened(Err(error), Vec::new())),
                },
                _ => Decision::Opaque(opened(Err(error), Vec::new())),
            };
        }
    };
    let patience = match (place.caller, habit) {
        (None, _) | (_, Some(Habit::Server)) => Duration::ZERO,
        (_, None) => HELD,
        (_, Some(Habit::Client)) => HELD_LONGER,
    };
    // A timer of no length would still take its millisecond.
    let held = async {
        if !patience.is_zero() {
            sleep(patience).await;
        }
    };
    tokio::pin!(held);
    let mut said = Vec::new();
    let mut greeted = false;
    loop {
        tokio::select! {
            biased;
            first = &mut client => {
                let Ok(first) = first else { return Decision::Gone };
                learn(&first);
                return match choose(first) {
                    Some(hello) => Decision::Choose(hello),
                    None => Decision::Opaque(opened(Ok(upstream), said)),
                };
            }
            read = read(worker, &mut upstream, &mut said), if !greeted => {
                let ended = !matches!(read, Ok(n) if n > 0);
                match greeting(&said) {
                    Greeting::Partial if !ended => {}
                    Greeting::Http2 if inspect.http => return Decision::Choose(Hello::of_http("h2c")),
                    _ => greeted = true,
                }
            }
            () = &mut held, if greeted => break,
        }
    }
    // An HTTP server that was tired of waiting greets nobody.
    let greets = !said.is_empty() && !said.starts_with(b"HTTP/");
    Decision::Opaque(Opened {
        greeted: greets.then_some(place),
        ..opened(Ok(upstream), said)
    })
}

/// By what the chain is chosen; `None`: opaque.
fn hello(inspect: &Inspect, first: First) -> Option<Hello> {
    match first {
        First::Tls(hello) if inspect.tls => Some(Hello {
            tls: true,
            server_name: hello.server_name,
            alpn: hello.alpn,
        }),
        First::Http1 | First::Connect if inspect.http => Some(Hello::of_http("http/1.1")),
        First::Http2 if inspect.http => Some(Hello::of_http("h2c")),
        _ => None,
    }
}

/// Looks at what the client sends until it is clear what it is.
pub(crate) async fn first_bytes(stream: &TcpStream) -> io::Result<First> {
    let mut seen = vec![0u8; 1024];
    let mut since: Option<Instant> = None;
    let mut pause = Duration::from_millis(1);
    loop {
        let n = stream.peek(&mut seen).await?;
        let bytes = seen.get(..n).unwrap_or_default();
        if bytes.is_empty() {
            return Ok(First::Ended);
        }
        let full = n == seen.len();
        match first(bytes) {
            First::Partial => {}
            clear => return Ok(clear),
        }
        let waited = since.get_or_insert_with(Instant::now).elapsed();
        if full && n < 2 * MOST {
            seen.resize(n * 2, 0);
            continue;
        }
        if full || waited > PARTIAL {
            return Ok(First::Opaque);
        }
        // What was looked at stays readable, so only time can tell of more.
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

async fn read(
    worker: &Rc<Worker>,
    upstream: &mut Upstream,
    said: &mut Vec<u8>,
) -> io::Result<usize> {
    std::future::poll_fn(|cx| {
        worker.poll_read(&mut upstream.stream, cx, |bytes| {
            said.extend_from_slice(bytes);
            bytes.len()
        })
    })
    .await
}

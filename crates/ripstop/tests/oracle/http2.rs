//! Requests and replies of a case as HTTP/2: a client and a scripted upstream, and TLS in front of any upstream.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use h2::ext::Protocol;
use h2::{RecvStream, SendStream, client, server};
use http::{HeaderMap, Method, Request, Response};
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net;
use tokio::runtime::Runtime;
use tokio::time::{sleep, timeout};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::case;
use super::message::{Answer, Fields};
use super::pki::Pki;
use super::script::{Facts, Reply, Seen, Then};
use super::transport::{PATIENCE, Tls};

/// All of this runs beside the threads of the cases.
pub(crate) fn runtime() -> &'static Runtime {
    static SHARED: OnceLock<Runtime> = OnceLock::new();
    SHARED.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime")
    })
}

trait Both: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Both for T {}

/// One request on a connection of its own. The second is what came through a tunnel.
pub(crate) fn ask(
    stream: TcpStream,
    tls: Option<&Tls>,
    request: &case::Request,
    n: &str,
) -> io::Result<(Answer, Option<Vec<u8>>)> {
    stream.set_nonblocking(true)?;
    runtime().block_on(async {
        let patient = timeout(PATIENCE, exchange(stream, tls, request, n));
        let late = |_| io::Error::from(io::ErrorKind::TimedOut);
        patient.await.map_err(late)?
    })
}

async fn exchange(
    stream: TcpStream,
    tls: Option<&Tls>,
    request: &case::Request,
    n: &str,
) -> io::Result<(Answer, Option<Vec<u8>>)> {
    let stream = net::TcpStream::from_std(stream)?;
    let stream: Box<dyn Both> = match tls {
        None => Box::new(stream),
        Some(tls) => {
            let connector = TlsConnector::from(tls.config());
            Box::new(connector.connect(tls.name(), stream).await?)
        }
    };
    let ended = |error: h2::Error| match error.reason() {
        // A connection that ends is told apart from a stream that is reset only by being later; both are ends.
        Some(_) | None => io::Error::from(io::ErrorKind::UnexpectedEof),
    };
    let (sender, connection) = client::handshake(stream).await.map_err(ended)?;
    let driven = tokio::spawn(connection);
    let mut sender = sender.ready().await.map_err(ended)?;
    let connect = request.protocol.is_some();
    if connect {
        // The server says in its first SETTINGS whether it takes one.
        for _ in 0..50 {
            if sender.is_extended_connect_protocol_enabled() {
                break;
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
    let head = head(request, n)?;
    let open = request.tunnel.is_some();
    let bodiless =
        request.body.is_none() && request.chunks.is_none() && request.trailers.is_empty();
    let (response, mut out) = sender
        .send_request(head, bodiless && !open)
        .map_err(ended)?;
    if !bodiless {
        let chunks = request.chunks.iter().flatten().chain(&request.body);
        let pieces: Vec<&String> = chunks.collect();
        let last = pieces.len();
        for (index, piece) in pieces.into_iter().enumerate() {
            sleep(Duration::from_secs_f64(request.pause)).await;
            let end = index + 1 == last && request.trailers.is_empty();
            let piece = Bytes::from(piece.replace("{n}", n));
            if out.send_data(piece, end).is_err() {
                break;
            }
        }
        if !request.trailers.is_empty() {
            let _answered_already = out.send_trailers(map(&request.trailers));
        }
    }
    let mut response = response;
    let mut interim = Vec::new();
    while let Some(head) = std::future::poll_fn(|cx| response.poll_informational(cx)).await {
        let Ok(head) = head else { break };
        interim.push(format!("HTTP/2 {}", head.status().as_u16()));
    }
    let response = response.await.map_err(ended)?;
    let (head, mut body) = response.into_parts();
    let mut answer = Answer {
        interim,
        line: format!("HTTP/2 {}", head.status.as_u16()),
        headers: fields(&head.headers),
        ..Answer::default()
    };
    let mut tunnel = None;
    if let Some(text) = request.tunnel.as_ref().filter(|_| answer.status() == "200") {
        tunnel = Some(through(&mut out, &mut body, text).await);
    } else {
        (answer.body, answer.trailers, answer.cut) = read(&mut body).await;
    }
    driven.abort();
    Ok((answer, tunnel))
}

/// Sends a text and reads as many bytes back.
async fn through(out: &mut SendStream<Bytes>, body: &mut RecvStream, text: &str) -> Vec<u8> {
    let sent = out.send_data(Bytes::from(text.to_owned()), false);
    let mut back = Vec::new();
    while sent.is_ok() && back.len() < text.len() {
        match body.data().await {
            Some(Ok(piece)) => back.extend_from_slice(&piece),
            _ => break,
        }
    }
    back
}

async fn read(body: &mut RecvStream) -> (Vec<u8>, Fields, bool) {
    let mut bytes = Vec::new();
    while let Some(piece) = body.data().await {
        let Ok(piece) = piece else {
            return (bytes, Fields::new(), true);
        };
        let _window = body.flow_control().release_capacity(piece.len());
        bytes.extend_from_slice(&piece);
    }
    match body.trailers().await {
        Ok(trailers) => (
            bytes,
            trailers.as_ref().map(fields).unwrap_or_default(),
            false,
        ),
        Err(_) => (bytes, Fields::new(), true),
    }
}

fn head(request: &case::Request, n: &str) -> io::Result<Request<()>> {
    let line = request.request.replace("{n}", n);
    let (method, target) = line.split_once(' ').unwrap_or((&line, "/"));
    let host = request.host.as_deref().unwrap_or("oracle.test");
    let scheme = if request.tls.is_some() {
        "https"
    } else {
        "http"
    };
    let method: Method = method.parse().map_err(io::Error::other)?;
    let uri = match (&method, &request.protocol) {
        (&Method::CONNECT, None) => target.to_owned(),
        _ => format!("{scheme}://{host}{target}"),
    };
    let mut head = Request::builder().method(method).uri(uri);
    for (name, value) in &request.headers {
        let values = value
            .as_array()
            .map_or(std::slice::from_ref(value), Vec::as_slice);
        for value in values {
            let value = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            head = head.header(name, value.replace("{n}", n));
        }
    }
    let mut head = head.body(()).map_err(io::Error::other)?;
    if let Some(protocol) = &request.protocol {
        head.extensions_mut()
            .insert(Protocol::from(protocol.as_str()));
    }
    Ok(head)
}

fn fields(headers: &HeaderMap) -> Fields {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), text(value)))
        .collect()
}

fn map(headers: &BTreeMap<String, String>) -> HeaderMap {
    let pair = |(name, value): (&String, &String)| {
        let name = http::HeaderName::try_from(name).expect("a header's name");
        (
            name,
            http::HeaderValue::try_from(value).expect("a header's value"),
        )
    };
    headers.iter().map(pair).collect()
}

/// What an upstream does with a request: logs it, and says what it replies.
pub(crate) type Script = Arc<dyn Fn(Seen) -> Reply + Send + Sync>;

/// An upstream that speaks HTTP/2, until the task is aborted.
pub(crate) async fn serve(
    listener: std::net::TcpListener,
    name: String,
    facts: Arc<Facts>,
    script: Script,
) {
    let listener = net::TcpListener::from_std(listener).expect("a listener");
    while let Ok((stream, peer)) = listener.accept().await {
        let (name, script) = (name.clone(), script.clone());
        let facts = facts.of(peer.port());
        tokio::spawn(async move {
            let mut builder = server::Builder::new();
            builder.enable_connect_protocol();
            let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else {
                return;
            };
            while let Some(Ok((request, respond))) = connection.accept().await {
                let script = script.clone();
                tokio::spawn(stream_of(
                    request,
                    respond,
                    name.clone(),
                    facts.clone(),
                    script,
                ));
            }
        });
    }
}

async fn stream_of(
    request: Request<RecvStream>,
    mut respond: server::SendResponse<Bytes>,
    name: String,
    facts: Vec<(String, String)>,
    script: Script,
) {
    let (head, mut body) = request.into_parts();
    let protocol = head
        .extensions
        .get::<Protocol>()
        .map(|p| p.as_str().to_owned());
    let mut headers = facts;
    headers.extend(fields(&head.headers));
    if let Some(authority) = head.uri.authority() {
        headers.push(("host".to_owned(), authority.to_string()));
    }
    if let Some(protocol) = &protocol {
        headers.push((":protocol".to_owned(), protocol.clone()));
    }
    if let Some(scheme) = head.uri.scheme_str() {
        headers.push((":scheme".to_owned(), scheme.to_owned()));
    }
    let tunnelled = head.method == Method::CONNECT;
    let head_only = head.method == Method::HEAD;
    let (sent, trailers) = match tunnelled {
        true => Default::default(),
        false => {
            let (sent, trailers, _) = read(&mut body).await;
            (sent, trailers)
        }
    };
    let path = head.uri.path_and_query().map_or("", |path| path.as_str());
    let reply = script(Seen {
        upstream: name.clone(),
        line: format!("{} {path} HTTP/2", head.method),
        headers,
        body: sent.clone(),
        trailers,
    });
    sleep(Duration::from_secs_f64(reply.delay)).await;
    if reply.status == Some(0) {
        let code = match reply.then {
            Then::Refuse => h2::Reason::REFUSED_STREAM,
            _ => h2::Reason::INTERNAL_ERROR,
        };
        return respond.send_reset(code);
    }
    for status in &reply.interim {
        let head = Response::builder().status(*status).body(());
        let _gone = respond.send_informational(head.expect("an interim response"));
    }
    let mut head = Response::builder().status(reply.status.unwrap_or(200));
    for (name, value) in &reply.headers {
        head = head.header(name, value);
    }
    let head = head.body(()).expect("a response");
    let text = match head_only {
        true => String::new(),
        false => reply.text(&name, &sent),
    };
    let bodiless = text.is_empty() && reply.trailers.is_empty() && !tunnelled;
    let Ok(mut out) = respond.send_response(head, bodiless) else {
        return;
    };
    if tunnelled {
        while let Some(Ok(piece)) = body.data().await {
            let _window = body.flow_control().release_capacity(piece.len());
            if out.send_data(piece, false).is_err() {
                return;
            }
        }
        let _gone = out.send_data(Bytes::new(), true);
        return;
    }
    // Without a pause the head leaves with what follows it.
    if reply.pause > 0.0 {
        sleep(Duration::from_secs_f64(reply.pause)).await;
    }
    if bodiless {
        return;
    }
    let last = reply.trailers.is_empty();
    if out
        .send_data(Bytes::from(text), last && reply.then != Then::Reset)
        .is_err()
    {
        return;
    }
    if reply.then == Then::Reset {
        // What was sent before must have left.
        sleep(Duration::from_millis(50)).await;
        out.send_reset(h2::Reason::INTERNAL_ERROR);
    } else if !last {
        let _gone = out.send_trailers(map(&reply.trailers));
    }
}

/// Passes on what comes to a Unix socket.
pub(crate) async fn pipe(listener: std::os::unix::net::UnixListener, behind: SocketAddr) {
    let listener = net::UnixListener::from_std(listener).expect("a listener");
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut onward = net::TcpStream::connect(behind).await?;
            copy_bidirectional(&mut stream, &mut onward).await
        });
    }
}

/// Passes on what comes, and what goes back for so long.
pub(crate) async fn mute(listener: std::net::TcpListener, behind: SocketAddr, after: Duration) {
    let listener = net::TcpListener::from_std(listener).expect("a listener");
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut onward = net::TcpStream::connect(behind).await?;
            let (mut from, mut to) = stream.split();
            let (mut back, mut forth) = onward.split();
            let answers = async {
                // Time is up, not what was said.
                let _late = timeout(after, tokio::io::copy(&mut back, &mut to)).await;
                tokio::io::copy(&mut back, &mut tokio::io::sink()).await
            };
            tokio::try_join!(tokio::io::copy(&mut from, &mut forth), answers)
        });
    }
}

/// Ends TLS before an upstream, and keeps what was agreed on for what it sees.
pub(crate) async fn front(
    listener: std::net::TcpListener,
    behind: SocketAddr,
    certificate: String,
    alpn: Vec<String>,
    facts: Arc<Facts>,
) {
    let acceptor = TlsAcceptor::from(Pki::shared().server(&certificate, &alpn));
    let listener = net::TcpListener::from_std(listener).expect("a listener");
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, facts) = (acceptor.clone(), facts.clone());
        tokio::spawn(async move {
            let mut stream = acceptor.accept(stream).await?;
            // What is known must be there before the upstream can ask for it.
            let socket = net::TcpSocket::new_v4()?;
            socket.bind("127.0.0.1:0".parse().map_err(io::Error::other)?)?;
            let (_, connection) = stream.get_ref();
            let shown = connection
                .peer_certificates()
                .and_then(|chain| chain.first());
            let alpn = connection.alpn_protocol().map(String::from_utf8_lossy);
            facts.add(
                socket.local_addr()?.port(),
                vec![
                    (
                        "(sni)".to_owned(),
                        connection.server_name().unwrap_or("-").to_owned(),
                    ),
                    ("(alpn)".to_owned(), alpn.unwrap_or("-".into()).into_owned()),
                    (
                        "(certificate)".to_owned(),
                        shown.map_or("-".to_owned(), |leaf| Pki::shared().name_of(leaf)),
                    ),
                    (
                        "(tls)".to_owned(),
                        format!("{:?}", connection.protocol_version()),
                    ),
                ],
            );
            let mut onward = socket.connect(behind).await?;
            copy_bidirectional(&mut stream, &mut onward).await
        });
    }
}

//! A whole control plane in this process, asked over its real sockets: the API, ADS in both protocols, CreateCertificate.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ripstop_control::api::message::{Applied, Registered, Status, Token};
use ripstop_control::{Options, Running, StartError, start};
use ripstop_identity::tls::{Client as TlsClient, ClientOptions};
use ripstop_identity::token::TokenFile;
use ripstop_identity::{Bundle, Key, Slot, Trust};
use ripstop_model::discovery::{Kind, Resource};
use ripstop_model::seam::{SignError, Signer};
use ripstop_model::snapshot::Name;
use ripstop_model::spiffe::Spiffe;
use ripstop_wire::certificate;
use ripstop_wire::node::Node;
use ripstop_wire::xds::Protocol;
use ripstop_wire::xds::client::Client;
use ripstop_wire::xds::stream::{Channel, Stream, StreamError, channel};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(30);
const USERS: &str = "users.default.svc.cluster.local";

fn loopback() -> Option<SocketAddr> {
    Some("127.0.0.1:0".parse().unwrap())
}

fn options(state: &Path) -> Options {
    Options {
        xds: loopback(),
        xds_tls: loopback(),
        monitoring: loopback(),
        ..Options::new(state)
    }
}

/// One request over the API's socket: status and body.
async fn api(running: &Running, method: &str, path: &str, body: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(running.socket()).await.unwrap();
    ask(&mut stream, method, path, body, "").await
}

async fn ask<S>(stream: &mut S, method: &str, path: &str, body: &str, extra: &str) -> (u16, String)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let kind = if body.starts_with('{') {
        "application/json"
    } else {
        "text/plain"
    };
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: control\r\nconnection: close\r\n{extra}content-type: {kind}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A TLS peer that closes without a goodbye is an error, after everything has come.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    (status, body.to_owned())
}

async fn register(running: &Running, body: serde_json::Value) -> Registered {
    let (status, body) = api(running, "POST", "/v1/workloads", &body.to_string()).await;
    assert_eq!(status, 201, "{body}");
    serde_json::from_str(&body).unwrap()
}

fn users() -> serde_json::Value {
    serde_json::json!({
        "service": "users",
        "ready": true,
        "ports": [{"name": "http", "port": 80, "target_port": 8080}],
    })
}

async fn status(running: &Running) -> Status {
    let (code, body) = api(running, "GET", "/v1/status", "").await;
    assert_eq!(code, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

/// Asks until `fine`.
async fn until<T, F>(mut ask: impl FnMut() -> F, fine: impl Fn(&T) -> bool) -> T
where
    F: Future<Output = T>,
{
    let patience = tokio::time::Instant::now() + PATIENCE;
    loop {
        let now = ask().await;
        if fine(&now) || tokio::time::Instant::now() > patience {
            return now;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A proxy's side of a stream, with what it holds.
struct Proxy {
    client: Client,
    stream: Stream,
    held: BTreeMap<(Kind, Name), Resource>,
    absent: Vec<(Kind, Name)>,
    /// Refuses every resource of this kind, as if it did not know a field.
    refuses: Option<Kind>,
}

impl Proxy {
    async fn open(
        channel: Channel,
        node: Node,
        protocol: Protocol,
        wants: &[(Kind, &str)],
    ) -> Result<Proxy, StreamError> {
        let mut client = Client::new(node, protocol);
        for (kind, name) in wants {
            match *name {
                "*" => client.subscribe_all(*kind),
                name => client.subscribe((*kind, name.into())),
            }
        }
        client.connected();
        let first = client.next_request().unwrap();
        let mut stream = Stream::open(channel, protocol, None, first).await?;
        while let Some(request) = client.next_request() {
            stream.send(request).await?;
        }
        Ok(Proxy {
            client,
            stream,
            held: BTreeMap::new(),
            absent: Vec::new(),
            refuses: None,
        })
    }

    async fn want(&mut self, kind: Kind, name: &str) {
        self.client.subscribe((kind, name.into()));
        self.flush().await;
    }

    async fn flush(&mut self) {
        while let Some(mut request) = self.client.next_request() {
            let refused = self.refuses.map(ripstop_wire::xds::type_url);
            if refused == Some(request.type_url.as_str()) && !request.nonce.is_empty() {
                request.error = Some("filter_chains[0].unknown: not supported".to_owned());
            }
            self.stream.send(request).await.unwrap();
        }
    }

    async fn step(&mut self) -> Result<(), StreamError> {
        let response = timeout(PATIENCE, self.stream.receive())
            .await
            .expect("a response in time")?;
        let update = self.client.receive(response);
        assert!(update.rejected.is_empty(), "{:?}", update.rejected);
        assert!(update.warnings.is_empty(), "{:?}", update.warnings);
        for (name, resource) in update.arrived {
            self.held.insert((resource.kind(), name), resource);
        }
        for key in update.removed {
            self.held.remove(&key);
            self.absent.push(key);
        }
        self.flush().await;
        Ok(())
    }

    async fn until(&mut self, fine: impl Fn(&Proxy) -> bool) {
        while !fine(self) {
            self.step().await.unwrap();
        }
    }

    fn has(&self, kind: Kind, name: &str) -> bool {
        self.held.contains_key(&(kind, name.into()))
    }

    fn endpoints(&self, name: &str) -> usize {
        match self.held.get(&(Kind::Endpoints, name.into())) {
            Some(Resource::Endpoints(endpoints)) => endpoints
                .groups
                .iter()
                .map(|group| group.endpoints.len())
                .sum(),
            _ => 0,
        }
    }
}

fn plain(running: &Running) -> Channel {
    let address = running.listening().xds.unwrap();
    channel("control", move || TcpStream::connect(address))
}

fn node(id: &str, agent: &str) -> Node {
    Node {
        id: id.to_owned(),
        user_agent: agent.to_owned(),
        user_agent_version: "1".to_owned(),
        ..Node::default()
    }
}

#[tokio::test]
async fn a_sidecar_discovers_on_demand_and_follows_changes() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config");
    fs::create_dir(&config).unwrap();
    let running = start(Options {
        sources: vec![config.display().to_string()],
        ..options(&dir.path().join("state"))
    })
    .await
    .unwrap();
    let first = register(&running, users()).await;
    let client = register(
        &running,
        serde_json::json!({"service_account": "web", "workload": "web"}),
    )
    .await;
    let wants = [
        (Kind::Ranges, Kind::RANGES),
        (Kind::Host, USERS),
        (Kind::Host, "nobody.default.svc.cluster.local"),
    ];
    let mut proxy = Proxy::open(
        plain(&running),
        node(&client.node, "ripstop"),
        Protocol::Delta,
        &wants,
    )
    .await
    .unwrap();
    proxy
        .until(|proxy| proxy.has(Kind::Host, USERS) && !proxy.absent.is_empty())
        .await;
    assert_eq!(*proxy.absent[0].1, *"nobody.default.svc.cluster.local");
    let Some(Resource::Host(host)) = proxy.held.get(&(Kind::Host, USERS.into())) else {
        panic!("{:?}", proxy.held.keys());
    };
    let vip = host.vips[0];
    // By address, then the listener and all that it leads to.
    proxy.want(Kind::Host, &format!("ip/{vip}")).await;
    let (listener, route, cluster) = (
        format!("{vip}_80"),
        format!("{USERS}:80"),
        format!("outbound|80||{USERS}"),
    );
    proxy.want(Kind::Listener, &listener).await;
    proxy.want(Kind::Route, &route).await;
    proxy.want(Kind::Cluster, &cluster).await;
    proxy.want(Kind::Endpoints, &cluster).await;
    proxy
        .until(|proxy| {
            proxy.has(Kind::Listener, &listener)
                && proxy.has(Kind::Route, &route)
                && proxy.has(Kind::Cluster, &cluster)
                && proxy.endpoints(&cluster) == 1
                && proxy.has(Kind::Host, &format!("ip/{vip}"))
        })
        .await;
    let before = proxy.held.clone();
    // The fast lane: a second replica changes the endpoints and nothing else.
    let second = register(&running, users()).await;
    assert_eq!(
        (first.id.as_str(), second.id.as_str()),
        ("users-0.default", "users-1.default")
    );
    proxy.until(|proxy| proxy.endpoints(&cluster) == 2).await;
    for kind in [Kind::Listener, Kind::Route, Kind::Cluster] {
        let of = |held: &BTreeMap<(Kind, Name), Resource>| -> Vec<Resource> {
            held.iter()
                .filter(|(key, _)| key.0 == kind)
                .map(|(_, r)| r.clone())
                .collect()
        };
        assert_eq!(of(&before), of(&proxy.held));
    }
    let (code, _) = api(
        &running,
        "PUT",
        &format!("/v1/workloads/{}/health", second.id),
        r#"{"state": "unready"}"#,
    )
    .await;
    assert_eq!(code, 204);
    proxy.until(|proxy| proxy.endpoints(&cluster) == 1).await;
    // A file is put into the folder: the route follows, and its status says that every proxy runs it.
    let rule = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: users}\nspec: {hosts: [users], http: [{timeout: 5s, route: [{destination: {host: users}}]}]}\n";
    fs::write(config.join("users.yaml"), rule).unwrap();
    let timed = |proxy: &Proxy| {
        let Some(Resource::Route(table)) = proxy.held.get(&(Kind::Route, route.as_str().into()))
        else {
            return false;
        };
        format!("{table:?}").contains("timeout: Some(5s)")
    };
    proxy.until(timed).await;
    let judged = until(
        || status(&running),
        |status: &Status| {
            status
                .resources
                .iter()
                .any(|r| r.resource.starts_with("VirtualService") && r.programmed)
        },
    )
    .await;
    let rule = judged
        .resources
        .iter()
        .find(|r| r.resource == "VirtualService/default/users")
        .unwrap();
    assert!(
        rule.programmed && rule.proxies == 1 && rule.proxies_acked == 1,
        "{rule:?}"
    );
    assert_eq!(judged.proxies[0].protocol, "delta");
    assert_eq!(judged.proxies[0].workload.as_deref(), Some("web-0.default"));
    // A broken edit keeps the last good version and says where.
    fs::write(config.join("users.yaml"), "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: users}\nspec: {hosts: [users], htp: []}\n").unwrap();
    let judged = until(
        || status(&running),
        |status: &Status| status.resources.iter().any(|r| r.last_good),
    )
    .await;
    let rule = judged.resources.iter().find(|r| r.last_good).unwrap();
    assert!(
        !rule.accepted && rule.messages[0].contains("unknown field `htp`"),
        "{rule:?}"
    );
    // The folder disappears: a clear error, nothing is lost.
    fs::rename(&config, dir.path().join("away")).unwrap();
    let judged = until(
        || status(&running),
        |status: &Status| status.sources.iter().any(|source| source.error.is_some()),
    )
    .await;
    assert!(
        judged.sources[0]
            .error
            .as_deref()
            .unwrap()
            .contains("stays in force")
    );
    let (_, listed) = api(
        &running,
        "GET",
        "/v1/resources/VirtualService/default/users",
        "",
    )
    .await;
    assert!(listed.contains("VirtualService"), "{listed}");
    running.stop().await;
}

/// A mesh of `count` services with one workload each.
async fn populate(running: &Running, count: usize) {
    for index in 0..count {
        let service = format!("s{index}");
        let body = serde_json::json!({
            "service": service, "ready": true,
            "ports": [{"name": "http", "port": 80, "target_port": 8080}, {"name": "tcp", "port": 9000}],
        });
        register(running, body).await;
    }
}

#[tokio::test]
async fn a_stock_envoy_gets_its_whole_set_in_both_protocols() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(options(dir.path())).await.unwrap();
    populate(&running, 20).await;
    let me = register(&running, users()).await;
    for protocol in [Protocol::Delta, Protocol::Full] {
        let wants = [(Kind::Cluster, "*"), (Kind::Listener, "*")];
        let mut proxy = Proxy::open(plain(&running), node(&me.node, "envoy"), protocol, &wants)
            .await
            .unwrap();
        let count =
            |proxy: &Proxy, kind: Kind| proxy.held.keys().filter(|key| key.0 == kind).count();
        // 20 services of two ports and its own; PassthroughCluster, BlackHoleCluster, InboundPassthroughCluster and inbound|8080||.
        proxy
            .until(|proxy| count(proxy, Kind::Cluster) == 20 * 2 + 1 + 4)
            .await;
        // Two addresses a port; virtualOutbound and virtualInbound.
        proxy
            .until(|proxy| count(proxy, Kind::Listener) == (20 * 2 + 1) * 2 + 2)
            .await;
        for name in ["virtualInbound", "virtualOutbound"] {
            assert!(proxy.has(Kind::Listener, name), "{name}");
        }
        for name in ["PassthroughCluster", "BlackHoleCluster", "inbound|8080||"] {
            assert!(proxy.has(Kind::Cluster, name), "{name}");
        }
        let host = "s7.default.svc.cluster.local";
        proxy.want(Kind::Route, &format!("{host}:80")).await;
        proxy
            .want(Kind::Endpoints, &format!("outbound|80||{host}"))
            .await;
        proxy
            .until(|proxy| {
                proxy.has(Kind::Route, &format!("{host}:80"))
                    && proxy.endpoints(&format!("outbound|80||{host}")) == 1
            })
            .await;
        assert!(
            !proxy
                .held
                .keys()
                .any(|key| matches!(key.0, Kind::Host | Kind::Ranges))
        );
        let judged = until(
            || status(&running),
            |status: &Status| {
                status
                    .proxies
                    .iter()
                    .any(|p| p.acked_revision == status.revision)
            },
        )
        .await;
        let expected = match protocol {
            Protocol::Delta => "delta",
            Protocol::Full => "sotw",
        };
        assert_eq!(
            (judged.proxies.len(), judged.proxies[0].protocol.as_str()),
            (1, expected)
        );
        drop(proxy);
        until(
            || status(&running),
            |status: &Status| status.proxies.is_empty(),
        )
        .await;
    }
    running.stop().await;
}

#[tokio::test]
async fn a_refusal_is_told_on_the_resource_with_its_field_path() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(options(dir.path())).await.unwrap();
    let me = register(&running, users()).await;
    let rule = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: users}\nspec: {hosts: [users], http: [{timeout: 5s, route: [{destination: {host: users}}]}]}\n";
    let (code, body) = api(&running, "PUT", "/v1/resources", rule).await;
    assert_eq!(code, 200, "{body}");
    let applied: Applied = serde_json::from_str(&body).unwrap();
    assert_eq!(applied.applied, ["VirtualService/default/users"]);
    let mut proxy = Proxy::open(
        plain(&running),
        node(&me.node, "ripstop"),
        Protocol::Delta,
        &[(Kind::Host, USERS)],
    )
    .await
    .unwrap();
    proxy.refuses = Some(Kind::Route);
    proxy.want(Kind::Route, &format!("{USERS}:80")).await;
    proxy
        .until(|proxy| proxy.has(Kind::Route, &format!("{USERS}:80")))
        .await;
    let judged = until(
        || status(&running),
        |status: &Status| status.resources.iter().any(|r| !r.rejected.is_empty()),
    )
    .await;
    let rule = judged
        .resources
        .iter()
        .find(|r| r.resource == "VirtualService/default/users")
        .unwrap();
    assert!(!rule.programmed);
    assert_eq!(
        rule.rejected[0].message,
        "filter_chains[0].unknown: not supported"
    );
    assert_eq!(judged.proxies[0].rejected[0].names, [format!("{USERS}:80")]);
    let (code, body) = api(
        &running,
        "DELETE",
        "/v1/resources/virtualservices/default/users",
        "",
    )
    .await;
    assert_eq!(code, 204, "{body}");
    let (code, body) = api(&running, "PUT", "/v1/resources", "kind: Nonsense\n").await;
    assert_eq!(code, 422, "{body}");
    running.stop().await;
}

/// A channel over TLS that trusts the mesh's roots.
fn secure(
    running: &Running,
    registered: &Registered,
    own: Option<Arc<Slot>>,
) -> (Channel, Arc<TlsClient>) {
    let trust = Trust::new(Bundle::from_pem(&registered.trust_domain, &registered.roots).unwrap());
    let options = ClientOptions {
        alpn: vec![b"h2".to_vec()],
        certificate: own,
        ..ClientOptions::mesh(Slot::empty(), trust, Vec::new())
    };
    let tls = Arc::new(TlsClient::new(options).unwrap());
    let address = running.listening().xds_tls.unwrap();
    let shared = tls.clone();
    let connect = move || {
        let config = shared.config().clone();
        async move {
            let stream = TcpStream::connect(address).await?;
            let name = "control".try_into().unwrap();
            tokio_rustls::TlsConnector::from(config)
                .connect(name, stream)
                .await
        }
    };
    (channel("control", connect), tls)
}

async fn certified(running: &Running, registered: &Registered, account: &str) -> Arc<Slot> {
    let identity = Spiffe::new(&registered.trust_domain, &registered.namespace, account).unwrap();
    let key = Key::generate().unwrap();
    let (channel, _) = secure(running, registered, None);
    let chain = certificate::Client::new(channel, Some(registered.credential.clone()))
        .sign(&key.csr(&identity).unwrap(), Duration::from_secs(3600))
        .await
        .unwrap();
    Slot::with(key.certify(&chain).unwrap())
}

#[tokio::test]
async fn credentials_are_good_once_and_certificates_decide_who_a_stream_is() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(options(dir.path())).await.unwrap();
    let me = register(&running, users()).await;
    let other = register(
        &running,
        serde_json::json!({"service": "other", "ready": true, "ports": [{"port": 80}]}),
    )
    .await;
    let slot = certified(&running, &me, "users").await;
    assert_eq!(
        slot.current().unwrap().leaf().principal(),
        "cluster.local/ns/default/sa/users"
    );
    // The credential is spent.
    let key = Key::generate().unwrap();
    let csr = key
        .csr(&Spiffe::new("cluster.local", "default", "users").unwrap())
        .unwrap();
    let (channel, _) = secure(&running, &me, None);
    let again = certificate::Client::new(channel.clone(), Some(me.credential.clone()))
        .sign(&csr, Duration::from_secs(60))
        .await;
    assert!(
        matches!(&again, Err(SignError::Refused(text)) if text.contains("used up")),
        "{again:?}"
    );
    // The certificate renews itself, and nobody else's.
    let (with, _) = secure(&running, &me, Some(slot));
    let renewal = certificate::Client::new(with.clone(), None);
    assert_eq!(
        renewal
            .sign(&csr, Duration::from_secs(60))
            .await
            .unwrap()
            .len(),
        3
    );
    let foreign = key
        .csr(&Spiffe::new("cluster.local", "default", "other").unwrap())
        .unwrap();
    assert!(matches!(
        renewal.sign(&foreign, Duration::from_secs(60)).await,
        Err(SignError::Refused(_))
    ));
    // Streams: without a certificate none, with it the workload's own and no other's.
    let wants = [(Kind::Host, USERS)];
    let nobody = Proxy::open(channel, node(&me.node, "ripstop"), Protocol::Delta, &wants).await;
    let refused = match nobody {
        Ok(mut proxy) => proxy.step().await.unwrap_err(),
        Err(error) => error,
    };
    assert!(refused.to_string().contains("certificate"), "{refused}");
    let mut own = Proxy::open(
        with.clone(),
        node(&me.node, "ripstop"),
        Protocol::Delta,
        &wants,
    )
    .await
    .unwrap();
    own.until(|proxy| proxy.has(Kind::Host, USERS)).await;
    let foreign = Proxy::open(with, node(&other.node, "ripstop"), Protocol::Delta, &wants).await;
    let refused = match foreign {
        Ok(mut proxy) => proxy.step().await.unwrap_err(),
        Err(error) => error,
    };
    assert!(refused.to_string().contains("may not be"), "{refused}");
    assert_eq!(
        status(&running).await.proxies[0].identity,
        "spiffe://cluster.local/ns/default/sa/users"
    );
    running.stop().await;
}

#[tokio::test]
async fn another_host_joins_with_a_token() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(options(dir.path())).await.unwrap();
    let body = r#"{"namespace": "default", "service_account": "users", "service": "users", "ttl_seconds": 600, "uses": 1}"#;
    let (code, body) = api(&running, "POST", "/v1/tokens", body).await;
    assert_eq!(code, 201, "{body}");
    let token: Token = serde_json::from_str(&body).unwrap();
    let file = TokenFile::parse(&token.token).unwrap();
    file.check(SystemTime::now()).unwrap();
    // The joining host knows the root by its fingerprint only; here it is taken from a local registration.
    let local = register(
        &running,
        serde_json::json!({"service_account": "x", "workload": "x"}),
    )
    .await;
    assert_eq!(file.root_sha256.to_string(), local.root_sha256);
    let address = running.listening().xds_tls.unwrap();
    let tls = || {
        let trust = Trust::new(Bundle::from_pem(&local.trust_domain, &local.roots).unwrap());
        let options = ClientOptions {
            alpn: vec![b"http/1.1".to_vec()],
            certificate: None,
            ..ClientOptions::mesh(Slot::empty(), trust, Vec::new())
        };
        tokio_rustls::TlsConnector::from(TlsClient::new(options).unwrap().config().clone())
    };
    let ask_from_afar = async |method: &str, path: &str, body: &str, bearer: &str| {
        let stream = TcpStream::connect(address).await.unwrap();
        let mut stream = tls()
            .connect("control".try_into().unwrap(), stream)
            .await
            .unwrap();
        ask(
            &mut stream,
            method,
            path,
            body,
            &format!("authorization: Bearer {bearer}\r\n"),
        )
        .await
    };
    let mut join = users();
    join["host"] = "far".into();
    join["advertise"] = "192.0.2.7".into();
    let join = join.to_string();
    let (code, body) = ask_from_afar("POST", "/v1/workloads", &join, &file.secret).await;
    assert_eq!(code, 201, "{body}");
    let joined: Registered = serde_json::from_str(&body).unwrap();
    assert!(
        joined
            .inbound
            .iter()
            .any(|inbound| inbound.address.ip().to_string() == "192.0.2.7")
    );
    // The token is used up; what it was exchanged for speaks for this workload, and for nothing else.
    let (code, body) = ask_from_afar("POST", "/v1/workloads", &join, &file.secret).await;
    assert_eq!(code, 401, "{body}");
    let rejoin = joined.rejoin.clone().unwrap();
    let health = format!("/v1/workloads/{}/health", joined.id);
    let (code, body) = ask_from_afar("PUT", &health, r#"{"state": "draining"}"#, &rejoin).await;
    assert_eq!(code, 204, "{body}");
    let (code, _) = ask_from_afar(
        "PUT",
        &format!("/v1/workloads/{}/health", local.id),
        r#"{"state": "ready"}"#,
        &rejoin,
    )
    .await;
    assert_eq!(code, 403);
    let (code, _) = ask_from_afar("GET", "/v1/status", "", &rejoin).await;
    assert_eq!(code, 404, "the owner's routes are not served here");
    let (code, _) = ask_from_afar(
        "DELETE",
        &format!("/v1/workloads/{}", joined.id),
        "",
        &rejoin,
    )
    .await;
    assert_eq!(code, 204);
    running.stop().await;
}

#[tokio::test]
async fn a_restart_remembers_addresses_members_resources_and_the_root() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(options(dir.path())).await.unwrap();
    let first = register(&running, users()).await;
    let entry = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: api}\nspec: {hosts: [api.example], ports: [{number: 80, name: http}], resolution: DNS}\n";
    let (code, body) = api(&running, "PUT", "/v1/resources", entry).await;
    assert_eq!(code, 200, "{body}");
    let (_, before) = api(&running, "GET", "/v1/services", "").await;
    running.stop().await;
    let running = start(options(dir.path())).await.unwrap();
    let (_, after) = api(&running, "GET", "/v1/services", "").await;
    assert_eq!(before, after);
    let again = register(&running, serde_json::json!({"service": "users", "replica": 0, "ports": [{"name": "http", "port": 80, "target_port": 8080}]})).await;
    assert_eq!(
        (again.addresses, again.id, again.root_sha256),
        (first.addresses, first.id, first.root_sha256)
    );
    running.stop().await;
}

#[tokio::test]
async fn what_cannot_start_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let wide = Options {
        xds: Some("0.0.0.0:0".parse().unwrap()),
        ..Options::new(dir.path().join("a"))
    };
    assert!(matches!(start(wide).await, Err(StartError::NotLoopback(_))));
    let running = start(options(&dir.path().join("b"))).await.unwrap();
    let taken = Options {
        xds: running.listening().xds,
        ..Options::new(dir.path().join("c"))
    };
    let error = start(taken).await.err().unwrap().to_string();
    assert!(error.contains("choose another port"), "{error}");
    let same = Options::new(dir.path().join("b"));
    let error = start(same).await.err().unwrap().to_string();
    assert!(error.contains("in use by another control plane"), "{error}");
    running.stop().await;
    let state = dir.path().join("b").join("state.redb");
    fs::write(&state, b"garbage").unwrap();
    let error = start(Options::new(dir.path().join("b")))
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("state.redb") && error.contains("move it away"),
        "{error}"
    );
    assert_eq!(fs::read(&state).unwrap(), b"garbage");
    let unknown = Options {
        sources: vec!["k8s://cluster".to_owned()],
        ..Options::new(dir.path().join("d"))
    };
    let error = start(unknown).await.err().unwrap().to_string();
    assert!(error.contains("k8s://"), "{error}");
}

#[tokio::test]
async fn monitoring_answers() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(options(dir.path())).await.unwrap();
    register(&running, users()).await;
    let address = running.monitoring().unwrap();
    let get = async |path: &str| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        ask(&mut stream, "GET", path, "", "").await
    };
    assert_eq!(get("/ready").await, (200, "ready\n".to_owned()));
    let (_, metrics) = get("/metrics").await;
    assert!(metrics.contains("ripstop_workloads_ready 1"), "{metrics}");
    running.stop().await;
}

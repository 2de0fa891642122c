//! A stock Envoy over ADS: everything by name, nothing rejected, removals and changes taken; both protocols.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use ripstop_model::discovery::{Kind, Resource};
use ripstop_model::snapshot::http::HttpFilter;
use ripstop_model::snapshot::listener::Terminal;
use ripstop_model::snapshot::tls::{Pem, Roots, Secret, SecretBody, Validation};
use ripstop_model::snapshot::{Listener, Name};
use ripstop_testkit::envoy::Envoy;
use ripstop_testkit::{port, wait};
use ripstop_wire::node::Node;
use ripstop_wire::resource::{Encoded, encode};
use ripstop_wire::sds;
use ripstop_wire::xds::server::{Event, View};
use ripstop_wire::xds::service::{Caller, Plane, Proxy, Refusal, service};
use tokio::sync::{oneshot, watch};

use super::models;

type World = BTreeMap<(Kind, Name), Encoded>;

/// What the acknowledgements said, by kind.
#[derive(Default)]
struct Verdicts {
    acknowledged: BTreeSet<(Kind, Name)>,
    rejected: Vec<String>,
}

struct Control {
    world: watch::Receiver<Arc<World>>,
    verdicts: Arc<Mutex<Verdicts>>,
}

struct Connected {
    world: watch::Receiver<Arc<World>>,
    verdicts: Arc<Mutex<Verdicts>>,
}

impl Plane for Control {
    type Proxy = Connected;

    fn connect(&self, _: Caller, node: Node) -> Result<Connected, Refusal> {
        assert_eq!(node.id, "test");
        assert_eq!(node.user_agent, "envoy");
        Ok(Connected {
            world: self.world.clone(),
            verdicts: Arc::clone(&self.verdicts),
        })
    }
}

impl View for Connected {
    fn resource(&mut self, kind: Kind, name: &Name) -> Option<Encoded> {
        self.world.borrow().get(&(kind, name.clone())).cloned()
    }

    fn names(&mut self, kind: Kind) -> Vec<Name> {
        let world = self.world.borrow();
        let of_kind = world.keys().filter(|(k, _)| *k == kind);
        of_kind.map(|(_, name)| name.clone()).collect()
    }
}

impl Proxy for Connected {
    fn event(&mut self, event: Event) {
        let mut verdicts = self.verdicts.lock().unwrap();
        match event {
            Event::Acknowledged { kind, resources } => verdicts
                .acknowledged
                .extend(resources.into_iter().map(|(name, _)| (kind, name))),
            Event::Rejected { message, .. } => verdicts.rejected.push(message),
            _ => {}
        }
    }

    async fn changed(&mut self) {
        if self.world.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

fn listeners(first_port: &port::Port, last_port: &port::Port) -> Vec<Listener> {
    let mut listeners = models::listeners();
    listeners[0].address = first_port.addr();
    listeners[2].address = last_port.addr();
    // Over ADS an Envoy without Istio's filter passes over it.
    let chain = Arc::make_mut(&mut listeners[1].chains[0]);
    if let Terminal::Http(http) = &mut chain.terminal {
        Arc::make_mut(http)
            .filters
            .insert(0, HttpFilter::PeerMetadata);
    }
    listeners
}

fn world(listeners: Vec<Listener>) -> World {
    let mut all: Vec<Resource> = Vec::new();
    for cluster in models::clusters() {
        if let Some(name) = cluster.endpoints() {
            all.push(Resource::Endpoints(models::endpoints(name)));
        }
        all.push(Resource::Cluster(Arc::new(cluster)));
    }
    all.extend(
        listeners
            .into_iter()
            .map(|l| Resource::Listener(Arc::new(l))),
    );
    all.push(Resource::Route(Arc::new(models::routes())));
    all.iter()
        .map(|r| ((r.kind(), r.name()), encode(r)))
        .collect()
}

fn secrets() -> sds::Secrets {
    let signed = rcgen::generate_simple_self_signed(vec!["orders".to_owned()]).unwrap();
    let chain = Pem::Inline(signed.cert.pem().into_bytes());
    let roots = Validation {
        roots: Roots::Bundle(chain.clone()),
        sans: Vec::new(),
        host_name: false,
        certificate_hashes: Vec::new(),
        spki_hashes: Vec::new(),
        accept_untrusted: false,
    };
    let key = Pem::Inline(signed.signing_key.serialize_pem().into_bytes());
    let all = [
        ("default", SecretBody::Certificate { chain, key }),
        ("ROOTCA", SecretBody::Validation(roots)),
    ];
    let all = all.map(|(name, body)| {
        let name: Name = name.into();
        (name.clone(), Arc::new(Secret { name, body }))
    });
    watch::channel(Arc::new(BTreeMap::from(all))).1
}

fn bootstrap(admin: SocketAddr, control: SocketAddr, agent: &str, api_type: &str) -> String {
    let grpc = |name: &str, address: serde_json::Value| {
        serde_json::json!({
            "name": name, "connect_timeout": "1s",
            "typed_extension_protocol_options": {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                    "explicit_http_config": {"http2_protocol_options": {}}}},
            "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [
                {"endpoint": {"address": address}}]}]},
        })
    };
    let socket = |at: SocketAddr| serde_json::json!({"socket_address": {"address": at.ip(), "port_value": at.port()}});
    serde_json::json!({
        "node": {"id": "test", "cluster": "test"},
        "admin": {"address": socket(admin)},
        "static_resources": {"clusters": [
            grpc("sds-grpc", serde_json::json!({"pipe": {"path": agent}})),
            grpc("xds-grpc", socket(control)),
        ]},
        "dynamic_resources": {
            "ads_config": {"api_type": api_type, "transport_api_version": "V3",
                "set_node_on_first_message_only": true,
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds-grpc"}}]},
            "lds_config": {"ads": {}, "resource_api_version": "V3"},
            "cds_config": {"ads": {}, "resource_api_version": "V3"},
        },
    })
    .to_string()
}

/// Serves ADS and SDS on a thread of their own until `stop`.
fn serve(
    control: Control,
    socket: PathBuf,
    stop: oneshot::Receiver<()>,
) -> (SocketAddr, std::thread::JoinHandle<()>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async move {
            let agent = tokio::net::UnixListener::bind(&socket).unwrap();
            tokio::spawn(sds::serve(agent, secrets(), std::future::pending()));
            let incoming = tokio_stream::wrappers::TcpListenerStream::new(
                tokio::net::TcpListener::from_std(listener).unwrap(),
            );
            let server =
                tonic::transport::Server::builder().add_service(service(Arc::new(control)));
            tokio::select! {
                ended = server.serve_with_incoming(incoming) => ended.unwrap(),
                _ = stop => {}
            }
        });
    });
    (address, thread)
}

fn follows(api_type: &str) {
    let (first_port, last_port) = (port::reserve(), port::reserve());
    let mut wanted = world(listeners(&first_port, &last_port));
    let (change, held) = watch::channel(Arc::new(wanted.clone()));
    let verdicts = Arc::new(Mutex::new(Verdicts::default()));
    let control = Control {
        world: held,
        verdicts: Arc::clone(&verdicts),
    };
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let (stop, stopped) = oneshot::channel();
    let (address, server) = serve(control, socket.clone(), stopped);
    let port = port::reserve();
    let text = bootstrap(port.addr(), address, socket.to_str().unwrap(), api_type);
    let envoy = Envoy::start(&text, port.addr());

    let mut missing = Vec::new();
    wait::within(wait::GENEROUS, || {
        let verdicts = verdicts.lock().unwrap();
        let all = wanted
            .keys()
            .filter(|key| !verdicts.acknowledged.contains(*key));
        missing = all.cloned().collect();
        (missing.is_empty() || !verdicts.rejected.is_empty()).then_some(())
    });
    let rejected = std::mem::take(&mut verdicts.lock().unwrap().rejected);
    assert_eq!(rejected, Vec::<String>::new(), "{api_type}");
    assert_eq!(missing, vec![], "{api_type}: never acknowledged");
    for stat in ["cluster_manager.cds", "listener_manager.lds"] {
        assert_eq!(
            envoy.stat(&format!("{stat}.update_rejected")),
            Some(0),
            "{api_type}"
        );
    }
    // Not /config_dump: Envoy cannot print the filter it passed over.
    let holds = |name: &str| {
        let entry = format!("{name}::");
        let starts = |page: String| page.lines().any(|line| line.starts_with(&entry));
        starts(envoy.admin("/clusters")) || starts(envoy.admin("/listeners"))
    };
    for (kind, name) in wanted.keys() {
        if *kind == Kind::Cluster || *kind == Kind::Listener {
            assert!(holds(name), "{api_type}: {kind:?} {name}");
        }
    }

    // What is gone from the control plane goes from Envoy.
    wanted.remove(&(Kind::Cluster, "maglev".into()));
    wanted.remove(&(Kind::Listener, "virtual_outbound".into()));
    change.send(Arc::new(wanted)).unwrap();
    let gone = wait::within(wait::GENEROUS, || {
        (!holds("maglev") && !holds("virtual_outbound")).then_some(())
    });
    assert!(gone.is_some(), "{api_type}: removed resources stay");
    assert_eq!(verdicts.lock().unwrap().rejected, Vec::<String>::new());
    drop(envoy);
    let _ = stop.send(());
    server.join().unwrap();
}

#[test]
fn delta() {
    follows("DELTA_GRPC");
}

#[test]
fn state_of_the_world() {
    follows("GRPC");
}

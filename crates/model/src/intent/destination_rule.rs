//! `DestinationRule` (networking.istio.io): what happens to traffic once a destination is chosen, as typed.

use std::collections::BTreeMap;
use std::time::Duration;

use super::selection::{PortSelector, WorkloadSelector};
use crate::schema::{record, token};

record! {
    pub struct DestinationRule {
        host: String,
        traffic_policy: Option<TrafficPolicy>,
        subsets: Vec<Subset>,
        export_to: Vec<String>,
        /// Clients of the rule's own namespace; unset is every client.
        workload_selector: Option<WorkloadSelector>,
    }
}

record! {
    pub struct Subset {
        name: String,
        labels: BTreeMap<String, String>,
        /// Overrides the rule's policy block by block.
        traffic_policy: Option<TrafficPolicy>,
    }
}

record! {
    #[derive(Default)]
    pub struct TrafficPolicy {
        load_balancer: Option<LoadBalancer>,
        connection_pool: Option<ConnectionPool>,
        outlier_detection: Option<OutlierDetection>,
        tls: Option<ClientTls>,
        /// A block for a port replaces the whole policy for that port; nothing is inherited.
        port_level_settings: Vec<PortTrafficPolicy>,
        retry_budget: Option<RetryBudget>,
    }
    ignored {
        "proxyProtocol": "the upstream gets no PROXY protocol header",
    }
    refused {
        "tunnel": "connect to the proxy directly: without the tunnel the traffic would take another way",
    }
}

record! {
    pub struct PortTrafficPolicy {
        port: PortSelector,
        load_balancer: Option<LoadBalancer>,
        connection_pool: Option<ConnectionPool>,
        outlier_detection: Option<OutlierDetection>,
        tls: Option<ClientTls>,
    }
}

record! {
    #[derive(Eq, Default)]
    pub struct LoadBalancer {
        simple: Option<SimpleLb>,
    }
    ignored {
        "consistentHash": "requests are balanced by least request",
        "localityLbSetting": "localities are not preferred",
        "zoneAwareLbSetting": "zones are not preferred",
        "warmup": "new endpoints get their full share at once",
        "warmupDurationSecs": "new endpoints get their full share at once",
    }
    exclusive { "simple" | "consistentHash", "localityLbSetting" | "zoneAwareLbSetting" }
}

token! {
    pub enum SimpleLb {
        /// Least request.
        Unspecified = "UNSPECIFIED",
        /// Deprecated name of least request.
        LeastConn = "LEAST_CONN",
        Random = "RANDOM",
        /// To the address the client asked for.
        Passthrough = "PASSTHROUGH",
        RoundRobin = "ROUND_ROBIN",
        LeastRequest = "LEAST_REQUEST",
        /// ripstop's own: the least of latency times requests under way.
        PeakEwma = "PEAK_EWMA",
    }
}

record! {
    #[derive(Default)]
    pub struct RetryBudget {
        /// Of the active and pending requests; unset is 20.
        percent: Option<f64>,
        /// Allowed whatever the percentage; unset is 3.
        min_retry_concurrency: Option<u32>,
    }
    ignored { "budgetInterval": "the budget counts the requests that are active or pending now" }
}

record! {
    #[derive(Eq, Default)]
    pub struct ConnectionPool {
        tcp: Option<TcpPool>,
        http: Option<HttpPool>,
    }
}

record! {
    #[derive(Eq, Default)]
    pub struct TcpPool {
        /// 0 counts as unset, as everywhere among Istio's plain integers.
        max_connections: Option<i32>,
        connect_timeout: Option<Duration>,
        tcp_keepalive: Option<TcpKeepalive>,
        max_connection_duration: Option<Duration>,
        idle_timeout: Option<Duration>,
    }
}

record! {
    #[derive(Eq, Default)]
    pub struct TcpKeepalive {
        probes: Option<u32>,
        time: Option<Duration>,
        interval: Option<Duration>,
    }
}

record! {
    #[derive(Eq, Default)]
    pub struct HttpPool {
        http1_max_pending_requests: Option<i32>,
        /// For HTTP/1.1 as well.
        http2_max_requests: Option<i32>,
        /// 0 is unlimited, 1 is no keep-alive.
        max_requests_per_connection: Option<i32>,
        /// Retries at the same time.
        max_retries: Option<i32>,
        idle_timeout: Option<Duration>,
        h2_upgrade_policy: Option<H2UpgradePolicy>,
        use_client_protocol: Option<bool>,
        max_concurrent_streams: Option<i32>,
    }
    ignored { "http2KeepAlive": "HTTP/2 connections to the upstream are not pinged" }
}

token! {
    pub enum H2UpgradePolicy {
        Default = "DEFAULT",
        DoNotUpgrade = "DO_NOT_UPGRADE",
        Upgrade = "UPGRADE",
    }
}

record! {
    /// Passive health: endpoints that fail are ejected for a while.
    #[derive(Eq, Default)]
    pub struct OutlierDetection {
        /// 0 switches it off; unset is 5.
        consecutive5xx_errors as "consecutive5xxErrors": Option<u32>,
        /// 502, 503 and 504; unset is off.
        consecutive_gateway_errors: Option<u32>,
        split_external_local_origin_errors: Option<bool>,
        /// Only when split; unset is 5.
        consecutive_local_origin_failures: Option<u32>,
        interval: Option<Duration>,
        base_ejection_time: Option<Duration>,
        max_ejection_percent: Option<i32>,
        min_health_percent: Option<i32>,
    }
    ignored {
        "consecutiveErrors": "use consecutive5xxErrors or consecutiveGatewayErrors",
        "outlierDetectionHttpErrorCodes": "every 5xx counts as an error, nothing else",
    }
}

record! {
    #[derive(Eq)]
    pub struct ClientTls {
        mode: TlsMode,
        /// Files of the client; for MUTUAL.
        client_certificate: Option<String>,
        private_key: Option<String>,
        /// Unset is the operating system's bundle.
        ca_certificates: Option<String>,
        subject_alt_names: Vec<String>,
        sni: Option<String>,
        insecure_skip_verify: Option<bool>,
    }
    refused {
        "credentialName": "name files with clientCertificate, privateKey and caCertificates",
        "caCrl": "remove it: revocation lists are not checked, and ignoring one would accept revoked certificates",
    }
}

token! {
    pub enum TlsMode {
        Disable = "DISABLE",
        Simple = "SIMPLE",
        Mutual = "MUTUAL",
        IstioMutual = "ISTIO_MUTUAL",
    }
}

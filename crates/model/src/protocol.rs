//! The application protocol of a port, from Istio's port naming rules (`http-web`, `tcp`, `grpc`) or `appProtocol`.

use serde::{Deserialize, Serialize};

#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Not declared: detected per connection.
    #[default]
    Auto,
    Http,
    Http2,
    Grpc,
    #[serde(rename = "grpc-web")]
    GrpcWeb,
    /// HTTP inside TLS that the mesh does not terminate: routed by SNI.
    Https,
    Tls,
    Tcp,
    Udp,
    Mongo,
    Mysql,
    Redis,
}

impl Protocol {
    /// Reads a protocol or a port name with Istio's rule: the part before the first `-`, any case. What is not recognised is [`Protocol::Auto`].
    pub fn of_port_name(name: &str) -> Protocol {
        let lower = name.to_ascii_lowercase();
        if lower == "grpc-web" || lower.starts_with("grpc-web-") {
            return Protocol::GrpcWeb;
        }
        Protocol::named(lower.split('-').next().unwrap_or_default()).unwrap_or_default()
    }

    /// An exact protocol token (`ServicePort.protocol`, `appProtocol`), any case.
    pub fn named(token: &str) -> Option<Protocol> {
        Some(match token.to_ascii_lowercase().as_str() {
            "http" | "kubernetes.io/ws" => Protocol::Http,
            "http2" | "h2c" | "kubernetes.io/h2c" => Protocol::Http2,
            "grpc" => Protocol::Grpc,
            "grpc-web" => Protocol::GrpcWeb,
            "https" => Protocol::Https,
            "tls" => Protocol::Tls,
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "mongo" => Protocol::Mongo,
            "mysql" => Protocol::Mysql,
            "redis" => Protocol::Redis,
            _ => return None,
        })
    }

    /// The token that [`Protocol::named`] reads; `auto` has none there.
    pub fn token(self) -> &'static str {
        match self {
            Protocol::Auto => "auto",
            Protocol::Http => "http",
            Protocol::Http2 => "http2",
            Protocol::Grpc => "grpc",
            Protocol::GrpcWeb => "grpc-web",
            Protocol::Https => "https",
            Protocol::Tls => "tls",
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Mongo => "mongo",
            Protocol::Mysql => "mysql",
            Protocol::Redis => "redis",
        }
    }

    /// Served as HTTP without looking at the bytes.
    pub fn is_http(self) -> bool {
        matches!(
            self,
            Protocol::Http | Protocol::Http2 | Protocol::Grpc | Protocol::GrpcWeb
        )
    }

    /// Spoken to the upstream as HTTP/2.
    pub fn is_http2(self) -> bool {
        matches!(self, Protocol::Http2 | Protocol::Grpc)
    }

    /// Routed by SNI.
    pub fn is_tls(self) -> bool {
        matches!(self, Protocol::Https | Protocol::Tls)
    }

    /// Opaque: forwarded byte by byte.
    pub fn is_opaque(self) -> bool {
        matches!(
            self,
            Protocol::Tcp | Protocol::Mongo | Protocol::Mysql | Protocol::Redis
        )
    }
}

#[cfg(test)]
mod tests {
    use super::Protocol;

    #[test]
    fn port_names_follow_istio() {
        for (name, want) in [
            ("http", Protocol::Http),
            ("HTTP-web", Protocol::Http),
            ("grpc-web-x", Protocol::GrpcWeb),
            ("grpc", Protocol::Grpc),
            ("http2-a", Protocol::Http2),
            ("tcp-db", Protocol::Tcp),
            ("web", Protocol::Auto),
            ("httpx", Protocol::Auto),
            ("", Protocol::Auto),
        ] {
            assert_eq!(Protocol::of_port_name(name), want, "{name}");
        }
    }
}

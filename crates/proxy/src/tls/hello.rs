//! The first bytes of a connection → its TLS ClientHello's server name and protocols, without terminating (RFC 8446
//! section 4.1.2, RFC 6066 section 3, RFC 7301 section 3.1).
//!
//! Stateless: given all bytes so far each time. The hello may be spread over any number of records.

/// A hello longer than this is not read (Envoy's `tls_inspector` has the same limit).
pub const MOST: usize = 16 * 1024;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;

/// What a ClientHello says in the clear.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// Lower case.
    pub server_name: Option<String>,
    /// In the client's order of preference. Tokens that are not text are left out.
    pub alpn: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sniff {
    /// Could become a ClientHello.
    Partial,
    Hello(ClientHello),
    /// The bytes are no TLS.
    NotTls,
    /// It began as TLS, and is broken or too long: not to be taken for anything else.
    Malformed,
}

/// Reads the bytes a client has sent so far.
pub fn sniff(bytes: &[u8]) -> Sniff {
    match bytes {
        [] | [HANDSHAKE] | [HANDSHAKE, 3] => return Sniff::Partial,
        [HANDSHAKE, 3, minor, ..] if *minor <= 4 => {}
        _ => return Sniff::NotTls,
    }
    let Some(message) = join(bytes) else {
        return Sniff::Malformed;
    };
    let partial = match bytes.len() >= MOST {
        true => Sniff::Malformed,
        false => Sniff::Partial,
    };
    let mut reader = Reader(&message);
    match reader.byte() {
        None => return partial,
        Some(CLIENT_HELLO) => {}
        Some(_) => return Sniff::Malformed,
    }
    match reader.length(3) {
        None => partial,
        Some(length) if length > MOST => Sniff::Malformed,
        Some(length) => match reader.take(length) {
            None => partial,
            Some(body) => client_hello(body).map_or(Sniff::Malformed, Sniff::Hello),
        },
    }
}

/// The handshake bytes of the records so far, up to the one that makes the hello whole: what follows it must not matter, or
/// the verdict would hang on how the bytes happened to arrive. `None` if a record is not what may come first.
fn join(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut message = Vec::with_capacity(bytes.len());
    let mut reader = Reader(bytes);
    while !is_whole(&message)
        && let Some(kind) = reader.byte()
    {
        if kind != HANDSHAKE {
            return None;
        }
        let (Some(_version), Some(length)) = (reader.take(2), reader.length(2)) else {
            break;
        };
        if length == 0 || length > MOST {
            return None;
        }
        match reader.take(length) {
            Some(fragment) => message.extend_from_slice(fragment),
            None => {
                message.extend_from_slice(reader.0);
                break;
            }
        }
    }
    Some(message)
}

fn is_whole(message: &[u8]) -> bool {
    let mut reader = Reader(message);
    let length = reader.byte().and_then(|_| reader.length(3));
    length.is_some_and(|length| reader.0.len() >= length)
}

fn client_hello(body: &[u8]) -> Option<ClientHello> {
    let mut reader = Reader(body);
    let _version_and_random = reader.take(2 + 32)?;
    let _session = reader.block(1)?;
    let _ciphers = reader.block(2)?;
    let _compression = reader.block(1)?;
    let mut hello = ClientHello::default();
    if reader.0.is_empty() {
        return Some(hello);
    }
    let mut extensions = Reader(reader.block(2)?);
    while !extensions.0.is_empty() {
        let kind = u16::try_from(extensions.length(2)?).ok()?;
        let content = extensions.block(2)?;
        match kind {
            SERVER_NAME => hello.server_name = server_name(content)?,
            ALPN => hello.alpn = protocols(content)?,
            _ => {}
        }
    }
    Some(hello)
}

/// Outer `None`: malformed.
fn server_name(content: &[u8]) -> Option<Option<String>> {
    let mut names = Reader(Reader(content).block(2)?);
    while !names.0.is_empty() {
        let kind = names.byte()?;
        let name = names.block(2)?;
        if kind == 0 {
            let name = std::str::from_utf8(name).ok()?;
            let name = name.strip_suffix('.').unwrap_or(name);
            let plain = name.bytes().all(|byte| byte.is_ascii_graphic());
            return (plain && !name.is_empty()).then(|| Some(name.to_ascii_lowercase()));
        }
    }
    Some(None)
}

fn protocols(content: &[u8]) -> Option<Vec<String>> {
    let mut list = Reader(Reader(content).block(2)?);
    let mut found = Vec::new();
    while !list.0.is_empty() {
        let token = list.block(1)?;
        if token.is_empty() {
            return None;
        }
        if let Ok(token) = std::str::from_utf8(token) {
            found.push(token.to_owned());
        }
    }
    Some(found)
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    /// A big-endian number of `width` bytes.
    fn length(&mut self, width: usize) -> Option<usize> {
        let bytes = self.take(width)?;
        Some(
            bytes
                .iter()
                .fold(0, |sum, byte| sum << 8 | usize::from(*byte)),
        )
    }

    /// A length of `width` bytes and as many bytes.
    fn block(&mut self, width: usize) -> Option<&'a [u8]> {
        let length = self.length(width)?;
        self.take(length)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use rustls::pki_types::ServerName;

    use super::*;

    /// The first flight of a real client.
    fn hello(name: &str, alpn: &[&str]) -> Vec<u8> {
        let provider = ripstop_identity::tls::provider().clone();
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|token| token.as_bytes().to_vec()).collect();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let mut out = Vec::new();
        client.write_tls(&mut out).unwrap();
        out
    }

    fn said(server_name: Option<&str>, alpn: &[&str]) -> Sniff {
        Sniff::Hello(ClientHello {
            server_name: server_name.map(str::to_owned),
            alpn: alpn.iter().map(|token| (*token).to_owned()).collect(),
        })
    }

    /// The same handshake bytes in records of `size`.
    fn fragmented(hello: &[u8], size: usize) -> Vec<u8> {
        let mut out = Vec::new();
        for part in hello[5..].chunks(size) {
            out.extend_from_slice(&[22, 3, 1]);
            out.extend_from_slice(&(part.len() as u16).to_be_bytes());
            out.extend_from_slice(part);
        }
        out
    }

    #[test]
    fn names_and_protocols_of_a_real_client() {
        let istio = "outbound_.80_.v1_.orders.default.svc.cluster.local";
        for (name, alpn) in [
            ("Orders.Example", &["h2", "http/1.1"][..]),
            (istio, &["istio-peer-exchange", "istio"]),
            ("plain.example", &[]),
        ] {
            let bytes = hello(name, alpn);
            let lower = name.to_ascii_lowercase();
            assert_eq!(sniff(&bytes), said(Some(&lower), alpn));
            for cut in 0..bytes.len() {
                assert_eq!(sniff(&bytes[..cut]), Sniff::Partial, "{cut}");
            }
            for follows in [
                &b"\x14\x03\x03\x00\x01\x01"[..],
                b"\x16\x03\x03\x00\x00",
                b"\x16\x03",
            ] {
                let more = [&bytes, follows].concat();
                assert_eq!(sniff(&more), said(Some(&lower), alpn));
            }
        }
        assert_eq!(sniff(&hello("127.0.0.1", &["h2"])), said(None, &["h2"]));
    }

    #[test]
    fn a_hello_in_pieces_is_the_same_hello() {
        let bytes = hello("a.example", &["istio-h2"]);
        for size in [1, 2, 3, 100] {
            assert_eq!(
                sniff(&fragmented(&bytes, size)),
                said(Some("a.example"), &["istio-h2"]),
                "{size}"
            );
        }
    }

    #[test]
    fn what_is_not_a_hello() {
        for bytes in [
            &b"GET / HTTP/1.1"[..],
            b"\x16\x02",
            b"\x00",
            b"\x16\x03\x09",
        ] {
            assert_eq!(sniff(bytes), Sniff::NotTls, "{bytes:?}");
        }
        // Another handshake message, an empty record, a length beyond all reason.
        for bytes in [
            &b"\x16\x03\x01\x00\x04\x02\x00\x00\x00"[..],
            b"\x16\x03\x01\x00\x00",
            b"\x16\x03\x01\x00\x04\x01\xff\xff\xff",
        ] {
            assert_eq!(sniff(bytes), Sniff::Malformed, "{bytes:?}");
        }
        // Announces more than the limit and keeps sending.
        let mut endless = b"\x16\x03\x01\x40\x00\x01\x00\x40\x00".to_vec();
        endless.resize(MOST, 0);
        assert_eq!(sniff(&endless), Sniff::Malformed);
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            sniff(&bytes);
        }

        #[test]
        fn a_changed_hello_never_panics(at in 0usize..1000, byte in any::<u8>()) {
            let mut bytes = hello("a.example", &["h2"]);
            let at = at % bytes.len();
            bytes[at] = byte;
            sniff(&bytes);
        }
    }
}

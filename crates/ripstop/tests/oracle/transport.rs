//! How a request says that it travels → a connection to the proxy: from which address, after which bytes, inside which TLS.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use serde::Deserialize;
use socket2::{Domain, Socket, Type};

use super::pki::Pki;

/// No answer takes longer; a program that stays silent is told apart from one that closes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tls {
    /// None is sent if not given.
    #[serde(default)]
    pub(crate) sni: Option<String>,
    #[serde(default)]
    pub(crate) alpn: Vec<String>,
    /// The certificate that is shown (`pki.rs`).
    #[serde(default)]
    pub(crate) cert: Option<String>,
    /// `1.2` or `1.3`; both if not given.
    #[serde(default)]
    pub(crate) version: Option<String>,
}

impl Tls {
    pub(crate) fn config(&self) -> Arc<rustls::ClientConfig> {
        let versions = match self.version.as_deref() {
            Some("1.2") => vec![&rustls::version::TLS12],
            Some("1.3") => vec![&rustls::version::TLS13],
            _ => vec![&rustls::version::TLS12, &rustls::version::TLS13],
        };
        let config = Pki::shared().client(self.cert.as_deref(), &self.alpn, &versions);
        if self.sni.is_some() {
            return config;
        }
        let mut config = (*config).clone();
        config.enable_sni = false;
        Arc::new(config)
    }

    /// The name that the server must prove: that of the certificate `server` where no other is asked for.
    pub(crate) fn name(&self) -> ServerName<'static> {
        let name = self.sni.clone().unwrap_or_else(|| "oracle.test".to_owned());
        ServerName::try_from(name).expect("a server's name")
    }
}

/// A connection, plain or inside TLS; clones share it.
#[derive(Clone)]
pub(crate) enum Wire {
    Plain(Arc<TcpStream>),
    Tls(Arc<Mutex<StreamOwned<ClientConnection, TcpStream>>>),
}

/// Connects, and writes what comes before the first byte of TLS or HTTP.
pub(crate) fn connect(
    to: SocketAddr,
    from: Option<IpAddr>,
    preamble: Option<&str>,
) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    if let Some(from) = from {
        socket.bind(&SocketAddr::new(from, 0).into())?;
    }
    socket.connect_timeout(&to.into(), PATIENCE)?;
    let mut stream: TcpStream = socket.into();
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    if let Some(preamble) = preamble {
        stream.write_all(preamble.as_bytes())?;
    }
    Ok(stream)
}

impl Wire {
    pub(crate) fn over(stream: TcpStream, tls: Option<&Tls>) -> io::Result<Wire> {
        let Some(tls) = tls else {
            return Ok(Wire::Plain(Arc::new(stream)));
        };
        let connection = ClientConnection::new(tls.config(), tls.name());
        let connection = connection.map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(connection, stream);
        while stream.conn.is_handshaking() {
            let (read, written) = stream.conn.complete_io(&mut stream.sock)?;
            if read + written == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(Wire::Tls(Arc::new(Mutex::new(stream))))
    }

    /// How long a read may take.
    pub(crate) fn patience(&self, limit: Duration) -> io::Result<()> {
        match self {
            Wire::Plain(stream) => stream.set_read_timeout(Some(limit)),
            Wire::Tls(stream) => {
                let stream = stream.lock().unwrap_or_else(PoisonError::into_inner);
                stream.sock.set_read_timeout(Some(limit))
            }
        }
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Wire::Plain(stream) => (&**stream).read(buffer),
            Wire::Tls(stream) => {
                let read = stream
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .read(buffer);
                match read {
                    // An end without close_notify is an end.
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
                    // A handshake that the other side refused after we thought it done (TLS 1.3).
                    Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                        Err(io::ErrorKind::ConnectionReset.into())
                    }
                    other => other,
                }
            }
        }
    }
}

impl Write for Wire {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Wire::Plain(stream) => (&**stream).write(buffer),
            Wire::Tls(stream) => stream
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Wire::Plain(stream) => (&**stream).flush(),
            Wire::Tls(stream) => stream
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .flush(),
        }
    }
}

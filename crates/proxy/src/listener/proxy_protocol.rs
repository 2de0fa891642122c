//! The first bytes of a connection in → who its client is and what it wanted, as a proxy before us says it in the PROXY
//! protocol, version 1 or 2 (HAProxy's `doc/proxy-protocol.txt`, section 2).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt};

/// Of version 2.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The longest line of version 1 (section 2.1).
const LINE: usize = 107;
/// The most that version 2 may say; its own limit of 64 KiB is more than anybody needs before a first request.
const MOST: u16 = 4096;

/// What the header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    pub source: SocketAddr,
    pub destination: SocketAddr,
}

/// Reads the header and not a byte more. `None`: the proxy speaks for itself, or does not know (LOCAL, UNKNOWN).
pub async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Option<Told>> {
    let mut start = [0u8; 12];
    stream.read_exact(&mut start).await?;
    if start == *SIGNATURE {
        return binary(stream).await;
    }
    if !start.starts_with(b"PROXY ") {
        return Err(malformed());
    }
    let mut line = start.to_vec();
    while !line.ends_with(b"\r\n") {
        if line.len() >= LINE {
            return Err(malformed());
        }
        line.push(stream.read_u8().await?);
    }
    text(&line).ok_or_else(malformed)
}

fn malformed() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "not a header of the PROXY protocol",
    )
}

/// Outer `None`: malformed.
fn text(line: &[u8]) -> Option<Option<Told>> {
    let line = std::str::from_utf8(line).ok()?.strip_suffix("\r\n")?;
    let mut words = line.split(' ').skip(1);
    let family = words.next()?;
    if family == "UNKNOWN" {
        return Some(None);
    }
    let (source, destination): (IpAddr, IpAddr) = match family {
        "TCP4" => (
            words.next()?.parse::<Ipv4Addr>().ok()?.into(),
            words.next()?.parse::<Ipv4Addr>().ok()?.into(),
        ),
        "TCP6" => (
            words.next()?.parse::<Ipv6Addr>().ok()?.into(),
            words.next()?.parse::<Ipv6Addr>().ok()?.into(),
        ),
        _ => return None,
    };
    let (from, to) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    words.next().is_none().then_some(Some(Told {
        source: SocketAddr::new(source, from),
        destination: SocketAddr::new(destination, to),
    }))
}

async fn binary<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Option<Told>> {
    let (command, family) = (stream.read_u8().await?, stream.read_u8().await?);
    let length = stream.read_u16().await?;
    if length > MOST || command >> 4 != 2 {
        return Err(malformed());
    }
    let mut rest = vec![0; usize::from(length)];
    stream.read_exact(&mut rest).await?;
    match command & 0xf {
        0 => return Ok(None),
        1 => {}
        _ => return Err(malformed()),
    }
    // What follows the addresses (TLVs) decides nothing here.
    let mut rest = rest.as_slice();
    match family {
        0x11 => {
            let source = IpAddr::from(rest.read_u32().await?.to_be_bytes());
            let destination = IpAddr::from(rest.read_u32().await?.to_be_bytes());
            Ok(Some(with_ports(source, destination, rest).await?))
        }
        0x21 => {
            let source = IpAddr::from(rest.read_u128().await?.to_be_bytes());
            let destination = IpAddr::from(rest.read_u128().await?.to_be_bytes());
            Ok(Some(with_ports(source, destination, rest).await?))
        }
        _ => Ok(None),
    }
}

async fn with_ports(source: IpAddr, destination: IpAddr, mut rest: &[u8]) -> io::Result<Told> {
    Ok(Told {
        source: SocketAddr::new(source, rest.read_u16().await?),
        destination: SocketAddr::new(destination, rest.read_u16().await?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(bytes: &[u8]) -> (Result<Option<Told>, io::ErrorKind>, usize) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let mut rest = bytes;
        let read = runtime.block_on(read(&mut rest));
        (read.map_err(|error| error.kind()), rest.len())
    }

    fn addresses(source: &str, destination: &str) -> Option<Told> {
        Some(Told {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
        })
    }

    #[test]
    fn lines_are_read_to_their_end_and_no_further() {
        let v4 = addresses("10.1.2.3:1000", "10.0.0.1:80");
        assert_eq!(
            told(b"PROXY TCP4 10.1.2.3 10.0.0.1 1000 80\r\nGET /"),
            (Ok(v4), 5)
        );
        let v6 = addresses("[2001:db8::1]:1000", "[2001:db8::2]:80");
        assert_eq!(
            told(b"PROXY TCP6 2001:db8::1 2001:db8::2 1000 80\r\n"),
            (Ok(v6), 0)
        );
        assert_eq!(told(b"PROXY UNKNOWN\r\nx"), (Ok(None), 1));
        assert_eq!(told(b"PROXY UNKNOWN ff::1 ff::2 1 2\r\n"), (Ok(None), 0));
    }

    #[test]
    fn binary_headers_with_and_without_more() {
        let header = |command: u8, family: u8, body: &[u8]| {
            let mut bytes = SIGNATURE.to_vec();
            bytes.extend([command, family]);
            bytes.extend((body.len() as u16).to_be_bytes());
            bytes.extend(body);
            bytes.extend(b"rest");
            bytes
        };
        let v4 = addresses("10.1.2.3:1000", "10.0.0.1:80");
        let body = [10, 1, 2, 3, 10, 0, 0, 1, 0x03, 0xe8, 0, 80, 4, 0, 1, 9];
        assert_eq!(told(&header(0x21, 0x11, &body)), (Ok(v4), 4));
        assert_eq!(told(&header(0x20, 0, &[])), (Ok(None), 4));
        for wrong in [header(0x11, 0x11, &body), header(0x22, 0x11, &body)] {
            assert_eq!(told(&wrong).0, Err(io::ErrorKind::InvalidData));
        }
        assert!(told(&header(0x21, 0x11, &body[..9])).0.is_err());
        assert!(told(&header(0x21, 0x11, &[0; 5000])).0.is_err());
    }

    #[test]
    fn anything_else_is_refused() {
        for bytes in [
            b"GET / HTTP/1.1\r\n\r\n".as_slice(),
            b"PROXY NONSENSE\r\n",
            b"PROXY TCP4 10.1.2.3 10.0.0.1 1000\r\n",
            b"PROXY TCP4 10.1.2.3 10.0.0.1 1000 80 9\r\n",
            b"PROXY TCP4 ::1 ::2 1 2\r\n",
            &[b"PROXY ".as_slice(), &[b'x'; 200]].concat(),
        ] {
            assert_eq!(told(bytes).0, Err(io::ErrorKind::InvalidData));
        }
        assert!(told(b"PROXY").0.is_err());
    }
}

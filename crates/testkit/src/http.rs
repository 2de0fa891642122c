//! Bytes of a request in → a parsed response, over one plain connection: the smallest client that hides nothing.

use crate::upstream::{find, headers, unchunk};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

/// How long a read may take unless [`Client::patience`] says otherwise.
const READ_LIMIT: Duration = Duration::from_secs(20);

#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    /// In their order and their case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// From the status line to the empty line, as received.
    pub head: Vec<u8>,
}

impl Response {
    /// The first header of that name, whatever its case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(header, _)| header.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// One connection.
pub struct Client {
    stream: TcpStream,
    ahead: Vec<u8>,
    /// Methods of the requests sent whose responses are not read: a response to HEAD has no body.
    head_requests: std::collections::VecDeque<bool>,
}

impl Client {
    /// Panics when nothing listens there.
    pub fn connect(addr: SocketAddr) -> Client {
        Client::try_connect(addr)
            .unwrap_or_else(|error| panic!("cannot connect to {addr}: {error}"))
    }

    pub fn try_connect(addr: SocketAddr) -> io::Result<Client> {
        Client::on(TcpStream::connect_timeout(&addr, READ_LIMIT)?)
    }

    /// On a connection that is there.
    pub fn on(stream: TcpStream) -> io::Result<Client> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(READ_LIMIT))?;
        Ok(Client {
            stream,
            ahead: Vec::new(),
            head_requests: Default::default(),
        })
    }

    /// Changes how long a read may take.
    pub fn patience(&mut self, limit: Duration) {
        self.stream
            .set_read_timeout(Some(limit))
            .expect("a limit above zero");
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.stream.local_addr().expect("a connected socket")
    }

    /// Sends bytes as they are. A failure shows in the next read.
    pub fn send(&mut self, bytes: &[u8]) {
        self.head_requests.push_back(bytes.starts_with(b"HEAD "));
        let _seen_by_the_next_read = self.stream.write_all(bytes);
    }

    /// Ends our half of the connection.
    pub fn finish(&mut self) {
        let _seen_by_the_next_read = self.stream.shutdown(std::net::Shutdown::Write);
    }

    /// Sends a canonical request and reads its response.
    pub fn request(
        &mut self,
        method: &str,
        host: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Response> {
        let mut text = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\n");
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() {
            text.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        text.push_str("\r\n");
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(body);
        self.send(&bytes);
        self.response()
    }

    /// GET, with a panic on any failure of the connection.
    pub fn get(&mut self, host: &str, path: &str) -> Response {
        self.request("GET", host, path, &[], b"")
            .unwrap_or_else(|error| panic!("GET {host}{path}: {error}"))
    }

    /// The next final response; 1xx ones other than 101 are passed over.
    pub fn response(&mut self) -> io::Result<Response> {
        let to_head = self.head_requests.pop_front().unwrap_or(false);
        loop {
            let response = self.any_response(to_head)?;
            if !(100..200).contains(&response.status) || response.status == 101 {
                return Ok(response);
            }
        }
    }

    /// The next response, interim ones included.
    pub fn any_response(&mut self, to_head: bool) -> io::Result<Response> {
        let head_len = self.fill_until(|ahead| find(ahead, b"\r\n\r\n").map(|at| at + 4))?;
        let head: Vec<u8> = self.ahead.drain(..head_len).collect();
        let status = String::from_utf8_lossy(&head)
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no status line"))?;
        let headers = headers(&head);
        let mut response = Response {
            status,
            headers,
            body: Vec::new(),
            head,
        };
        let bodiless = to_head || status < 200 || status == 204 || status == 304;
        if !bodiless {
            response.body = self.body(&response)?;
        }
        Ok(response)
    }

    fn body(&mut self, response: &Response) -> io::Result<Vec<u8>> {
        if response
            .header("transfer-encoding")
            .is_some_and(|value| value.eq_ignore_ascii_case("chunked"))
        {
            let used = self.fill_until(|ahead| unchunk(ahead).map(|(_, used)| used))?;
            let raw: Vec<u8> = self.ahead.drain(..used).collect();
            return Ok(unchunk(&raw).map(|(body, _)| body).unwrap_or_default());
        }
        match response
            .header("content-length")
            .and_then(|value| value.parse::<usize>().ok())
        {
            Some(length) => {
                self.fill_until(|ahead| (ahead.len() >= length).then_some(length))?;
                Ok(self.ahead.drain(..length).collect())
            }
            None => {
                let mut body = std::mem::take(&mut self.ahead);
                self.stream.read_to_end(&mut body)?;
                Ok(body)
            }
        }
    }

    /// Reads exactly so many bytes, for what follows an upgrade.
    pub fn bytes(&mut self, count: usize) -> io::Result<Vec<u8>> {
        self.fill_until(|ahead| (ahead.len() >= count).then_some(count))?;
        Ok(self.ahead.drain(..count).collect())
    }

    /// Has the peer closed, with nothing left to read? Waits for it up to the client's patience.
    pub fn closed(&mut self) -> bool {
        let mut byte = [0];
        self.ahead.is_empty()
            && match self.stream.read(&mut byte) {
                Ok(read) => read == 0,
                Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
            }
    }

    fn fill_until(&mut self, end: impl Fn(&[u8]) -> Option<usize>) -> io::Result<usize> {
        loop {
            if let Some(length) = end(&self.ahead) {
                return Ok(length);
            }
            let mut buffer = [0; 16 * 1024];
            let read = self.stream.read(&mut buffer)?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.ahead.extend_from_slice(&buffer[..read]);
        }
    }
}

/// GET on a connection of its own: `get("127.0.0.1:8080", "reviews", "/7")`.
pub fn get(addr: impl ToSocketAddrs, host: &str, path: &str) -> io::Result<Response> {
    request(addr, "GET", host, path, &[], b"")
}

/// One request on a connection of its own.
pub fn request(
    addr: impl ToSocketAddrs,
    method: &str,
    host: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> io::Result<Response> {
    let addr = addr
        .to_socket_addrs()?
        .next()
        .ok_or(io::ErrorKind::AddrNotAvailable)?;
    Client::try_connect(addr)?.request(method, host, path, headers, body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::{Step, Upstream};

    fn answering(text: &'static str) -> Upstream {
        Upstream::http(move |_| vec![Step::Write(text.into()), Step::Close])
    }

    #[test]
    fn reads_every_framing() {
        for (text, body) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab", "ab"),
            ("HTTP/1.1 200 OK\r\n\r\nuntil the end", "until the end"),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nT: v\r\n\r\n",
                "abc",
            ),
            (
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
                "",
            ),
        ] {
            let upstream = answering(text);
            assert_eq!(get(upstream.addr(), "a", "/").expect(text).text(), body);
        }
    }

    #[test]
    fn a_response_to_head_has_no_body_and_an_early_end_is_an_error() {
        let upstream = answering("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n");
        assert_eq!(
            request(upstream.addr(), "HEAD", "a", "/", &[], b"")
                .expect("a head")
                .body,
            b""
        );
        let error = get(upstream.addr(), "a", "/").expect_err("a short body");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}

use proptest::prelude::*;

use super::super::body::Encoder;
use super::super::{Asked, Framing, Limits, Rules, write};
use super::{body, request, request_with, response_with};

/// Text that looks enough like HTTP to get past the first checks now and then.
fn soup() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(&b"GET / HTTP/1.1\r\n"[..]),
        Just(&b"POST http://a/b HTTP/1.0\r\n"[..]),
        Just(&b"HTTP/1.1 200 OK\r\n"[..]),
        Just(&b"Host: a\r\n"[..]),
        Just(&b"Content-Length: 3\r\n"[..]),
        Just(&b"Transfer-Encoding: chunked\r\n"[..]),
        Just(&b"Connection: x, upgrade\r\n"[..]),
        Just(&b"Upgrade: websocket\r\n"[..]),
        Just(&b"X:y\r\n"[..]),
        Just(&b"\r\n"[..]),
        Just(&b"3\r\nabc\r\n"[..]),
        Just(&b"0\r\n"[..]),
        Just(&b";e"[..]),
        Just(&b" "[..]),
        Just(&b"\r"[..]),
        Just(&b"\n"[..]),
        Just(&b"\0"[..]),
        Just(&b"\xff"[..]),
        Just(&b":"[..]),
    ];
    proptest::collection::vec(piece, 0..16).prop_map(|pieces| pieces.concat())
}

fn token() -> impl Strategy<Value = String> {
    "[A-Za-z][A-Za-z0-9!#$%&'*+.^_`|~-]{0,20}"
}

/// A head as the writer would write it.
fn canonical() -> impl Strategy<Value = String> {
    let value = "([!-~]([ -~]{0,30}[!-~])?)?";
    let fields = proptest::collection::vec((token(), value), 0..12);
    (token(), "(/[a-z]{1,6}){1,4}", "[a-z0-9=&]{0,12}", fields).prop_map(
        |(method, path, query, fields)| {
            let mut head = format!("{method} {path}?{query} HTTP/1.1\r\nHost: a.example\r\n");
            for (name, value) in fields {
                head.push_str(&format!("x{name}: {value}\r\n"));
            }
            head + "\r\n"
        },
    )
}

proptest! {
    #[test]
    fn any_split_gives_the_same(input in soup(), step in 1usize..40) {
        let limits = Limits { max_head_bytes: 128, max_headers: 6 };
        let whole = request_with(&input, usize::MAX / 2, limits, &Rules::default());
        let pieces = request_with(&input, step, limits, &Rules::default());
        match (whole, pieces) {
            (Ok(None), Ok(None)) => {}
            (Err(a), Err(b)) => prop_assert_eq!(a, b),
            (Ok(Some(a)), Ok(Some(b))) => {
                prop_assert_eq!(a.head.headers, b.head.headers);
                prop_assert_eq!(a.body, b.body);
                prop_assert_eq!(a.used, b.used);
                prop_assert_eq!(a.trailers, b.trailers);
            }
            (a, b) => prop_assert!(false, "{} {}", a.is_ok(), b.is_ok()),
        }
    }

    #[test]
    fn any_bytes_are_survived(input in proptest::collection::vec(any::<u8>(), 0..200), step in 1usize..40) {
        let _ = request_with(&input, step, Limits::default(), &Rules::default());
        let _ = response_with(&input, step, Asked::default());
        let _ = body(Framing::Chunked, Limits::default(), &input, step);
    }

    #[test]
    fn responses_survive_the_soup(input in soup(), step in 1usize..40) {
        let whole = response_with(&input, usize::MAX / 2, Asked::default());
        let pieces = response_with(&input, step, Asked::default());
        prop_assert_eq!(whole.err(), pieces.err());
    }

    #[test]
    fn write_after_parse_is_the_identity(input in canonical()) {
        prop_assume!(!input.starts_with("TRACE ") && !input.starts_with("CONNECT "));
        let taken = request(input.as_bytes());
        let taken = taken.map_err(|error| TestCaseError::fail(error.to_string()))?.unwrap();
        let mut out = Vec::new();
        write::request(&taken.head, taken.meaning.framing, None, &mut out);
        prop_assert_eq!(String::from_utf8(out).unwrap(), input);
    }

    /// Whatever is accepted is forwarded in a form that is accepted and means the same, and stays as it is from then on.
    #[test]
    fn what_is_forwarded_is_canonical(input in soup()) {
        if let Ok(Some(taken)) = request(&input) {
            let mut once = Vec::new();
            write::request(&taken.head, taken.meaning.framing, taken.meaning.upgrade, &mut once);
            let mut encoder = Encoder::new(taken.meaning.framing);
            encoder.data(&taken.body, &mut once).unwrap();
            encoder.end(taken.trailers.as_ref(), &mut once).unwrap();
            // An HTTP/1.0 request without Host goes on with an empty one, which only the upstream can judge.
            prop_assume!(!taken.head.authority_sent().is_empty());
            let again = request(&once).map_err(|error| TestCaseError::fail(error.to_string()))?.unwrap();
            prop_assert_eq!(again.used, once.len());
            prop_assert_eq!(&again.body, &taken.body);
            let mut twice = Vec::new();
            write::request(&again.head, again.meaning.framing, again.meaning.upgrade, &mut twice);
            prop_assert!(once.starts_with(&twice));
        }
    }

    #[test]
    fn chunks_carry_any_data(data in proptest::collection::vec(any::<u8>(), 0..3000), sizes in proptest::collection::vec(1usize..900, 1..20), step in 1usize..50) {
        let mut encoder = Encoder::new(Framing::Chunked);
        let mut wire = Vec::new();
        let mut rest = &data[..];
        for size in sizes.iter().cycle() {
            if rest.is_empty() { break; }
            let (piece, tail) = rest.split_at(rest.len().min(*size));
            encoder.data(piece, &mut wire).unwrap();
            rest = tail;
        }
        encoder.end(None, &mut wire).unwrap();
        let (back, trailers, used) = body(Framing::Chunked, Limits::default(), &wire, step).unwrap();
        prop_assert_eq!(back, data);
        prop_assert!(trailers.is_none());
        prop_assert_eq!(used, wire.len());
    }
}

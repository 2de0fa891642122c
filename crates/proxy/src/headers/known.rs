//! Header names the proxy acts on: a name's bytes in, one small enum out, recognised once while the head is parsed.

use super::scan::same_token;

/// Builds the enum, its names and the table of names from one list.
macro_rules! known {
    ($($variant:ident = $name:literal),+ $(,)?) => {
        /// What kind of header a field is. The names are single headers; `B3Multi`, `Envoy` and `Ripstop` are families.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
        #[repr(u8)]
        pub enum Known {
            /// Any name the proxy has no business with.
            #[default]
            Other,
            /// `x-b3-*` (Zipkin's several-header form; `b3` alone is [`Known::B3`]).
            B3Multi,
            /// `x-envoy-*`: Envoy's control headers, never accepted from an untrusted peer.
            Envoy,
            /// `x-ripstop-*`: our own control headers, never accepted from an untrusted peer.
            Ripstop,
            $(#[doc = concat!("`", $name, "`")] $variant,)+
        }

        impl Known {
            /// The lower-case name; empty for `Other` and the families.
            pub const fn name(self) -> &'static str {
                match self {
                    Known::Other | Known::B3Multi | Known::Envoy | Known::Ripstop => "",
                    $(Known::$variant => $name,)+
                }
            }
        }

        const NAMES: &[(&str, Known)] = &[$(($name, Known::$variant),)+];
    };
}

known! {
    Host = "host",
    ContentLength = "content-length",
    TransferEncoding = "transfer-encoding",
    Connection = "connection",
    KeepAlive = "keep-alive",
    ProxyConnection = "proxy-connection",
    Upgrade = "upgrade",
    Http2Settings = "http2-settings",
    Te = "te",
    Trailer = "trailer",
    Expect = "expect",
    ContentType = "content-type",
    ContentEncoding = "content-encoding",
    ContentRange = "content-range",
    UserAgent = "user-agent",
    Authorization = "authorization",
    ProxyAuthorization = "proxy-authorization",
    ProxyAuthenticate = "proxy-authenticate",
    Cookie = "cookie",
    SetCookie = "set-cookie",
    Date = "date",
    Server = "server",
    Location = "location",
    Via = "via",
    Referer = "referer",
    Origin = "origin",
    RetryAfter = "retry-after",
    AccessControlRequestMethod = "access-control-request-method",
    Forwarded = "forwarded",
    XForwardedFor = "x-forwarded-for",
    XForwardedProto = "x-forwarded-proto",
    XForwardedHost = "x-forwarded-host",
    XForwardedPort = "x-forwarded-port",
    XRealIp = "x-real-ip",
    ForwardedClientCert = "x-forwarded-client-cert",
    XRequestId = "x-request-id",
    Traceparent = "traceparent",
    Tracestate = "tracestate",
    Baggage = "baggage",
    B3 = "b3",
    GrpcTimeout = "grpc-timeout",
    GrpcStatus = "grpc-status",
    GrpcMessage = "grpc-message",
    XHttpMethodOverride = "x-http-method-override",
}

/// Slots of the perfect hash: many times the number of names, so that a seed without collisions is soon found.
const SLOT_BITS: u32 = 10;
const SLOTS: usize = 1 << SLOT_BITS;

/// The parts of a name that tell the known names apart (length, first, fourth last and last byte, case folded), mixed by `seed`.
const fn slot(len: usize, first: u8, inner: u8, last: u8, seed: u32) -> usize {
    let key = (len as u32 & 0xff)
        | ((first | 0x20) as u32) << 8
        | ((inner | 0x20) as u32) << 16
        | ((last | 0x20) as u32) << 24;
    (key.wrapping_mul(seed) >> (32 - SLOT_BITS)) as usize
}

/// The first seed without collisions and, per slot, the index into `NAMES` plus one. Found by the compiler; if there
/// is no such seed among the first, that is a compile error.
#[allow(clippy::indexing_slicing, reason = "evaluated by the compiler")]
const TABLE: (u32, [u8; SLOTS]) = {
    let mut seed: u32 = 0x9e37_79b1;
    let mut tries = 0;
    loop {
        let mut slots = [0; SLOTS];
        let mut at = 0;
        while at < NAMES.len() {
            let bytes = NAMES[at].0.as_bytes();
            let (inner, last) = (bytes[bytes.len().saturating_sub(4)], bytes[bytes.len() - 1]);
            let here = slot(bytes.len(), bytes[0], inner, last, seed);
            if slots[here] != 0 {
                break;
            }
            slots[here] = at as u8 + 1;
            at += 1;
        }
        if at == NAMES.len() {
            break (seed, slots);
        }
        seed = seed.wrapping_mul(0x0019_660d).wrapping_add(0x3c6e_f35f) | 1;
        tries += 1;
        assert!(tries < 100, "no seed without collisions: enlarge SLOT_BITS");
    }
};
const SEED: u32 = TABLE.0;
static SLOT_TABLE: [u8; SLOTS] = TABLE.1;

impl Known {
    /// Recognises a name, which must be a token, in any case.
    #[inline]
    pub fn of(name: &[u8]) -> Known {
        let [first, ..] = name else {
            return Known::Other;
        };
        let (Some(inner), Some(last)) = (name.get(name.len().saturating_sub(4)), name.last())
        else {
            return Known::Other;
        };
        let here = slot(name.len(), *first, *inner, *last, SEED);
        if let Some(index @ 1..) = SLOT_TABLE.get(here).copied()
            && let Some((candidate, known)) = NAMES.get(usize::from(index) - 1)
            && same_token(candidate.as_bytes(), name)
        {
            return *known;
        }
        Known::family(name)
    }

    /// The families, which are told by prefix.
    #[inline]
    fn family(name: &[u8]) -> Known {
        let [b'x' | b'X', b'-', third, ..] = name else {
            return Known::Other;
        };
        let starts = |prefix: &[u8]| {
            name.get(..prefix.len())
                .is_some_and(|head| prefix.eq_ignore_ascii_case(head))
        };
        match third | 0x20 {
            b'b' if starts(b"x-b3-") => Known::B3Multi,
            b'e' if starts(b"x-envoy-") => Known::Envoy,
            b'r' if starts(b"x-ripstop-") => Known::Ripstop,
            _ => Known::Other,
        }
    }

    /// One header rather than `Other` or a family.
    #[inline]
    pub const fn is_single(self) -> bool {
        !matches!(
            self,
            Known::Other | Known::B3Multi | Known::Envoy | Known::Ripstop
        )
    }

    /// This kind's bit in a set of kinds.
    #[inline]
    pub(crate) const fn bit(self) -> u64 {
        1 << (self as u8)
    }

    /// The bits of several kinds.
    pub(crate) const fn bits(kinds: &[Known]) -> u64 {
        let mut all = 0;
        let mut rest = kinds;
        while let [first, tail @ ..] = rest {
            all |= first.bit();
            rest = tail;
        }
        all
    }

    /// Headers that belong to one connection and are never forwarded (RFC 9110 section 7.6.1).
    pub const HOP_BY_HOP: u64 = Known::bits(&[
        Known::Connection,
        Known::KeepAlive,
        Known::ProxyConnection,
        Known::TransferEncoding,
        Known::Upgrade,
        Known::Http2Settings,
        Known::Te,
    ]);
}

// A set of kinds is one u64.
const _: () = assert!(NAMES.len() + 4 <= 64);

#[cfg(test)]
mod tests {
    use super::{Known, NAMES};

    #[test]
    fn every_name_is_recognised_in_any_case() {
        for (name, known) in NAMES {
            assert_eq!(Known::of(name.as_bytes()), *known, "{name}");
            assert_eq!(Known::of(name.to_ascii_uppercase().as_bytes()), *known);
            assert_eq!(known.name(), *name);
            assert_eq!(Known::of(format!("{name}x").as_bytes()), Known::Other);
        }
    }

    #[test]
    fn families_and_strangers() {
        for (name, want) in [
            ("X-B3-TraceId", Known::B3Multi),
            ("x-envoy-max-retries", Known::Envoy),
            ("X-Ripstop-Attempt", Known::Ripstop),
            ("x-envoy", Known::Other),
            ("", Known::Other),
            ("a", Known::Other),
            ("x-", Known::Other),
            ("accept", Known::Other),
        ] {
            assert_eq!(Known::of(name.as_bytes()), want, "{name}");
        }
    }
}

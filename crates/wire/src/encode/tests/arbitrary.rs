//! Bytes → models. Driven by bytes so that proptest shrinks them: fewer and smaller bytes make a simpler model.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use ripstop_model::protocol::Protocol as PortProtocol;
use ripstop_model::seam::{HostPort, HostRecord};
use ripstop_model::snapshot::authz::{self, AuthzFilter, Policy, Rule};
use ripstop_model::snapshot::cluster::*;
use ripstop_model::snapshot::endpoint::*;
use ripstop_model::snapshot::fault::{Abort, Delay, Fault};
use ripstop_model::snapshot::header::{Append, Edit, Edits, HeaderEdits};
use ripstop_model::snapshot::http::*;
use ripstop_model::snapshot::listener::*;
use ripstop_model::snapshot::matching::*;
use ripstop_model::snapshot::retry::{Backoff, CONDITIONS, RetryOn, RetryPolicy, RetryScope};
use ripstop_model::snapshot::route::*;
use ripstop_model::snapshot::tls::*;
use ripstop_model::snapshot::{Fraction, Name, Resource};
use ripstop_model::subset::{Fallback, Instead, Selector, Subsets};

/// Chooses one of the expressions.
macro_rules! one_of {
    ($e:ident; $($choice:expr),+ $(,)?) => {{
        let count = [$(stringify!($choice)),+].len();
        let chosen = $e.below(count);
        let mut turns = 0..count;
        'found: {
            $(
                if turns.next() == Some(chosen) { break 'found $choice; }
            )+
            unreachable!()
        }
    }};
}

mod cluster;
mod listener;
mod policy;
mod route;
mod tls;

#[derive(Debug, Clone)]
pub(super) struct Entropy {
    bytes: Vec<u8>,
    at: usize,
}

impl Entropy {
    pub(super) fn new(bytes: Vec<u8>) -> Entropy {
        Entropy { bytes, at: 0 }
    }

    fn byte(&mut self) -> u8 {
        let byte = self.bytes.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        byte
    }

    fn below(&mut self, n: usize) -> usize {
        usize::from(self.byte()) % n
    }

    fn flag(&mut self) -> bool {
        self.byte() % 2 == 1
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes([self.byte(), self.byte(), self.byte(), self.byte()])
    }

    fn optional<T>(&mut self, f: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.flag().then(|| f(self))
    }

    pub(super) fn list<T>(&mut self, max: usize, mut f: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let n = self.below(max + 1);
        (0..n).map(|_| f(self)).collect()
    }

    fn text(&mut self) -> String {
        let alphabet = ["a", "orders", "x-y", "shop.svc", "é%"];
        format!("{}{}", alphabet[self.below(alphabet.len())], self.below(20))
    }

    /// A value with operators.
    fn template(&mut self) -> String {
        let text = self.text().replace('%', "%%");
        one_of!(self; text.clone(), format!("{text}%REQ(x-a?:path):9%"), format!("%PROTOCOL%{text}"))
    }

    fn lower(&mut self) -> String {
        format!("x-{}", self.below(50))
    }

    fn name(&mut self) -> Name {
        self.text().into()
    }

    /// More than zero: zero is how "no limit" travels.
    fn duration(&mut self) -> Duration {
        Duration::new(self.byte().into(), u32::from(self.byte()) * 1_000_000 + 1)
    }

    fn limit(&mut self) -> Option<Duration> {
        self.optional(Self::duration)
    }

    fn fraction(&mut self) -> Fraction {
        Fraction::millionths(self.u32() % 1_000_001)
    }

    fn ip(&mut self) -> IpAddr {
        if self.flag() {
            Ipv6Addr::from(u128::from(self.u32()) << 64 | 1).into()
        } else {
            Ipv4Addr::from(self.u32()).into()
        }
    }

    fn socket(&mut self) -> SocketAddr {
        SocketAddr::new(self.ip(), self.u16())
    }

    pub(super) fn net(&mut self) -> IpNet {
        let length = self.byte() % 33;
        IpNet::new(self.ip(), length).unwrap().trunc()
    }

    fn resource(&mut self) -> Resource {
        Resource {
            kind: ["VirtualService", "DestinationRule"][self.below(2)].into(),
            namespace: self.name(),
            name: self.name(),
            part: one_of!(self; "".into(), "http[0]".into()),
        }
    }

    fn pattern(&mut self) -> Pattern {
        Pattern::new(["/a/.*", "[a-z]+", "x|y"][self.below(3)]).unwrap()
    }

    fn string_match(&mut self) -> StringMatch {
        let (value, ignore_case) = (self.text(), self.flag());
        one_of!(self;
            StringMatch::Exact { value, ignore_case },
            StringMatch::Prefix { value, ignore_case },
            StringMatch::Suffix { value, ignore_case },
            StringMatch::Contains { value, ignore_case },
            StringMatch::Regex(self.pattern()),
        )
    }

    fn header_match(&mut self) -> HeaderMatch {
        HeaderMatch {
            name: self.lower(),
            test: one_of!(self;
                HeaderTest::Present(self.flag()),
                HeaderTest::String(self.string_match()),
                HeaderTest::Range { start: -5, end: self.u16().into() },
            ),
            invert: self.flag(),
            missing_as_empty: self.flag(),
        }
    }

    fn query_match(&mut self) -> QueryMatch {
        QueryMatch {
            name: self.text(),
            test: one_of!(self;
                QueryTest::Present(self.flag()),
                QueryTest::String(self.string_match()),
            ),
        }
    }

    fn edits(&mut self) -> HeaderEdits {
        let mut edits = || Edits {
            remove: self.list(2, Self::lower),
            add: self.list(2, |e| Edit {
                name: e.text(),
                value: e.template(),
                append: one_of!(e; Append::AppendIfExistsOrAdd, Append::AddIfAbsent,
                    Append::OverwriteIfExistsOrAdd, Append::OverwriteIfExists),
                keep_empty: e.flag(),
            }),
        };
        HeaderEdits {
            request: edits(),
            response: edits(),
        }
    }

    fn pairs(&mut self) -> Vec<(String, String)> {
        let map: BTreeMap<String, String> =
            self.list(2, |e| (e.text(), e.text())).into_iter().collect();
        map.into_iter().collect()
    }

    /// Of a route.
    fn criteria(&mut self) -> Option<Arc<BTreeMap<String, String>>> {
        let labels = self.labels();
        (!labels.is_empty()).then(|| Arc::new(labels))
    }

    fn labels(&mut self) -> BTreeMap<String, String> {
        self.pairs().into_iter().collect()
    }

    // Routes.
}

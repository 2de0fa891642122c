//! One query → what to do about it, and the bytes of an answer. No sockets, no clock.
//!
//! Follows RFC 1035 (messages), 2308 (NODATA is not NXDOMAIN), 6761 (`localhost`), 6891 (EDNS0) and 7766 (truncation
//! sends a client to TCP). Negative answers carry no SOA, so that nobody caches that a name does not exist yet.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use ripstop_model::seam::{HostRecord, Lookup};

use super::{HOST, Zone};

/// Seconds that a VIP may be cached: it survives restarts.
const VIP_TTL: u32 = 30;
/// Of addresses that come and go with replicas, and of our own names.
const SHORT_TTL: u32 = 5;
/// What RFC 1035 allows without EDNS, and what we allow with it (the size that passes without fragments).
const PLAIN: usize = 512;
const EXTENDED: u16 = 1232;
const HEADER: usize = 12;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Datagram,
    Stream,
}

#[derive(Debug)]
pub(super) enum Step {
    /// Ask the mesh for [`Question::name`], then see [`Question::answer`].
    Ask(Question),
    /// Send the query outside as it is.
    Forward(Question),
    Answer(Vec<u8>),
    /// An answer that tells of a failure.
    Fail(Vec<u8>),
    Drop,
}

impl Step {
    pub(super) fn into_answer(self) -> Option<Vec<u8>> {
        match self {
            Step::Answer(answer) | Step::Fail(answer) => Some(answer),
            Step::Ask(_) | Step::Forward(_) | Step::Drop => None,
        }
    }
}

/// A query worth answering.
#[derive(Debug)]
pub(super) struct Question {
    header: Metadata,
    query: Query,
    /// The client speaks EDNS and takes datagrams of this size.
    edns: Option<u16>,
    transport: Transport,
    /// What the mesh is asked: the name, lower case, no final dot; or `ip/ADDRESS` for a PTR query.
    name: String,
}

/// Reads a query and answers what needs neither the mesh nor the outside.
pub(super) fn read(bytes: &[u8], zone: &Zone, transport: Transport) -> Step {
    // Not even a header, or not a query: answering would make a reflector, or a loop.
    let (Some(id), Some(flags)) = (bytes.get(..2), bytes.get(2)) else {
        return Step::Drop;
    };
    let id = u16::from_be_bytes([id[0], id[1]]);
    if bytes.len() < HEADER || flags & 0x80 != 0 {
        return Step::Drop;
    }
    let Ok(message) = Message::from_vec(bytes) else {
        let op_code = OpCode::from_u8(flags >> 3 & 0x0f);
        return encoded(Message::error_msg(id, op_code, ResponseCode::FormErr));
    };
    let header = message.metadata;
    if header.op_code != OpCode::Query || header.message_type != MessageType::Query {
        return encoded(Message::error_msg(id, header.op_code, ResponseCode::NotImp));
    }
    let [query] = message.queries.as_slice() else {
        return encoded(Message::error_msg(
            id,
            header.op_code,
            ResponseCode::FormErr,
        ));
    };
    let question = Question {
        header,
        query: query.clone(),
        edns: message.edns.as_ref().map(Edns::max_payload),
        transport,
        name: query
            .name()
            .to_ascii()
            .trim_end_matches('.')
            .to_ascii_lowercase(),
    };
    if message.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        return question.reply(ResponseCode::BADVERS, Vec::new());
    }
    if query.query_class() != DNSClass::IN {
        return Step::Forward(question);
    }
    question.known(zone)
}

impl Question {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Names of our own, and what is never the mesh's.
    fn known(mut self, zone: &Zone) -> Step {
        let name = self.name.as_str();
        if name.is_empty() {
            return Step::Forward(self);
        }
        if name == "localhost" || name.ends_with(".localhost") {
            return self.addresses(&HOST, SHORT_TTL);
        }
        if name == "host.ripstop.internal" && zone.host_ports {
            return self.addresses(&HOST, SHORT_TTL);
        }
        if name == "ripstop.internal" || name.ends_with(".ripstop.internal") {
            return self.reply(ResponseCode::NXDomain, Vec::new());
        }
        if name.eq_ignore_ascii_case(&zone.resolver.hostname) {
            let own: Vec<IpAddr> = zone.addresses.iter().collect();
            return self.addresses(&own, SHORT_TTL);
        }
        if self.query.query_type() == RecordType::PTR {
            let Some(address) = reversed(self.query.name()) else {
                return Step::Forward(self);
            };
            if address.is_loopback() {
                return self.pointer("localhost");
            }
            if zone.addresses.iter().any(|own| own == address) && !zone.resolver.hostname.is_empty()
            {
                let hostname = zone.resolver.hostname.clone();
                return self.pointer(&hostname);
            }
            if !zone.mesh.iter().any(|range| range.contains(&address)) {
                return Step::Forward(self);
            }
            self.name = format!("ip/{address}");
        }
        Step::Ask(self)
    }

    /// What follows from the mesh's knowledge.
    pub(super) fn answer(self, found: &Lookup, zone: &Zone) -> Step {
        match found {
            Lookup::Known(record) if self.query.query_type() == RecordType::PTR => {
                self.pointer(&record.fqdn)
            }
            Lookup::Known(record) => self.record(record, zone),
            // Addresses of the mesh mean nothing outside.
            Lookup::Unknown if self.name.starts_with("ip/") => {
                self.reply(ResponseCode::NXDomain, Vec::new())
            }
            Lookup::Unknown => Step::Forward(self),
            Lookup::Unavailable => self.fail(),
        }
    }

    pub(super) fn fail(&self) -> Step {
        match self.reply(ResponseCode::ServFail, Vec::new()) {
            Step::Answer(answer) => Step::Fail(answer),
            other => other,
        }
    }

    fn record(self, record: &HostRecord, zone: &Zone) -> Step {
        let reachable = |address: &IpAddr| match address {
            IpAddr::V4(_) => zone.addresses.v4.is_some(),
            IpAddr::V6(_) => zone.addresses.v6.is_some(),
        };
        let addresses: Vec<IpAddr> = record
            .addresses()
            .iter()
            .copied()
            .filter(reachable)
            .collect();
        self.addresses(
            &addresses,
            if record.headless { SHORT_TTL } else { VIP_TTL },
        )
    }

    /// The addresses of the type asked for; none is NODATA, for the name exists.
    fn addresses(&self, addresses: &[IpAddr], ttl: u32) -> Step {
        let wanted = self.query.query_type();
        let data = addresses.iter().filter_map(|address| match address {
            IpAddr::V4(v4) if matches!(wanted, RecordType::A | RecordType::ANY) => {
                Some(RData::A(A(*v4)))
            }
            IpAddr::V6(v6) if matches!(wanted, RecordType::AAAA | RecordType::ANY) => {
                Some(RData::AAAA(AAAA(*v6)))
            }
            _ => None,
        });
        let records = data
            .map(|data| Record::from_rdata(self.query.name().clone(), ttl, data))
            .collect();
        self.reply(ResponseCode::NoError, records)
    }

    fn pointer(&self, target: &str) -> Step {
        let Ok(mut target) = Name::from_ascii(target) else {
            return self.fail();
        };
        target.set_fqdn(true);
        let data = RData::PTR(PTR(target));
        self.reply(
            ResponseCode::NoError,
            vec![Record::from_rdata(
                self.query.name().clone(),
                SHORT_TTL,
                data,
            )],
        )
    }

    fn reply(&self, code: ResponseCode, answers: Vec<Record>) -> Step {
        let mut message = Message::response(self.header.id, OpCode::Query);
        message.metadata = Metadata::response_from_request(&self.header);
        message.metadata.recursion_available = true;
        message.metadata.response_code = code;
        message.metadata.authoritative =
            matches!(code, ResponseCode::NoError | ResponseCode::NXDomain);
        // The question as it was asked, its case included: some clients compare it (draft-vixie-dnsext-dns0x20).
        message.add_query(self.query.clone());
        message.add_answers(answers);
        if self.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(EXTENDED).set_version(0);
            edns.set_rcode_high(code.high());
            message.set_edns(edns);
        }
        self.fitted(message)
    }

    /// What fits of an answer, marked truncated if that is not all (RFC 2181, 9): clients go to TCP, but musl before
    /// 1.2.4 never does and takes what it gets.
    fn fitted(&self, mut message: Message) -> Step {
        let room = match (self.transport, self.edns) {
            (Transport::Stream, _) => usize::from(u16::MAX),
            (Transport::Datagram, None) => PLAIN,
            (Transport::Datagram, Some(offered)) => usize::from(offered.min(EXTENDED)).max(PLAIN),
        };
        loop {
            let Ok(bytes) = message.to_vec() else {
                return Step::Drop;
            };
            if bytes.len() <= room {
                return Step::Answer(bytes);
            }
            // Every round drops at least one; records of one answer are about of a size, so few rounds are needed.
            let fitting = message.answers.len() * room / bytes.len();
            message
                .answers
                .truncate(fitting.min(message.answers.len().saturating_sub(1)));
            if message.answers.is_empty() {
                return encoded(message.truncate());
            }
            message.metadata.truncation = true;
        }
    }
}

fn encoded(message: Message) -> Step {
    message.to_vec().map_or(Step::Drop, Step::Answer)
}

/// The address that a PTR query asks about; only whole addresses count.
fn reversed(name: &Name) -> Option<IpAddr> {
    let mut name = name.clone();
    name.set_fqdn(true);
    let net = name.parse_arpa_name().ok()?;
    (net.prefix_len() == net.max_prefix_len()).then(|| net.addr())
}

#[cfg(test)]
mod tests;

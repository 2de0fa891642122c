//! A resource of the model ⇄ the bytes of its message: the one place where xDS types and kinds meet.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use ripstop_model::discovery::{Kind, Resource};
use ripstop_model::seam::HostRecord;
use ripstop_model::snapshot::Name;

use crate::decode::{self, Problem};
use crate::encode;
use crate::xds::host::{encode_host, encode_ranges};

/// A resource as it travels. Cheap to clone.
#[derive(Debug, Clone, PartialEq)]
pub struct Encoded {
    pub name: Name,
    /// Equal for equal content (within one build).
    pub version: Arc<str>,
    pub bytes: Bytes,
}

/// A resource that was understood.
#[derive(Debug)]
pub struct Decoded {
    pub name: Name,
    pub resource: Resource,
    pub warnings: Vec<Warning>,
}

/// A field that was ignored, because ripstop does not support it and ignoring it weakens nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    pub kind: Kind,
    pub name: Name,
    pub path: String,
}

/// A resource that cannot be used, and every reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    pub kind: Kind,
    pub name: Name,
    /// `field.path: what is wrong`.
    pub problems: Vec<String>,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}: {}",
            self.kind.as_str(),
            self.name,
            self.problems.join("; ")
        )
    }
}

/// Reads a resource. In delta the response says its `name` (a host may be asked for by an alias); empty: it is in the message.
pub fn decode(kind: Kind, name: &Name, bytes: &[u8]) -> Result<Decoded, Rejection> {
    match decode::resource(kind, bytes) {
        Ok(decoded) => {
            let resource = decoded.value;
            let name = if name.is_empty() {
                resource.name()
            } else {
                name.clone()
            };
            let warning = |problem: Problem| Warning {
                kind,
                name: name.clone(),
                path: problem.to_string(),
            };
            let warnings = decoded.warnings.into_iter().map(warning).collect();
            Ok(Decoded {
                name,
                resource,
                warnings,
            })
        }
        Err(problems) => {
            let problems = problems.0.iter().map(ToString::to_string).collect();
            Err(Rejection {
                kind,
                name: name.clone(),
                problems,
            })
        }
    }
}

/// Writes a resource under its own name.
pub fn encode(resource: &Resource) -> Encoded {
    let bytes = encode::message(resource);
    Encoded {
        name: resource.name(),
        version: encode::version(resource, &bytes),
        bytes: bytes.into(),
    }
}

/// The version of some bytes.
pub fn version(bytes: &[u8]) -> Arc<str> {
    format!("{:016x}", ripstop_model::hash::xx64(bytes)).into()
}

/// A host under the name it was asked for.
pub fn host(name: Name, host: &HostRecord) -> Encoded {
    encoded(name, encode_host(host))
}

/// The ranges of the mesh.
pub fn ranges(ranges: &[ipnet::IpNet]) -> Encoded {
    encoded(Kind::RANGES.into(), encode_ranges(ranges))
}

fn encoded(name: Name, bytes: Vec<u8>) -> Encoded {
    Encoded {
        name,
        version: version(&bytes),
        bytes: bytes.into(),
    }
}

//! `ServiceEntry` (networking.istio.io): a host that the mesh is told about by hand, as typed.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::workload_entry::WorkloadEntry;
use crate::protocol::Protocol;
use crate::schema::{record, token};

record! {
    #[derive(Default)]
    pub struct ServiceEntry {
        hosts: Vec<String>,
        /// Virtual addresses; empty lets the mesh allocate one for each host.
        addresses: Vec<IpNet>,
        ports: Vec<ServicePort>,
        location: Option<Location>,
        resolution: Option<Resolution>,
        endpoints: Vec<WorkloadEntry>,
        export_to: Vec<String>,
        subject_alt_names: Vec<String>,
    }
    ignored { "workloadSelector": "list the endpoints instead; until then the host has none" }
    exclusive { "endpoints" | "workloadSelector" }
}

record! {
    #[derive(Eq)]
    pub struct ServicePort {
        number: u16,
        name: String,
        /// HTTP, HTTPS, GRPC, HTTP2, MONGO, TCP or TLS; unset goes by the name.
        protocol: Option<String>,
        /// Unset is `number`.
        target_port: Option<u16>,
    }
}

impl ServicePort {
    /// The declared protocol, else what the port's name says.
    pub fn protocol(&self) -> Protocol {
        match &self.protocol {
            Some(protocol) => Protocol::named(protocol).unwrap_or_default(),
            None => Protocol::of_port_name(&self.name),
        }
    }
}

token! {
    pub enum Location {
        MeshExternal = "MESH_EXTERNAL",
        MeshInternal = "MESH_INTERNAL",
    }
}

token! {
    pub enum Resolution {
        /// To the address that the client asked for.
        None = "NONE",
        /// To the endpoints' addresses.
        Static = "STATIC",
        /// To every address of the endpoints' names, or of the host.
        Dns = "DNS",
        /// To the first address; at most one endpoint.
        DnsRoundRobin = "DNS_ROUND_ROBIN",
    }
    refused { "DYNAMIC_DNS": "name each host in a ServiceEntry with `resolution: DNS`" }
}

/// Labels as a resource or an endpoint carries them.
pub type Labels = BTreeMap<String, String>;

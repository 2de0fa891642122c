//! `PeerAuthentication` (security.istio.io): whether plain text is accepted, as typed.

use std::collections::BTreeMap;

use super::selection::WorkloadSelector;
use crate::schema::{record, token};

record! {
    #[derive(Eq, Default)]
    pub struct PeerAuthentication {
        /// Unset is the whole namespace, or the mesh if that is the root namespace.
        selector: Option<WorkloadSelector>,
        mtls: Option<MutualTls>,
        /// By port of the workload, not of the service.
        port_level_mtls: BTreeMap<String, MutualTls>,
    }
}

record! {
    #[derive(Eq, Default)]
    pub struct MutualTls {
        mode: Option<MtlsMode>,
    }
}

token! {
    pub enum MtlsMode {
        /// Whatever the wider scope says.
        Unset = "UNSET",
        Disable = "DISABLE",
        Permissive = "PERMISSIVE",
        Strict = "STRICT",
    }
}

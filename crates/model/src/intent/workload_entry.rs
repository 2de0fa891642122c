//! One endpoint of a ServiceEntry (`WorkloadEntry`, networking.istio.io), as typed.

use std::collections::BTreeMap;

use crate::schema::record;

record! {
    #[derive(Eq, Default)]
    pub struct WorkloadEntry {
        /// An IP address, or a name where the entry resolves by DNS.
        address: String,
        /// Port name to port; beats `targetPort`.
        ports: BTreeMap<String, u16>,
        labels: BTreeMap<String, String>,
        /// `region/zone/subzone`.
        locality: Option<String>,
        weight: Option<u32>,
        /// The identity that the endpoint must prove, in the resource's namespace.
        service_account: Option<String>,
    }
    ignored { "network": "the endpoint is dialled directly" }
}

//! Workloads and services of the configuration → what telemetry says of them, made once and shared.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use ripstop_model::snapshot::cluster::ServiceRef;
use ripstop_model::snapshot::endpoint::Workload;
use ripstop_telemetry::record::{self, Known};

/// What telemetry knows of a workload.
pub fn workload(workload: &Workload, principal: &str) -> Known<record::Workload> {
    Known::new(record::Workload {
        name: workload.name.to_string(),
        namespace: workload.namespace.to_string(),
        principal: principal.to_owned(),
        app: workload.app.to_string(),
        version: workload.version.to_string(),
        cluster: workload.cluster.to_string(),
        canonical_service: workload.canonical_service.to_string(),
        canonical_revision: workload.canonical_revision.to_string(),
    })
}

pub fn service(service: &ServiceRef) -> Known<record::Service> {
    Known::new(record::Service {
        host: service.host.to_string(),
        name: service.name.to_string(),
        namespace: service.namespace.to_string(),
    })
}

/// One worker's labels of endpoints, by the workload they share. Bounded: emptied when it grows past what a proxy uses.
#[derive(Debug, Default)]
pub struct Labels {
    known: RefCell<HashMap<usize, Entry>>,
}

/// Kept with the workload whose address is the key, so that the address cannot come to mean another.
type Entry = (Arc<Workload>, Arc<Known<record::Workload>>);

const MOST: usize = 4096;

impl Labels {
    /// The principal of a mesh endpoint follows from its namespace and service account.
    pub fn of(&self, endpoint: &Arc<Workload>, trust_domain: &str) -> Arc<Known<record::Workload>> {
        let mut known = self.known.borrow_mut();
        if known.len() > MOST {
            known.clear();
        }
        let key = Arc::as_ptr(endpoint).addr();
        let (_, labels) = known.entry(key).or_insert_with(|| {
            let principal = match endpoint.service_account.is_empty() {
                true => String::new(),
                false => format!(
                    "spiffe://{trust_domain}/ns/{}/sa/{}",
                    endpoint.namespace, endpoint.service_account
                ),
            };
            let labels = Arc::new(workload(endpoint, &principal));
            (endpoint.clone(), labels)
        });
        labels.clone()
    }
}

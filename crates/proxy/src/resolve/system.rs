//! The host's own name servers and hosts file, read again when they change: a laptop that moves to another network must
//! not ask the old one.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::LookupIpStrategy;
use ripstop_model::snapshot::cluster::DnsFamily;

use super::{Answer, Failure, Lookup};
use crate::Pending;

/// What the resolver is made from.
const SOURCES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];

/// When each of [`SOURCES`] was last written.
type Stamp = [Option<SystemTime>; 2];

#[derive(Default)]
pub struct System {
    /// One resolver per family, since each asks in its own order.
    made: Mutex<(Stamp, Vec<(DnsFamily, TokioResolver)>)>,
}

impl System {
    fn resolver(&self, family: DnsFamily) -> Result<TokioResolver, String> {
        let stamp = SOURCES.map(|path| Path::new(path).metadata().ok()?.modified().ok());
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if made.0 != stamp {
            *made = (stamp, Vec::new());
        }
        if let Some((_, resolver)) = made.1.iter().find(|(known, _)| *known == family) {
            return Ok(resolver.clone());
        }
        let mut builder = TokioResolver::builder_tokio().map_err(|error| error.to_string())?;
        let options = builder.options_mut();
        options.ip_strategy = match family {
            DnsFamily::Auto => LookupIpStrategy::Ipv6thenIpv4,
            DnsFamily::V4Only => LookupIpStrategy::Ipv4Only,
            DnsFamily::V6Only => LookupIpStrategy::Ipv6Only,
            DnsFamily::V4Preferred => LookupIpStrategy::Ipv4thenIpv6,
            DnsFamily::All => LookupIpStrategy::Ipv4AndIpv6,
        };
        // Who asks here asks because the last answer is over.
        options.cache_size = 0;
        options.try_tcp_on_error = true;
        let resolver = builder.build().map_err(|error| error.to_string())?;
        made.1.push((family, resolver.clone()));
        Ok(resolver)
    }
}

impl Lookup for System {
    fn lookup<'a>(
        &'a self,
        name: &'a str,
        family: DnsFamily,
    ) -> Pending<'a, Result<Answer, Failure>> {
        Box::pin(async move {
            let failure = |reason: String| Failure {
                name: name.to_owned(),
                reason,
            };
            let resolver = self.resolver(family).map_err(failure)?;
            // A name with a dot is meant in full: no search list is tried with it (R16.3).
            let full = name.contains('.') && !name.ends_with('.');
            let asked = if full {
                format!("{name}.")
            } else {
                name.to_owned()
            };
            match resolver.lookup_ip(asked).await {
                Ok(found) => Ok(Answer {
                    addresses: found.iter().collect(),
                    ttl: found
                        .as_lookup()
                        .answers()
                        .iter()
                        .map(|record| Duration::from_secs(record.ttl.into()))
                        .min(),
                }),
                Err(error) if error.is_no_records_found() => Ok(Answer {
                    addresses: Vec::new(),
                    ttl: None,
                }),
                Err(error) => Err(failure(error.to_string())),
            }
        })
    }
}

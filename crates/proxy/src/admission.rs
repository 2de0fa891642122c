//! Connections that arrive → those that are served: never more at once than the process, or one client address, is granted.
//!
//! Who is refused is closed as soon as the connection was accepted, as by Envoy's `global_downstream_max_connections`:
//! in the backlog it would wait for nothing.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Downstream connections that may be open at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Most {
    pub all: usize,
    /// From one address; `None`: as many as there are.
    pub of_address: Option<usize>,
}

impl Most {
    pub const UNLIMITED: Most = Most {
        all: usize::MAX,
        of_address: None,
    };

    /// What a process with this many descriptors can serve: each connection may need another one upstream, and some are
    /// kept for listeners, the admin interface and the control plane.
    pub fn of_descriptors(limit: u64) -> Most {
        let left = limit.saturating_sub(KEPT) / 2;
        Most {
            all: usize::try_from(left).unwrap_or(usize::MAX).max(1),
            of_address: None,
        }
    }
}

/// Descriptors that are no connection's.
const KEPT: u64 = 64;
/// Of refusals nobody needs to be told more often.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// Which limit a connection met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Full {
    #[error(
        "{0} connections are open: raise `ulimit -n`, --max-connections or global_downstream_max_connections"
    )]
    All(usize),
    #[error("its address has {0} connections open: raise --max-connections-per-address")]
    OfAddress(usize),
}

#[derive(Debug)]
pub(crate) struct Admission {
    most: Most,
    open: AtomicUsize,
    /// Locked to accept and to close, where addresses are counted at all.
    by_address: Mutex<HashMap<IpAddr, usize>>,
    /// Milliseconds since the start, of the last refusal that was told.
    told: AtomicU64,
}

/// One connection's place; given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    admission: Arc<Admission>,
    counted: Option<IpAddr>,
}

impl Admission {
    pub(crate) fn new(most: Most) -> Arc<Admission> {
        Arc::new(Admission {
            most,
            open: AtomicUsize::new(0),
            by_address: Mutex::default(),
            told: AtomicU64::new(0),
        })
    }

    /// `peer` in its canonical form.
    pub(crate) fn admit(self: &Arc<Admission>, peer: IpAddr) -> Result<Place, Full> {
        let place = Place {
            admission: self.clone(),
            counted: self.most.of_address.map(|_| peer),
        };
        // From here on dropping the place undoes what was counted.
        let before = self.open.fetch_add(1, Ordering::Relaxed);
        let of_address = match place.counted {
            Some(peer) => {
                let mut counts = self.counts();
                let count = counts.entry(peer).or_default();
                *count += 1;
                *count - 1
            }
            None => 0,
        };
        if before >= self.most.all {
            return Err(Full::All(before));
        }
        match self.most.of_address {
            Some(most) if of_address >= most => Err(Full::OfAddress(of_address)),
            _ => Ok(place),
        }
    }

    /// Whether a refusal at this time since the start is worth a line in the log.
    pub(crate) fn is_news(&self, uptime: Duration) -> bool {
        let now = u64::try_from(uptime.as_millis())
            .unwrap_or(u64::MAX)
            .saturating_add(1);
        let every = u64::try_from(TOLD_EVERY.as_millis()).unwrap_or(u64::MAX);
        self.told
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |last| {
                (last == 0 || now.saturating_sub(last) >= every).then_some(now)
            })
            .is_ok()
    }

    fn counts(&self) -> std::sync::MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.by_address
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.admission.open.fetch_sub(1, Ordering::Relaxed);
        let Some(peer) = self.counted else {
            return;
        };
        let mut counts = self.admission.counts();
        if let Some(count) = counts.get_mut(&peer) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([127, 0, 0, last])
    }

    #[test]
    fn places_are_given_back() {
        let admission = Admission::new(Most {
            all: 3,
            of_address: Some(2),
        });
        let first = admission.admit(ip(1)).unwrap();
        let _second = admission.admit(ip(1)).unwrap();
        assert_eq!(admission.admit(ip(1)).unwrap_err(), Full::OfAddress(2));
        let third = admission.admit(ip(2)).unwrap();
        assert_eq!(admission.admit(ip(3)).unwrap_err(), Full::All(3));
        drop(third);
        assert_eq!(admission.counts().len(), 1);
        drop(first);
        let _again = admission.admit(ip(1)).unwrap();
        let _other = admission.admit(ip(2)).unwrap();
        assert_eq!(admission.open.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn descriptors_bound_connections() {
        assert_eq!(Most::of_descriptors(1024).all, 480);
        assert_eq!(Most::of_descriptors(0).all, 1);
        let admission = Admission::new(Most::of_descriptors(1024));
        let places: Vec<_> = (0..480).map(|_| admission.admit(ip(1)).unwrap()).collect();
        assert!(admission.counts().is_empty());
        assert_eq!(admission.admit(ip(1)).unwrap_err(), Full::All(480));
        drop(places);
        assert!(admission.admit(ip(1)).is_ok());
    }

    #[test]
    fn refusals_are_told_now_and_then() {
        let admission = Admission::new(Most::UNLIMITED);
        let at = Duration::from_millis;
        let told = [0, 1, 9_999, 10_001, 10_002, 60_000].map(|ms| admission.is_news(at(ms)));
        assert_eq!(told, [true, false, false, true, false, true]);
    }
}

//! Request + hash policies → the key of a consistent-hash balancer (Envoy's `RouteAction.HashPolicy`, xxHash64).

use std::net::IpAddr;
use std::time::Duration;

use twox_hash::XxHash64;

use crate::request::RequestView;
use crate::snapshot::route::{HashPolicy, HashSource};

/// A key, and the cookie that must be set on the response when one was generated.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Key {
    pub hash: Option<u64>,
    pub cookie: Option<NewCookie>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewCookie {
    pub name: String,
    pub value: String,
    pub path: String,
    pub ttl: Duration,
    pub attributes: Vec<(String, String)>,
}

/// xxHash64 with seed 0, as Envoy hashes keys and hosts.
pub fn xx64(bytes: &[u8]) -> u64 {
    XxHash64::oneshot(0, bytes)
}

/// xxHash64 with another seed (Maglev needs two independent hashes).
pub fn xx64_seeded(bytes: &[u8], seed: u64) -> u64 {
    XxHash64::oneshot(seed, bytes)
}

/// Combines the values the policies find: rotate left by one, exclusive or. `draw` becomes the value of a generated cookie.
pub fn key<R: RequestView + ?Sized>(
    policies: &[HashPolicy],
    request: &R,
    source: Option<IpAddr>,
    draw: u64,
) -> Key {
    let mut key = Key::default();
    for policy in policies {
        let found = match &policy.source {
            HashSource::Header(name) => header(request, name),
            HashSource::SourceIp => source.map(|ip| xx64(ip.to_string().as_bytes())),
            HashSource::Query(name) => {
                query_value(request.query(), name).map(|value| xx64(value.as_bytes()))
            }
            HashSource::Cookie {
                name,
                path,
                ttl,
                attributes,
            } => match cookie_value(request, name) {
                Some(value) => Some(xx64(value.as_bytes())),
                None => ttl.map(|ttl| {
                    let value = format!("{draw:016x}");
                    let hash = xx64(value.as_bytes());
                    key.cookie = Some(NewCookie {
                        name: name.clone(),
                        value,
                        path: path.clone(),
                        ttl,
                        attributes: attributes.clone(),
                    });
                    hash
                }),
            },
        };
        if let Some(found) = found {
            key.hash = Some(key.hash.map_or(found, |hash| hash.rotate_left(1) ^ found));
            if policy.terminal {
                break;
            }
        }
    }
    key
}

/// Several values, in sorted order, each hashed with the hash of those before as the seed (Envoy's `HeaderHashMethod`).
fn header<R: RequestView + ?Sized>(request: &R, name: &str) -> Option<u64> {
    let values = std::cell::RefCell::new(Vec::new());
    request.any_field(name, &|value| {
        values.borrow_mut().push(value.to_owned());
        false
    })?;
    let mut values = values.into_inner();
    values.sort_unstable();
    let chained = values
        .iter()
        .fold(0, |seed, value| xx64_seeded(value.as_bytes(), seed));
    Some(chained)
}

fn query_value<'a>(query: Option<&'a str>, name: &str) -> Option<&'a str> {
    query?
        .split('&')
        .find_map(|pair| match pair.split_once('=') {
            Some((n, value)) if n == name => Some(value),
            None if pair == name => Some(""),
            _ => None,
        })
}

/// The first cookie of that name; quotes around the value are dropped (RFC 6265 section 4.1.1).
fn cookie_value<R: RequestView + ?Sized>(request: &R, name: &str) -> Option<String> {
    // HTTP/2 may split cookies over several fields, which the view joins with commas.
    request
        .header("cookie")?
        .split([';', ','])
        .find_map(|pair| {
            let (n, value) = pair.trim().split_once('=')?;
            (n == name).then(|| value.trim_matches('"').to_owned())
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::tests::Fixture;

    fn policy(source: HashSource, terminal: bool) -> HashPolicy {
        HashPolicy { source, terminal }
    }

    #[test]
    fn keys() {
        let request = Fixture::get("h", "/?u=7")
            .with("x-user", "ann")
            .with("cookie", "a=1; sid=\"zz\"");
        let header = policy(HashSource::Header("x-user".into()), false);
        let query = policy(HashSource::Query("u".into()), false);
        let cookie = |name: &str, ttl| {
            policy(
                HashSource::Cookie {
                    name: name.into(),
                    path: "/".into(),
                    ttl,
                    attributes: Vec::new(),
                },
                false,
            )
        };
        let hash = |policies: &[HashPolicy]| key(policies, &request, None, 9).hash;
        assert_eq!(hash(std::slice::from_ref(&header)), Some(xx64(b"ann")));
        assert_eq!(
            hash(&[header.clone(), query.clone()]),
            Some(xx64(b"ann").rotate_left(1) ^ xx64(b"7"))
        );
        assert_eq!(
            hash(&[policy(header.source.clone(), true), query]),
            Some(xx64(b"ann"))
        );
        assert_eq!(hash(&[cookie("sid", None)]), Some(xx64(b"zz")));
        assert_eq!(hash(&[cookie("absent", None)]), None);
        let generated = key(
            &[cookie("absent", Some(Duration::from_secs(5)))],
            &request,
            None,
            9,
        );
        assert_eq!(
            generated.hash,
            Some(xx64(generated.cookie.unwrap().value.as_bytes()))
        );
        assert_eq!(
            key(&[policy(HashSource::SourceIp, false)], &request, None, 0).hash,
            None
        );
    }

    #[test]
    fn xxhash_vectors() {
        assert_eq!(xx64(b""), 0xef46_db37_51d8_e999);
        assert_eq!(xx64(b"foo"), 0x33bf_00a8_59c4_ba3f);
    }
}

//! The workload's certificate chain and the roots it trusts, in the form of Envoy's `/certs`.

use std::time::SystemTime;

use ripstop_identity::peer::Peer;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Answer, Asked, Context};

/// `/certs`
pub(super) fn page(context: &Context, _: &Asked) -> Answer {
    let Some(identity) = context.shared.live.secrets.identity() else {
        return Answer::json(&json!({"certificates": []}));
    };
    let current = identity.certificate.current();
    let chain = current.iter().flat_map(|certified| certified.chain());
    let chain: Vec<Value> = chain
        .filter_map(|der| Peer::parse(der).ok())
        .map(|peer| details(&peer))
        .collect();
    let bundle = identity.trust.bundle();
    let roots: Vec<Value> = bundle
        .domains()
        .flat_map(|(domain, roots)| roots.iter().map(move |root| (domain, root)))
        .filter_map(|(domain, root)| {
            let mut shown = details(&Peer::parse(root.der()).ok()?);
            if let Value::Object(fields) = &mut shown {
                fields.insert("trust_domain".to_owned(), domain.into());
            }
            Some(shown)
        })
        .collect();
    Answer::json(&json!({"certificates": [{"ca_cert": roots, "cert_chain": chain}]}))
}

fn details(peer: &Peer) -> Value {
    let (from, until) = peer.validity();
    let left = until.duration_since(SystemTime::now()).unwrap_or_default();
    let uris = peer.uri_sans().iter().map(|uri| json!({ "uri": uri }));
    let names = peer.dns_sans().iter().map(|dns| json!({ "dns": dns }));
    json!({
        "path": "<inline>",
        "serial_number": peer.serial(),
        "subject": peer.subject(),
        "issuer": peer.issuer(),
        "subject_alt_names": uris.chain(names).collect::<Vec<Value>>(),
        "days_until_expiration": (left.as_secs() / 86_400).to_string(),
        "valid_from": timestamp(from),
        "expiration_time": timestamp(until),
    })
}

/// In UTC, to the second, as certificates have it.
fn timestamp(time: SystemTime) -> String {
    OffsetDateTime::from(time)
        .format(&Rfc3339)
        .unwrap_or_default()
}

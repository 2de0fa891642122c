//! RBAC on a request: the filter's rules, or those that its route puts in their place.

use ripstop_model::authz::{Judge, Verdict};
use ripstop_model::snapshot::Name;

use crate::http::Request;
use crate::message::RequestHead;
use crate::reply::Reply;

pub fn enforce(
    filter: &Name,
    judge: &Judge,
    request: &Request<'_>,
    head: &RequestHead,
) -> Result<(), Box<Reply>> {
    let judge = match request.authz_override(filter) {
        None => judge,
        Some(Some(instead)) => instead,
        Some(None) => return Ok(()),
    };
    match judge.judge(&request.caller(), Some(head)) {
        Verdict::Allowed => Ok(()),
        Verdict::Denied { reason, policy } => {
            Err(Reply::new(reason).decided_by(policy.and_then(|policy| policy.resource.as_ref())))
        }
    }
}

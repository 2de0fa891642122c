//! [`Request`] and [`Response`] ⇄ the messages of both ADS protocols.

use envoy_types::pb::envoy::service::discovery::v3 as pb;
use envoy_types::pb::google::protobuf::Any;
use envoy_types::pb::google::rpc::Status;

use super::{Interest, Request, Response};
use crate::node::Node;
use crate::resource::Encoded;

/// gRPC's INVALID_ARGUMENT: what a rejected configuration is reported as.
const INVALID_ARGUMENT: i32 = 3;

fn error_detail(error: Option<String>) -> Option<Status> {
    error.map(|message| Status {
        code: INVALID_ARGUMENT,
        message,
        details: Vec::new(),
    })
}

pub(super) fn to_delta(request: Request) -> pb::DeltaDiscoveryRequest {
    let (subscribe, unsubscribe, held) = match request.interest {
        Interest::Delta {
            subscribe,
            unsubscribe,
            held,
        } => (subscribe, unsubscribe, held),
        Interest::Full { names, .. } => (names, Vec::new(), Vec::new()),
    };
    pb::DeltaDiscoveryRequest {
        node: request.node.as_ref().map(Node::to_message),
        type_url: request.type_url,
        resource_names_subscribe: subscribe.iter().map(|name| name.to_string()).collect(),
        resource_names_unsubscribe: unsubscribe.iter().map(|name| name.to_string()).collect(),
        initial_resource_versions: held
            .into_iter()
            .map(|(name, version)| (name.to_string(), version))
            .collect(),
        response_nonce: request.nonce,
        error_detail: error_detail(request.error),
        ..pb::DeltaDiscoveryRequest::default()
    }
}

pub(super) fn from_delta(request: pb::DeltaDiscoveryRequest) -> Request {
    let name = |name: String| name.into();
    Request {
        node: request.node.map(Node::from_message),
        type_url: request.type_url,
        nonce: request.response_nonce,
        error: request.error_detail.map(|status| status.message),
        interest: Interest::Delta {
            subscribe: request
                .resource_names_subscribe
                .into_iter()
                .map(name)
                .collect(),
            unsubscribe: request
                .resource_names_unsubscribe
                .into_iter()
                .map(name)
                .collect(),
            held: request
                .initial_resource_versions
                .into_iter()
                .map(|(name, version)| (name.into(), version))
                .collect(),
        },
    }
}

pub(super) fn to_full(request: Request) -> pb::DiscoveryRequest {
    let (names, version) = match request.interest {
        Interest::Full { names, version } => (names, version),
        Interest::Delta { subscribe, .. } => (subscribe, String::new()),
    };
    pb::DiscoveryRequest {
        version_info: version,
        node: request.node.as_ref().map(Node::to_message),
        resource_names: names.iter().map(|name| name.to_string()).collect(),
        type_url: request.type_url,
        response_nonce: request.nonce,
        error_detail: error_detail(request.error),
        ..pb::DiscoveryRequest::default()
    }
}

pub(super) fn from_full(request: pb::DiscoveryRequest) -> Request {
    Request {
        node: request.node.map(Node::from_message),
        type_url: request.type_url,
        nonce: request.response_nonce,
        error: request.error_detail.map(|status| status.message),
        interest: Interest::Full {
            names: request.resource_names.into_iter().map(Into::into).collect(),
            version: request.version_info,
        },
    }
}

pub(super) fn to_delta_response(response: Response) -> pb::DeltaDiscoveryResponse {
    let resource = |encoded: Encoded| pb::Resource {
        name: encoded.name.to_string(),
        version: encoded.version.to_string(),
        resource: Some(Any {
            type_url: response.type_url.clone(),
            value: encoded.bytes.into(),
        }),
        ..pb::Resource::default()
    };
    pb::DeltaDiscoveryResponse {
        system_version_info: response.version,
        resources: response.resources.into_iter().map(resource).collect(),
        type_url: response.type_url.clone(),
        removed_resources: response
            .removed
            .iter()
            .map(|name| name.to_string())
            .collect(),
        nonce: response.nonce,
        ..pb::DeltaDiscoveryResponse::default()
    }
}

pub(super) fn from_delta_response(response: pb::DeltaDiscoveryResponse) -> Response {
    let resource = |resource: pb::Resource| Encoded {
        name: resource.name.into(),
        version: resource.version.into(),
        bytes: resource
            .resource
            .map(|any| any.value)
            .unwrap_or_default()
            .into(),
    };
    Response {
        type_url: response.type_url,
        nonce: response.nonce,
        version: response.system_version_info,
        resources: response.resources.into_iter().map(resource).collect(),
        removed: response
            .removed_resources
            .into_iter()
            .map(Into::into)
            .collect(),
    }
}

pub(super) fn to_full_response(response: Response) -> pb::DiscoveryResponse {
    let type_url = response.type_url;
    pb::DiscoveryResponse {
        version_info: response.version,
        resources: response
            .resources
            .into_iter()
            .map(|encoded| Any {
                type_url: type_url.clone(),
                value: encoded.bytes.into(),
            })
            .collect(),
        type_url: type_url.clone(),
        nonce: response.nonce,
        ..pb::DiscoveryResponse::default()
    }
}

/// A response of the other protocol says no names: they are in the resources, and the client decodes those.
pub(super) fn from_full_response(response: pb::DiscoveryResponse) -> Response {
    let version: std::sync::Arc<str> = response.version_info.as_str().into();
    Response {
        type_url: response.type_url,
        nonce: response.nonce,
        resources: response
            .resources
            .into_iter()
            .map(|any| Encoded {
                name: "".into(),
                version: version.clone(),
                bytes: any.value.into(),
            })
            .collect(),
        removed: Vec::new(),
        version: response.version_info,
    }
}

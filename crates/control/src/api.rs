//! The control plane's HTTP/JSON API: requests → calls of [`Plane`].
//!
//! | method and path | who | |
//! |---|---|---|
//! | `POST /v1/workloads` | owner, join token | register |
//! | `DELETE /v1/workloads/{id}` | owner, token or certificate of the workload | deregister |
//! | `PUT /v1/workloads/{id}/health` | the same | readiness, and the lease |
//! | `PUT /v1/workloads/{id}/place` | the same | host and advertised address |
//! | `GET /v1/workloads`, `/v1/services`, `/v1/status` | owner | |
//! | `GET /v1/resources[/KIND[/NAMESPACE[/NAME]]]` | owner | |
//! | `PUT /v1/resources` | owner | YAML or JSON documents |
//! | `DELETE /v1/resources/KIND/NAMESPACE/NAME` | owner | |
//! | `POST /v1/tokens` | owner | |
//!
//! The *owner* comes through the Unix socket of the state directory.

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use axum::{Extension, Json, Router};
use ripstop_model::intent::{Key, Kind};

use crate::plane::{Caller, Plane, PlaneError};

pub mod message;

use message::{NewToken, Place, Refusal, Register, Report};

const MAX_BODY: usize = 16 << 20;

/// The routes that a join-token holder may use, over TLS as well.
pub(crate) fn join(plane: Arc<Plane>) -> Router {
    Router::new()
        .route("/v1/workloads", post(register))
        .route("/v1/workloads/{id}", delete(deregister))
        .route("/v1/workloads/{id}/health", put(health))
        .route("/v1/workloads/{id}/place", put(place))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(plane)
}

/// All routes, for the owner.
pub(crate) fn admin(plane: Arc<Plane>) -> Router {
    let own = Router::new()
        .route("/v1/workloads", get(workloads))
        .route("/v1/services", get(services))
        .route("/v1/status", get(status))
        .route("/v1/resources", get(all_resources).put(apply))
        .route("/v1/resources/{kind}", get(resources_of_kind))
        .route(
            "/v1/resources/{kind}/{namespace}",
            get(resources_of_namespace),
        )
        .route(
            "/v1/resources/{kind}/{namespace}/{name}",
            get(resource).delete(remove),
        )
        .route("/v1/tokens", post(token))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(plane.clone());
    own.merge(join(plane)).layer(Extension(Caller {
        local: true,
        ..Caller::default()
    }))
}

impl IntoResponse for PlaneError {
    fn into_response(self) -> Response {
        let status = match &self {
            PlaneError::Register(_) | PlaneError::Unbound => StatusCode::UNPROCESSABLE_ENTITY,
            PlaneError::Token(_) => StatusCode::UNAUTHORIZED,
            PlaneError::NotAllowed | PlaneError::Sign(_) => StatusCode::FORBIDDEN,
            PlaneError::NoWorkload(_) | PlaneError::NoResource(_) => StatusCode::NOT_FOUND,
            PlaneError::InFile { .. } => StatusCode::CONFLICT,
            PlaneError::State(_) | PlaneError::Ended => StatusCode::INTERNAL_SERVER_ERROR,
        };
        refuse(status, self.to_string())
    }
}

fn refuse(status: StatusCode, error: String) -> Response {
    (status, Json(Refusal { error })).into_response()
}

/// Runs a call that writes to the disk off the async threads.
async fn blocking<T, F>(plane: Arc<Plane>, call: F) -> Result<T, PlaneError>
where
    T: Send + 'static,
    F: FnOnce(&Plane) -> Result<T, PlaneError> + Send + 'static,
{
    tokio::task::spawn_blocking(move || call(&plane))
        .await
        .unwrap_or(Err(PlaneError::Ended))
}

/// The connection's caller with the request's bearer token.
fn caller(connection: Option<Extension<Caller>>, headers: &HeaderMap) -> Caller {
    let Extension(mut caller) = connection.unwrap_or_default();
    caller.bearer = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "))
        .map(str::to_owned);
    caller
}

async fn register(
    State(plane): State<Arc<Plane>>,
    connection: Option<Extension<Caller>>,
    headers: HeaderMap,
    Json(request): Json<Register>,
) -> Result<Response, PlaneError> {
    let caller = caller(connection, &headers);
    let registered = blocking(plane, move |plane| plane.register(request, &caller)).await?;
    Ok((StatusCode::CREATED, Json(registered)).into_response())
}

async fn deregister(
    State(plane): State<Arc<Plane>>,
    connection: Option<Extension<Caller>>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<StatusCode, PlaneError> {
    let caller = caller(connection, &headers);
    blocking(plane, move |plane| plane.deregister(&id, &caller)).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn health(
    State(plane): State<Arc<Plane>>,
    connection: Option<Extension<Caller>>,
    headers: HeaderMap,
    Path(id): Path<String>,
    Json(report): Json<Report>,
) -> Result<StatusCode, PlaneError> {
    let caller = caller(connection, &headers);
    blocking(plane, move |plane| plane.report(&id, report.state, &caller)).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn place(
    State(plane): State<Arc<Plane>>,
    connection: Option<Extension<Caller>>,
    headers: HeaderMap,
    Path(id): Path<String>,
    Json(said): Json<Place>,
) -> Result<StatusCode, PlaneError> {
    let caller = caller(connection, &headers);
    blocking(plane, move |plane| plane.place(&id, said, &caller)).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn workloads(State(plane): State<Arc<Plane>>) -> Response {
    Json(plane.workloads()).into_response()
}

async fn services(State(plane): State<Arc<Plane>>) -> Response {
    Json(plane.services()).into_response()
}

async fn status(State(plane): State<Arc<Plane>>) -> Response {
    Json(plane.status()).into_response()
}

async fn token(
    State(plane): State<Arc<Plane>>,
    Json(new): Json<NewToken>,
) -> Result<Response, PlaneError> {
    let token = blocking(plane, move |plane| plane.issue_token(new)).await?;
    Ok((StatusCode::CREATED, Json(token)).into_response())
}

async fn apply(State(plane): State<Arc<Plane>>, text: String) -> Result<Response, PlaneError> {
    let applied = blocking(plane, move |plane| plane.apply(&text)).await?;
    let status = if applied.applied.is_empty() {
        StatusCode::UNPROCESSABLE_ENTITY
    } else {
        StatusCode::OK
    };
    Ok((status, Json(applied)).into_response())
}

async fn all_resources(State(plane): State<Arc<Plane>>) -> Response {
    Json(plane.resources(None, None, None)).into_response()
}

async fn resources_of_kind(State(plane): State<Arc<Plane>>, Path(kind): Path<String>) -> Response {
    listed(&plane, &kind, None, None)
}

async fn resources_of_namespace(
    State(plane): State<Arc<Plane>>,
    Path((kind, namespace)): Path<(String, String)>,
) -> Response {
    listed(&plane, &kind, Some(&namespace), None)
}

async fn resource(
    State(plane): State<Arc<Plane>>,
    Path((kind, namespace, name)): Path<(String, String, String)>,
) -> Response {
    listed(&plane, &kind, Some(&namespace), Some(&name))
}

fn listed(plane: &Plane, kind: &str, namespace: Option<&str>, name: Option<&str>) -> Response {
    let Some(known) = Kind::named(kind) else {
        return unknown_kind(kind);
    };
    let found = plane.resources(Some(known), namespace, name);
    match (found.is_empty(), namespace, name) {
        (true, Some(namespace), Some(name)) => {
            PlaneError::NoResource(format!("{known}/{namespace}/{name}")).into_response()
        }
        _ => Json(found).into_response(),
    }
}

fn unknown_kind(kind: &str) -> Response {
    let known: Vec<&str> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
    refuse(
        StatusCode::NOT_FOUND,
        format!("`{kind}` is not a kind; the kinds are {}", known.join(", ")),
    )
}

async fn remove(
    State(plane): State<Arc<Plane>>,
    Path((kind, namespace, name)): Path<(String, String, String)>,
) -> Result<Response, PlaneError> {
    let Some(kind) = Kind::named(&kind) else {
        return Ok(unknown_kind(&kind));
    };
    let key = Key {
        kind,
        namespace,
        name,
    };
    blocking(plane, move |plane| plane.delete(&key)).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

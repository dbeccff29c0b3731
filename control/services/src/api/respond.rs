//! Answers: JSON, and the one error body; request ids; content types of both path styles.
//!
//! A handler returns a [`Failure`]; [`finish`], the outermost layer, gives it the request's id and writes it into the log
//! when the fault is ours. What a client is told about the inside is decided here and nowhere else: foreign errors are
//! logged with their words and answered without them. Deliberately absent: which error means what; that is in `wire`.

use super::state::Shared;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::header::{self, HeaderName, HeaderValue};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bus::BusError;
use serde::Serialize;
use store::StoreError;
use wire::{ApiError, ErrorCode};

/// Names a request in answers and logs.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What handlers return.
pub(super) type Answer = Result<Response, Failure>;

/// An error on its way out. Boxed: the body is large and errors are rare.
#[derive(Clone, Debug)]
pub(super) struct Failure(pub Box<ApiError>);

impl Failure {
    pub(super) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self(Box::new(ApiError::new(code, message)))
    }

    pub(super) fn because(mut self, why: impl Into<String>) -> Self {
        self.0.why = why.into();
        self
    }

    pub(super) fn hint(mut self, remedy: impl Into<String>) -> Self {
        self.0.remedy = remedy.into();
        self
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self(Box::new(error))
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        tracing::warn!(%error, "the store refused");
        match error {
            StoreError::Conflict { .. } => {
                Self::new(ErrorCode::Conflict, "somebody else wrote at the same time")
                    .hint("read it again and repeat the change")
            }
            StoreError::Invalid(_) | StoreError::Unusable(_) => {
                Self::new(ErrorCode::Internal, "the store refused what the server asked of it")
                    .hint("give the request id to the operator of the cluster")
            }
            StoreError::Away(_) | StoreError::Compacted { .. } => {
                Self::new(ErrorCode::Unavailable, "the store does not answer")
                    .because("a write that was under way may or may not have been done")
                    .hint("try again; with an Idempotency-Key nothing is done twice")
            }
        }
    }
}

impl From<BusError> for Failure {
    fn from(error: BusError) -> Self {
        tracing::warn!(%error, "the bus refused");
        match error {
            BusError::TimedOut { .. } => {
                Self::new(ErrorCode::TimedOut, "a service of the cluster did not answer in time")
                    .hint("try again")
            }
            BusError::NoResponders { .. } | BusError::Closed | BusError::Away(_) => {
                Self::new(ErrorCode::Unavailable, "a service of the cluster is not there")
                    .hint("try again in a moment")
            }
            BusError::TooLarge { .. }
            | BusError::Subject(_)
            | BusError::Decode { .. }
            | BusError::Encode(_) => {
                Self::new(ErrorCode::Internal, "a service of the cluster was not understood")
                    .hint("give the request id to the operator of the cluster")
            }
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = json(status, &*self.0);
        response.extensions_mut().insert(self);
        response
    }
}

/// An answer with a JSON body.
pub(super) fn json<T: Serialize + ?Sized>(status: StatusCode, body: &T) -> Response {
    match serde_json::to_vec(body) {
        Ok(bytes) => json_bytes(status, bytes.into()),
        Err(mistake) => {
            tracing::error!(%mistake, "an answer could not be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// An answer whose body is JSON already.
pub(super) fn json_bytes(status: StatusCode, bytes: Bytes) -> Response {
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Sets a header from text that this server made; text that cannot be a header is left out.
pub(super) fn set(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(HeaderName::from_bytes(name.as_bytes()).expect("a legal name"), value);
    }
}

/// The outermost layer.
pub(super) async fn finish(State(api): State<Shared>, request: Request, next: Next) -> Response {
    let id = api.uuid().simple().to_string();
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let wanted = vendor_type(request.headers());
    let mut response = next.run(request).await;
    if response.status() == StatusCode::METHOD_NOT_ALLOWED {
        response = other_method(&method, &path, response);
    }
    if let Some(Failure(mut error)) = response.extensions_mut().remove::<Failure>() {
        error.request_id.clone_from(&id);
        log(&error, &method, &path);
        response = amend(response, &error);
    } else if let Some(wanted) = wanted {
        let headers = response.headers_mut();
        if headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json") {
            headers.insert(header::CONTENT_TYPE, wanted);
        }
    }
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

fn log(error: &ApiError, method: &Method, path: &str) {
    let (id, message) = (&error.request_id, &error.message);
    if error.code >= 500 {
        tracing::warn!(request_id = %id, %method, path, code = error.code, message, "refused");
    } else {
        tracing::debug!(request_id = %id, %method, path, code = error.code, message, "refused");
    }
}

/// The same answer with the error's body as it is now; headers that the handler set stay.
fn amend(old: Response, error: &ApiError) -> Response {
    let mut new = json(old.status(), error);
    for (name, value) in old.headers() {
        if !matches!(*name, header::CONTENT_TYPE | header::CONTENT_LENGTH) {
            new.headers_mut().insert(name.clone(), value.clone());
        }
    }
    if old.status() == StatusCode::UNAUTHORIZED {
        new.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    new
}

/// A path that exists, with a method that it does not know: OPTIONS is answered with what it knows.
fn other_method(method: &Method, path: &str, refused: Response) -> Response {
    let known = refused.headers().get(header::ALLOW).cloned();
    let mut response = if method == Method::OPTIONS {
        StatusCode::NO_CONTENT.into_response()
    } else {
        let mut error = ApiError::new(ErrorCode::Invalid, format!("{path} knows no {method}"));
        error.code = StatusCode::METHOD_NOT_ALLOWED.as_u16();
        if let Some(Ok(known)) = known.as_ref().map(HeaderValue::to_str) {
            error.remedy = format!("one of {}", known.replace(',', ", "));
        }
        Failure::from(error).into_response()
    };
    if let Some(known) = known {
        response.headers_mut().insert(header::ALLOW, known);
    }
    response
}

/// Release 3 clients ask for `application/vnd.apcera.<type>;version=1` and want to read the same in the answer.
fn vendor_type(headers: &HeaderMap) -> Option<HeaderValue> {
    let accept = headers.get(header::ACCEPT)?;
    let text = accept.to_str().ok()?;
    let plain = text.starts_with("application/vnd.apcera.") && !text.contains(',');
    plain.then(|| accept.clone())
}

/// No such path.
pub(super) async fn no_such_path(request: Request) -> Failure {
    Failure::new(ErrorCode::NotFound, format!("there is no {}", request.uri().path()))
        .hint("GET /v1/openapi.json lists what there is")
}

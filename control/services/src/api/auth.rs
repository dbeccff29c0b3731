//! Who asks: the bearer token, compared in constant time with those that the server was given.
//!
//! Deliberately absent: tokens with a life of their own. These are names and secrets from the configuration, until there
//! is a server for identities.

use super::respond::Failure;
use super::state::Shared;
use crate::authorize::Principal;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use wire::ErrorCode;

/// Secrets as their hashes: comparing those takes the same time whatever the caller sent, and however long it is.
pub(super) struct Tokens(Vec<(Principal, [u8; 32])>);

impl Tokens {
    pub(super) fn new(tokens: &[(String, String)]) -> Self {
        // An empty secret would let everybody in who sends an empty one.
        let real = tokens.iter().filter(|(_, secret)| !secret.is_empty());
        Self(real.map(|(name, secret)| (Principal::new(name), hash(secret))).collect())
    }

    /// Whose token it is. Looks at all of them, so that the time tells nothing about which came near.
    fn whose(&self, secret: &str) -> Option<Principal> {
        let sent = hash(secret);
        let mut found = None;
        for (principal, known) in &self.0 {
            let differs = known.iter().zip(sent).fold(0, |sum, (a, b)| sum | (a ^ b));
            if differs == 0 {
                found = Some(principal.clone());
            }
        }
        found
    }
}

fn hash(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

/// In front of everything that is not open to all.
pub(super) async fn check(State(api): State<Shared>, mut request: Request, next: Next) -> Response {
    // What a path knows is public, in the OpenAPI file.
    if request.method() == Method::OPTIONS {
        return next.run(request).await;
    }
    match bearer(request.headers()).and_then(|secret| api.tokens.whose(secret)) {
        Some(principal) => {
            request.extensions_mut().insert(principal);
            next.run(request).await
        }
        None => unknown(request.headers()).into_response(),
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, secret) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| secret.trim())
}

fn unknown(headers: &HeaderMap) -> Failure {
    let message = if headers.contains_key(header::AUTHORIZATION) {
        "the token is not known to this cluster"
    } else {
        "the request carries no token"
    };
    Failure::new(ErrorCode::Unauthenticated, message)
        .hint("apc login, with a token of this cluster")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: exactly the secret opens, an empty secret in the configuration opens nothing.
    #[test]
    fn only_the_whole_secret_opens() {
        let tokens = Tokens::new(&[
            ("admin".to_owned(), "s3cret".to_owned()),
            ("nobody".to_owned(), String::new()),
        ]);
        assert_eq!(tokens.whose("s3cret"), Some(Principal::new("admin")));
        for wrong in ["", "s3cre", "s3cret ", "S3CRET", "s3crets3cret"] {
            assert_eq!(tokens.whose(wrong), None, "{wrong:?}");
        }
    }
}

//! The way in to one coordinator, by whatever protocol: limits and wrong tokens are counted together.

use std::sync::Arc;

use http::{HeaderMap, StatusCode};
use sanafarm_net::Peer;
use tonic::{Code, Status};

use super::gate::Gate;

/// Decides who is let in. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Door(pub(crate) Arc<Gate>);

impl Door {
    /// Lets a request for a path of HTTP in, or says with which status and words it is refused. What is told there is about
    /// everybody's jobs.
    pub async fn admit_http(
        &self,
        path: &str,
        headers: &HeaderMap,
        peer: &Peer,
    ) -> Result<(), (StatusCode, String)> {
        let admitted = self.0.admit(path, headers, Some(peer)).await;
        admitted.and_then(|pass| pass.principal.must_see_all(path)).map_err(|status| http(&status))
    }
}

fn http(status: &Status) -> (StatusCode, String) {
    let code = match status.code() {
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_FOUND,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    (code, format!("{}\n", status.message()))
}

//! The decision about one call.

use std::sync::Arc;
use std::time::Instant;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use sanafarm_net::{CertificateName, Peer};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::limits::{Addresses, Running};
use super::principal::Principal;
use super::tokens::Known;
use super::wrong::Wrong;
use super::{AuthFailure, AuthMode, Limits};
use crate::domain::access::{Access, Role, access};
use crate::farm::Farm;

/// What a certificate may be: it cannot be revoked here, so it may neither submit nor rule.
const BY_CERTIFICATE: [Role; 2] = [Role::Worker, Role::Read];

/// The calls about tokens.
const TOKENS: &str = "/sanafarm.v1.TokenService/";

/// Decides about every call of one listener.
#[derive(Debug)]
pub(crate) struct Gate {
    farm: Arc<Farm>,
    mode: AuthMode,
    pub(super) limits: Limits,
    addresses: Addresses,
    wrong: Wrong,
}

/// A call that is let in, until it is dropped.
#[derive(Debug)]
pub(super) struct Pass {
    pub principal: Principal,
    /// Cancelled when its caller may call no more.
    pub revoked: Option<CancellationToken>,
    _running: Option<Running>,
    /// As long as it runs, its token is in use.
    _token: Option<Arc<Known>>,
}

impl Pass {
    fn free(principal: Principal) -> Self {
        Self { principal, revoked: None, _running: None, _token: None }
    }
}

impl Gate {
    pub fn new(farm: Arc<Farm>, mode: AuthMode, limits: Limits) -> Self {
        Self { farm, mode, limits, addresses: Addresses::default(), wrong: Wrong::default() }
    }

    /// Lets a call in, or says why not.
    pub(super) async fn admit(
        &self,
        path: &str,
        headers: &HeaderMap,
        peer: Option<&Peer>,
    ) -> Result<Pass, Status> {
        // As an older coordinator answers whoever calls what it does not know.
        let Some(access) = access(path) else { return Err(Status::unimplemented("there is no such method")) };
        let Access::Roles(roles) = access else {
            if let Some(peer) = peer.filter(|_| self.mode == AuthMode::Open) {
                peer.admit();
            }
            return Ok(Pass::free(Principal::anybody()));
        };
        let pass = self.pass(path, roles, headers, peer).await?;
        // Not whoever asks for the health only: everybody may.
        if let Some(peer) = peer {
            peer.admit();
        }
        Ok(pass)
    }

    async fn pass(
        &self,
        path: &str,
        roles: &[Role],
        headers: &HeaderMap,
        peer: Option<&Peer>,
    ) -> Result<Pass, Status> {
        if self.mode == AuthMode::Open {
            return Ok(Pass::free(Principal::anybody()));
        }
        let pass = match bearer(headers) {
            Some(token) => self.by_token(token, peer).await?,
            None => {
                match peer.and_then(|peer| peer.certificate.as_ref()).and_then(by_certificate) {
                    Some(principal) => Pass::free(principal),
                    None => {
                        return Err(self.refused(
                        AuthFailure::Missing,
                        Status::unauthenticated("this coordinator wants a token; name one with --token-file or SANAFARM_TOKEN"),
                    ));
                    }
                }
            }
        };
        match pass.principal.role {
            // Whoever ends or rotates the token that it calls with gets its answer.
            Some(role) if roles.contains(&role) && path.starts_with(TOKENS) => {
                Ok(Pass { revoked: None, ..pass })
            }
            Some(role) if roles.contains(&role) => Ok(pass),
            role => {
                let allowed: Vec<_> = roles.iter().map(|role| role.word()).collect();
                let method = path.rsplit('/').next().unwrap_or(path);
                let text = format!(
                    "{method} is for {}; this token is for {}",
                    any_of(&allowed),
                    role.map_or("nothing", Role::word)
                );
                Err(self.refused(AuthFailure::Role, Status::permission_denied(text)))
            }
        }
    }

    async fn by_token(&self, token: &str, peer: Option<&Peer>) -> Result<Pass, Status> {
        let now = self.farm.store.clock();
        let known = match self.farm.tokens.in_use(token, now) {
            Some(known) => known,
            None => self.look_up(token, peer, now).await?,
        };
        let running = known.allowance.take();
        let running =
            running.map_err(|text| self.refused(AuthFailure::Limit, Status::resource_exhausted(text)))?;
        Ok(Pass {
            principal: known.principal.clone(),
            revoked: Some(known.revoked.clone()),
            _running: Some(running),
            _token: Some(known),
        })
    }

    async fn look_up(
        &self,
        token: &str,
        peer: Option<&Peer>,
        now: jiff::Timestamp,
    ) -> Result<Arc<Known>, Status> {
        if !self.wrong.knows(token, Instant::now()) {
            let farm = &self.farm;
            let found = farm.tokens.look_up(&farm.token_lookups, token, &self.limits, now).await;
            if let Some(known) = found.map_err(crate::grpc::status)? {
                return Ok(known);
            }
            self.wrong.add(token, Instant::now());
        }
        // Not before: a good token is good whatever others at its address show.
        if let Some(address) = peer.map(|peer| peer.address.ip()) {
            if !self.addresses.was_wrong(address) {
                let text = "too many wrong tokens from this address; wait a minute";
                return Err(self.refused(AuthFailure::Address, Status::resource_exhausted(text)));
            }
            tracing::warn!(%address, "wrong token");
        }
        let text = "the token is not known, was revoked or has expired; ask an administrator for another";
        Err(self.refused(AuthFailure::Invalid, Status::unauthenticated(text)))
    }

    fn refused(&self, reason: AuthFailure, status: Status) -> Status {
        self.farm.auth_failures.add(reason);
        status
    }
}

/// The token of a call. One that is not text is a wrong one.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(AUTHORIZATION)?.to_str().unwrap_or_default();
    let (scheme, token) = text.split_once(' ').unwrap_or((text, ""));
    Some(if scheme.eq_ignore_ascii_case("bearer") { token.trim() } else { "" })
}

fn by_certificate(certificate: &CertificateName) -> Option<Principal> {
    let role = certificate.role.parse::<Role>().ok().filter(|role| BY_CERTIFICATE.contains(role))?;
    Some(Principal {
        name: Some(certificate.name.clone()),
        role: Some(role),
        owner: certificate.owner.clone().filter(|_| role == Role::Read),
        worker: (role == Role::Worker).then(|| certificate.name.clone()),
    })
}

/// `admin, submit or read`.
fn any_of(words: &[&str]) -> String {
    match words.split_last() {
        Some((last, first)) if !first.is_empty() => format!("{} or {last}", first.join(", ")),
        _ => words.concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_from_its_header() {
        let with = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, text.parse().unwrap());
            bearer(&headers).map(str::to_owned)
        };
        assert_eq!(with("Bearer a").as_deref(), Some("a"));
        assert_eq!(with("bearer  a ").as_deref(), Some("a"));
        assert_eq!(with("Basic YTpi").as_deref(), Some(""));
        assert_eq!(bearer(&HeaderMap::new()), None);
    }

    #[test]
    fn a_certificate_neither_submits_nor_rules() {
        let certificate = |role: &str| CertificateName {
            name: "n".to_owned(),
            role: role.to_owned(),
            owner: Some("ann".to_owned()),
        };
        for none in ["admin", "submit", "Worker", ""] {
            assert_eq!(by_certificate(&certificate(none)), None, "{none}");
        }
        let worker = by_certificate(&certificate("worker")).unwrap();
        assert_eq!((worker.worker.as_deref(), worker.owner), (Some("n"), None));
        let reader = by_certificate(&certificate("read")).unwrap();
        assert_eq!((reader.worker, reader.owner.as_deref()), (None, Some("ann")));
    }
}

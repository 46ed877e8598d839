//! `TokenService`.

use std::sync::Arc;
use std::time::Duration;

use sanafarm_proto::v1;
use tonic::{Request, Response, Status};

use super::convert::{time, timestamp};
use super::status::status;
use crate::auth::{Principal, new_id, new_secret, text};
use crate::domain::access::Role;
use crate::farm::Farm;
use crate::store::records::{NewToken, TokenRecord};

/// Longest name, owner or worker.
const LONGEST: usize = 200;
/// Longest time that two secrets of a token are good.
const LONGEST_GRACE: Duration = Duration::from_secs(30 * 24 * 3600);

/// Tokens for administrators.
#[derive(Clone, Debug)]
pub(super) struct Tokens {
    pub farm: Arc<Farm>,
}

impl Tokens {
    /// What was changed is so in this process at once, and in the others within seconds.
    async fn refresh(&self) {
        let store = self.farm.store.as_ref();
        if let Err(error) = self.farm.tokens.refresh(store, store.clock()).await {
            tracing::warn!(%error, "look at the tokens in use");
        }
    }
}

#[tonic::async_trait]
impl v1::token_service_server::TokenService for Tokens {
    async fn create_token(
        &self,
        request: Request<v1::CreateTokenRequest>,
    ) -> Result<Response<v1::CreateTokenResponse>, Status> {
        let who = Principal::of(&request)?;
        let request = request.into_inner();
        let role = role(request.role())?;
        let now = self.farm.store.clock();
        let expires_at = request.expires_at.map(|at| time("expiry", at)).transpose()?;
        if expires_at.is_some_and(|at| at <= now) {
            return Err(Status::invalid_argument("the token would have expired already"));
        }
        let name =
            word("name", request.name)?.ok_or_else(|| Status::invalid_argument("a token needs a name"))?;
        let (owner, worker) = (word("owner", request.owner)?, word("worker", request.worker)?);
        if worker.is_some() && role != Role::Worker {
            return Err(Status::invalid_argument("only a worker token is for one worker"));
        }
        if owner.is_some() && role == Role::Worker {
            return Err(Status::invalid_argument("a worker token has no owner: workers render for all"));
        }
        let owner = owner.or_else(|| (role == Role::Submit).then(|| name.clone()));
        let (id, (secret, hash)) = (random(new_id())?, random(new_secret())?);
        let token = NewToken {
            id,
            name,
            role,
            owner,
            worker,
            hash: hash.to_vec(),
            created_by: who.name.unwrap_or_default(),
            expires_at,
        };
        let token = self.farm.store.create_token(&token, now).await.map_err(status)?;
        tracing::info!(token = token.id, name = token.name, role = %token.role, by = token.created_by, "token created");
        let secret = text(&token.id, &secret);
        Ok(Response::new(v1::CreateTokenResponse { token: Some(message(token)), secret }))
    }

    async fn list_tokens(
        &self,
        _request: Request<v1::ListTokensRequest>,
    ) -> Result<Response<v1::ListTokensResponse>, Status> {
        let tokens = self.farm.store.tokens().await.map_err(status)?;
        Ok(Response::new(v1::ListTokensResponse { tokens: tokens.into_iter().map(message).collect() }))
    }

    async fn revoke_token(
        &self,
        request: Request<v1::RevokeTokenRequest>,
    ) -> Result<Response<v1::RevokeTokenResponse>, Status> {
        let who = Principal::of(&request)?;
        let now = self.farm.store.clock();
        let token =
            self.farm.store.revoke_token(&request.into_inner().token_id, now).await.map_err(status)?;
        tracing::info!(token = token.id, name = token.name, by = who.name, "token revoked");
        self.refresh().await;
        Ok(Response::new(v1::RevokeTokenResponse { token: Some(message(token)) }))
    }

    async fn rotate_token(
        &self,
        request: Request<v1::RotateTokenRequest>,
    ) -> Result<Response<v1::RotateTokenResponse>, Status> {
        let who = Principal::of(&request)?;
        let request = request.into_inner();
        let (secret, hash) = random(new_secret())?;
        let now = self.farm.store.clock();
        let grace = Duration::from_secs(request.grace_seconds).min(LONGEST_GRACE);
        let until = now.saturating_add(grace).map_err(|error| Status::internal(error.to_string()))?;
        let token =
            self.farm.store.rotate_token(&request.token_id, &hash, until, now).await.map_err(status)?;
        tracing::info!(token = token.id, name = token.name, by = who.name, "token rotated");
        self.refresh().await;
        let secret = text(&token.id, &secret);
        Ok(Response::new(v1::RotateTokenResponse { token: Some(message(token)), secret }))
    }
}

fn random<T>(drawn: Result<T, impl std::error::Error>) -> Result<T, Status> {
    drawn.map_err(|error| Status::internal(error.to_string()))
}

fn word(what: &str, text: String) -> Result<Option<String>, Status> {
    if text.len() > LONGEST || text.chars().any(char::is_control) {
        return Err(Status::invalid_argument(format!(
            "the {what} of a token is one line of {LONGEST} bytes at most"
        )));
    }
    Ok(Some(text).filter(|text| !text.is_empty()))
}

fn role(role: v1::Role) -> Result<Role, Status> {
    match role {
        v1::Role::Admin => Ok(Role::Admin),
        v1::Role::Submit => Ok(Role::Submit),
        v1::Role::Read => Ok(Role::Read),
        v1::Role::Worker => Ok(Role::Worker),
        v1::Role::Unspecified => {
            Err(Status::invalid_argument("a token has a role: admin, submit, read or worker"))
        }
    }
}

fn message(token: TokenRecord) -> v1::Token {
    let role = match token.role {
        Role::Admin => v1::Role::Admin,
        Role::Submit => v1::Role::Submit,
        Role::Read => v1::Role::Read,
        Role::Worker => v1::Role::Worker,
    };
    v1::Token {
        token_id: token.id,
        name: token.name,
        role: role.into(),
        owner: token.owner.unwrap_or_default(),
        worker: token.worker.unwrap_or_default(),
        created_at: Some(timestamp(token.created_at)),
        created_by: token.created_by,
        expires_at: token.expires_at.map(timestamp),
        last_used_at: token.last_used_at.map(timestamp),
        rotated_at: token.rotated_at.map(timestamp),
        revoked_at: token.revoked_at.map(timestamp),
    }
}

//! Tokens.

use jiff::Timestamp;

use crate::domain::access::Role;

/// A token to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewToken {
    /// Told in the token itself.
    pub id: String,
    /// For people.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Whose jobs it is about.
    pub owner: Option<String>,
    /// The only worker that it may be used by.
    pub worker: Option<String>,
    /// Of its secret.
    pub hash: Vec<u8>,
    /// Who makes it.
    pub created_by: String,
    /// Never, when none.
    pub expires_at: Option<Timestamp>,
}

/// A token as it is kept.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenRecord {
    /// Told in the token itself.
    pub id: String,
    /// For people.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Whose jobs it is about.
    pub owner: Option<String>,
    /// The only worker that it may be used by.
    pub worker: Option<String>,
    /// Of its secret.
    pub hash: Vec<u8>,
    /// Of the secret before.
    pub old_hash: Option<Vec<u8>>,
    /// Until when that may be used.
    pub old_expires_at: Option<Timestamp>,
    /// When it was made.
    pub created_at: Timestamp,
    /// By whom.
    pub created_by: String,
    /// When it ends by itself.
    pub expires_at: Option<Timestamp>,
    /// About when it was last used.
    pub last_used_at: Option<Timestamp>,
    /// When it last got another secret.
    pub rotated_at: Option<Timestamp>,
    /// When it was ended.
    pub revoked_at: Option<Timestamp>,
}

/// Nothing of the hashes: nobody needs to see them.
impl std::fmt::Debug for TokenRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenRecord")
            .field("id", &self.id)
            .field("name", &self.name)
            .field("role", &self.role)
            .field("owner", &self.owner)
            .field("worker", &self.worker)
            .field("expires_at", &self.expires_at)
            .field("revoked_at", &self.revoked_at)
            .finish_non_exhaustive()
    }
}

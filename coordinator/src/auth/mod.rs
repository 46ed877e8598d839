//! Who calls, and whether they may (docs/security.md).
//!
//! - `secret`: the text of a token, and its hash
//! - `principal`: who a call is from
//! - `tokens`: the tokens that are in use, as the database has them; `lookup`: those that are not yet; `wrong`: those that were none
//! - `limits`: how much one caller may ask for
//! - `gate`: the decision; `door`: it for every protocol; `layer`: before every service; `body`: answers that are cut
//! - `failures`: how often somebody was turned away

mod body;
mod door;
mod failures;
mod gate;
mod layer;
mod limits;
mod lookup;
mod principal;
mod secret;
mod tokens;
mod wrong;

pub use door::Door;
pub use failures::{AuthFailure, AuthFailures};
pub(crate) use gate::Gate;
pub(crate) use layer::{AuthLayer, LocalLayer, Revocation};
pub use limits::Limits;
pub(crate) use lookup::{Lookups, lookups};
pub(crate) use principal::Principal;
pub(crate) use secret::{new_id, new_secret, text};
pub(crate) use tokens::{Tokens, keep};

/// Whom a coordinator serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AuthMode {
    /// Everybody who reaches it, as an administrator and as a worker.
    #[default]
    Open,
    /// Who shows a token, or a certificate of the CA for clients.
    Tokens,
}

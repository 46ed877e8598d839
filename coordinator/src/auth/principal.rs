//! Who a call is from.

use tonic::{Request, Status};

use crate::domain::access::Role;
use crate::store::records::{By, Job};

/// Who a call is from. Every call has one: the layers before the services see to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Principal {
    /// Of the token or the certificate; none where everybody is let in.
    pub name: Option<String>,
    /// None where everybody is let in, for everything.
    pub role: Option<Role>,
    /// Whose jobs it may see, and whose it submits.
    pub owner: Option<String>,
    /// The only worker that it may be.
    pub worker: Option<String>,
}

impl Principal {
    /// Whoever reaches a coordinator that asks for no token, or lives in its process.
    pub fn anybody() -> Self {
        Self { name: None, role: None, owner: None, worker: None }
    }

    /// Who this call is from. A call that no layer has looked at is nobody's.
    pub fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        let found = request.extensions().get::<Self>().cloned();
        found.ok_or_else(|| Status::internal("nobody looked who calls"))
    }

    /// The only owner whose jobs it may see and steer; none when it may those of all.
    pub fn only_owner(&self) -> Option<&str> {
        match self.role {
            None | Some(Role::Admin) => None,
            Some(Role::Submit | Role::Read) => self.owner.as_deref(),
            // The table lets it nowhere near a job. Should it ever, it owns none.
            Some(Role::Worker) => Some(""),
        }
    }

    /// Whether it may see this job.
    pub fn sees(&self, job: &Job) -> bool {
        self.only_owner().is_none_or(|owner| owner == job.owner)
    }

    /// Refuses what only those may ask who see everybody's jobs.
    pub fn must_see_all(&self, what: &str) -> Result<(), Status> {
        match self.only_owner() {
            None => Ok(()),
            Some(owner) => Err(Status::permission_denied(format!(
                "{what} shows the jobs of all owners; this token sees those of {owner:?}"
            ))),
        }
    }

    /// Whose a new job is that asks to be `wanted`'s.
    pub fn owner_of_new(&self, wanted: String) -> Result<String, Status> {
        match (self.role, &self.owner) {
            (None, _) => Ok(wanted),
            (Some(Role::Admin), owner) if wanted.is_empty() => {
                Ok(owner.clone().or_else(|| self.name.clone()).unwrap_or_default())
            }
            (Some(Role::Admin), _) => Ok(wanted),
            (Some(_), Some(owner)) if wanted.is_empty() || wanted == *owner => Ok(owner.clone()),
            (Some(_), owner) => Err(Status::permission_denied(format!(
                "a job of {wanted:?} may be submitted by an admin only; this token submits those of {:?}",
                owner.as_deref().unwrap_or_default()
            ))),
        }
    }

    /// Who the history says it was: whoever shows a token cannot say another name.
    pub fn by(&self, told: By) -> By {
        match &self.name {
            Some(name) => By { actor: name.clone(), ..told },
            None => told,
        }
    }

    /// Refuses to be a worker of another name than the token's.
    pub fn must_be_worker(&self, worker: &str) -> Result<(), Status> {
        match &self.worker {
            Some(own) if own != worker => Err(Status::permission_denied(format!(
                "this token or certificate is for worker {own:?} only"
            ))),
            Some(_) | None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn principal(role: Role, owner: Option<&str>) -> Principal {
        Principal {
            name: Some("n".to_owned()),
            role: Some(role),
            owner: owner.map(str::to_owned),
            worker: None,
        }
    }

    #[test]
    fn an_owner_submits_own_jobs_and_an_admin_anybodys() {
        let ann = principal(Role::Submit, Some("ann"));
        assert_eq!(ann.owner_of_new(String::new()).unwrap(), "ann");
        assert_eq!(ann.owner_of_new("ann".to_owned()).unwrap(), "ann");
        assert!(ann.owner_of_new("bob".to_owned()).is_err());
        let admin = principal(Role::Admin, None);
        assert_eq!(admin.owner_of_new("bob".to_owned()).unwrap(), "bob");
        assert_eq!(admin.owner_of_new(String::new()).unwrap(), "n");
        assert_eq!(Principal::anybody().owner_of_new("bob".to_owned()).unwrap(), "bob");
    }

    #[test]
    fn a_reader_without_owner_sees_all() {
        assert_eq!(principal(Role::Read, None).only_owner(), None);
        assert_eq!(principal(Role::Read, Some("ann")).only_owner(), Some("ann"));
        assert_eq!(principal(Role::Admin, Some("ann")).only_owner(), None);
        assert_eq!(principal(Role::Worker, None).only_owner(), Some(""));
        assert!(principal(Role::Read, Some("ann")).must_see_all("sql").is_err());
    }

    #[test]
    fn nobody_takes_anothers_name() {
        let told = || By { actor: "bob".to_owned(), reason: "because".to_owned() };
        assert_eq!(principal(Role::Admin, None).by(told()).actor, "n");
        assert_eq!(Principal::anybody().by(told()), told());
        assert!(Principal::of(&Request::new(())).is_err());
    }
}

//! Reaching a coordinator: over the network, or in this process over the database of a data folder.

use std::path::PathBuf;

use sanafarm_coordinator::{Coordinator, Options};
use sanafarm_net::{Channel, ClientSettings};

use crate::data_folder::{DataFolder, Lock};
use crate::environment;
use crate::error::Error;

/// What the user said about where the jobs are.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// `--coordinator`.
    pub coordinator: Option<String>,
    /// `--data`.
    pub data: Option<PathBuf>,
    /// Who asks.
    pub access: ClientSettings,
}

/// An open way to a coordinator.
#[derive(Debug)]
pub struct Connection {
    /// For the generated clients.
    pub channel: Channel,
    /// Lives as long as the channel when it is in this process.
    local: Option<Local>,
}

/// A coordinator in this process.
#[derive(Debug)]
struct Local {
    coordinator: Coordinator,
    data: DataFolder,
    /// Held while something is changed.
    lock: Option<Lock>,
}

impl Connection {
    /// For a call that only reads: a coordinator's address, else the database of the data folder.
    pub async fn reading(place: Place) -> Result<Self, Error> {
        match place.address() {
            Some(address) => Self::remote(&address, &place.access).await,
            None => Self::local(&DataFolder::choose(place.data)).await,
        }
    }

    /// For a look at what was rendered before: a coordinator's address, else the database of the data folder, if
    /// there is one.
    pub async fn history(place: &Place, data: &DataFolder) -> Result<Option<Self>, Error> {
        match place.address() {
            Some(address) => Self::remote(&address, &place.access).await.map(Some),
            None if data.database().is_file() => Self::local(data).await.map(Some),
            None => Ok(None),
        }
    }

    /// Whether the coordinator is another process.
    pub fn is_remote(&self) -> bool {
        self.local.is_none()
    }

    /// The data folder whose database this is, when no coordinator was asked.
    pub fn data(&self) -> Option<&DataFolder> {
        self.local.as_ref().map(|local| &local.data)
    }

    /// The same, while nobody works on what is in it.
    pub fn idle_data(&self) -> Option<&DataFolder> {
        let local = self.local.as_ref()?;
        (local.lock.is_none() && local.data.holder().is_none()).then_some(&local.data)
    }

    /// For a call that changes a job: a coordinator's address, else the database of the data folder, which nobody else
    /// may work on meanwhile. `verb` is told to whoever tries.
    pub async fn changing(place: Place, verb: &str) -> Result<Self, Error> {
        if let Some(address) = place.address() {
            return Self::remote(&address, &place.access).await;
        }
        let data = DataFolder::choose(place.data);
        let database = data.database();
        if !database.is_file() {
            return Err(no_coordinator(&format!(
                "there is no database in the data folder {} either; name another one with --data, or a coordinator with \
                 --coordinator ADDR or {}",
                data.path().display(),
                environment::COORDINATOR
            )));
        }
        let lock = data.lock(verb, None)?;
        let coordinator = Coordinator::open(Options::file(database)).await;
        let coordinator = coordinator.map_err(|error| open_error(&data, &error))?;
        Self::inside(coordinator, data, Some(lock)).await
    }

    /// For a call that is about a farm: that needs a coordinator at work.
    pub async fn farm(place: Place) -> Result<Self, Error> {
        match place.address() {
            Some(address) => Self::remote(&address, &place.access).await,
            None => Err(no_coordinator(&format!(
                "start one with `sanafarm coordinator` and name it with --coordinator ADDR or {}; to render \
                 on this machine alone use `sanafarm render`",
                environment::COORDINATOR
            ))),
        }
    }

    /// Ends the coordinator in this process, if there is one.
    pub async fn close(self) {
        drop(self.channel);
        if let Some(local) = self.local {
            local.coordinator.close().await;
            drop(local.lock);
        }
    }

    async fn remote(address: &str, access: &ClientSettings) -> Result<Self, Error> {
        let channel = access.connect(address).await.map_err(|error| match &error {
            sanafarm_net::Error::Transport(_) => {
                let failed =
                    Error::failure(format!("connect to coordinator {address}")).caused_by(&error);
                let other = failed.causes.iter().any(|cause| cause.contains("http2 error"));
                failed.hint(match address.starts_with("https://") {
                    true => "check the address, that `sanafarm coordinator` runs there with TLS, and that --ca names its CA",
                    false if other => "it may speak TLS: try https://",
                    false => "check the address, and that `sanafarm coordinator` runs there",
                })
            }
            _ => mistaken(address, &error),
        })?;
        Ok(Self { channel, local: None })
    }

    async fn local(data: &DataFolder) -> Result<Self, Error> {
        let database = data.database();
        if !database.is_file() {
            return Err(Error::mistake(format!("no database at {}", database.display())).hint(
                "name a data folder with --data, or a coordinator with --coordinator; `sanafarm render` \
                 makes a data folder",
            ));
        }
        let coordinator = Coordinator::open_read_only(&database).await;
        let coordinator = coordinator.map_err(|error| open_error(data, &error))?;
        Self::inside(coordinator, data.clone(), None).await
    }

    async fn inside(coordinator: Coordinator, data: DataFolder, lock: Option<Lock>) -> Result<Self, Error> {
        let channel = coordinator.local_channel().await.map_err(|error| open_error(&data, &error))?;
        Ok(Self { channel: channel.into(), local: Some(Local { coordinator, data, lock }) })
    }
}

fn open_error(data: &DataFolder, error: &sanafarm_coordinator::Error) -> Error {
    Error::failure(format!("open database {}", data.database().display())).caused_by(error)
}

fn no_coordinator(hint: &str) -> Error {
    Error::mistake("no coordinator was named").hint(hint)
}

impl Place {
    /// The address to use.
    fn address(&self) -> Option<String> {
        match (&self.coordinator, &self.data) {
            (Some(address), _) => Some(address.clone()),
            (None, _) => None,
        }
    }
}

/// A way to a coordinator that cannot be as the user said it.
pub fn mistaken(address: &str, error: &sanafarm_net::Error) -> Error {
    use sanafarm_net::Error as Wrong;
    let mistake = Error::mistake(format!("reach coordinator {address}")).caused_by(error);
    match error {
        Wrong::Address(_) => mistake.hint("write host:port, such as 127.0.0.1:7070, or https://host:port"),
        Wrong::Read { .. } => mistake.hint(
            "name a file that can be read with --token-file, --ca, --cert and --key, or in their variables",
        ),
        Wrong::File { .. } => {
            mistake.hint("a file of --token-file holds one token, as `sanafarm token create` prints it")
        }
        // They say it themselves.
        Wrong::Clear(_) | Wrong::HalfCertificate | Wrong::Tls(_) | Wrong::Transport(_) => mistake,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_folder_alone_is_no_address() {
        let both = Place { coordinator: Some("a:1".to_owned()), ..Place::default() };
        assert_eq!(both.address().as_deref(), Some("a:1"));
        let data = Place { data: Some(PathBuf::from("d")), ..Place::default() };
        assert_eq!(data.address(), None);
    }
}

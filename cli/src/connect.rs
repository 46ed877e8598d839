//! Reaching a coordinator: over the network, or in this process over a database that is only read.

use std::path::PathBuf;
use std::time::Duration;

use sanafarm_coordinator::Coordinator;
use tonic::transport::{Channel, Endpoint};

use crate::data_folder::DataFolder;
use crate::environment;
use crate::error::Error;

/// What the user said about where the jobs are.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// `--coordinator`.
    pub coordinator: Option<String>,
    /// `--data`.
    pub data: Option<PathBuf>,
}

/// An open way to a coordinator.
#[derive(Debug)]
pub struct Connection {
    /// For the generated clients.
    pub channel: Channel,
    /// Lives as long as the channel when it is in this process.
    local: Option<Coordinator>,
}

impl Connection {
    /// For a call that only reads: a coordinator's address, else the database of the data folder.
    pub async fn reading(place: Place) -> Result<Self, Error> {
        match place.address() {
            Some(address) => Self::remote(&address).await,
            None => Self::local(&DataFolder::choose(place.data)).await,
        }
    }

    /// For a look at what was rendered before: a coordinator's address, else the database of the data folder, if
    /// there is one.
    pub async fn history(place: &Place, data: &DataFolder) -> Result<Option<Self>, Error> {
        match place.address() {
            Some(address) => Self::remote(&address).await.map(Some),
            None if data.database().is_file() => Self::local(data).await.map(Some),
            None => Ok(None),
        }
    }

    /// Whether the coordinator is another process.
    pub fn is_remote(&self) -> bool {
        self.local.is_none()
    }

    /// For a call that changes something: that needs a coordinator at work.
    pub async fn changing(place: Place) -> Result<Self, Error> {
        match place.address() {
            Some(address) => Self::remote(&address).await,
            None => Err(Error::mistake("no coordinator was named").hint(format!(
                "start one with `sanafarm coordinator` and name it with --coordinator ADDR or {}; to render \
                 on this machine alone use `sanafarm render`",
                environment::COORDINATOR
            ))),
        }
    }

    /// Ends the coordinator in this process, if there is one.
    pub async fn close(self) {
        drop(self.channel);
        if let Some(coordinator) = self.local {
            coordinator.close().await;
        }
    }

    async fn remote(address: &str) -> Result<Self, Error> {
        let channel = endpoint(address)?.connect().await.map_err(|error| {
            Error::failure(format!("connect to coordinator {address}"))
                .caused_by(&error)
                .hint("check the address, and that `sanafarm coordinator` runs there")
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
        let failed = |error: sanafarm_coordinator::Error| {
            Error::failure(format!("open database {}", database.display())).caused_by(&error)
        };
        let coordinator = Coordinator::open_read_only(&database).await.map_err(failed)?;
        let channel = coordinator.local_channel().await.map_err(failed)?;
        Ok(Self { channel, local: Some(coordinator) })
    }
}

impl Place {
    /// The address to use: what is on the command line wins over the environment.
    fn address(&self) -> Option<String> {
        match (&self.coordinator, &self.data) {
            (Some(address), _) => Some(address.clone()),
            (None, Some(_)) => None,
            (None, None) => environment::filled(environment::COORDINATOR),
        }
    }
}

/// The endpoint of an address such as `127.0.0.1:7070`.
pub fn endpoint(address: &str) -> Result<Endpoint, Error> {
    let wrong = || {
        Error::mistake(format!("`{address}` is no address of a coordinator"))
            .hint("write host:port, such as 127.0.0.1:7070")
    };
    if address.starts_with("https://") {
        return Err(wrong().because("TLS is not there yet"));
    }
    let authority = address.strip_prefix("http://").unwrap_or(address).trim_end_matches('/');
    let has_port = authority
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    if !has_port {
        return Err(wrong());
    }
    let endpoint = Endpoint::from_shared(format!("http://{authority}"));
    let endpoint = endpoint.map_err(|error| wrong().caused_by(&error))?;
    // A cut network is noticed although no call is answered with an error.
    Ok(endpoint
        .connect_timeout(Duration::from_secs(10))
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(20))
        .keep_alive_while_idle(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for good in ["127.0.0.1:7070", "http://farm.local:80", "[::1]:7070"] {
            assert!(endpoint(good).is_ok(), "{good}");
        }
        for bad in ["farm", ":7070", "farm:port", "https://farm:1", "a b:1"] {
            assert!(endpoint(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_command_line_wins_over_the_environment() {
        let both = Place { coordinator: Some("a:1".to_owned()), data: None };
        assert_eq!(both.address().as_deref(), Some("a:1"));
        let data = Place { coordinator: None, data: Some(PathBuf::from("d")) };
        assert_eq!(data.address(), None);
    }
}

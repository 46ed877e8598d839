//! Whom a coordinator serves, and how.

use std::net::SocketAddr;
use std::sync::Arc;

use sanafarm_coordinator::AuthMode;
use sanafarm_net::{ServerTls, TlsFiles};

use crate::args::ServingArgs;
use crate::error::Error;
use crate::printer::Printer;

/// What the user wants.
pub struct Serving {
    pub auth: AuthMode,
    /// For gRPC, and for HTTP.
    pub tls: Option<Arc<ServerTls>>,
    pub http_tls: Option<Arc<ServerTls>>,
}

/// What the user wants, unless it is unsafe at one of these addresses: as they were asked for, and as they are.
pub async fn serving(
    args: &ServingArgs,
    addresses: &[(&str, SocketAddr)],
    printer: &Printer,
) -> Result<Serving, Error> {
    let files = args.tls_files().map_err(|text| Error::mistake(text).hint("name both files, or neither"))?;
    let reached = addresses.iter().find(|(_, bound)| !bound.ip().is_loopback());
    let auth =
        args.auth.map_or(if reached.is_none() { AuthMode::Open } else { AuthMode::Tokens }, AuthMode::from);
    if let Some((asked, _)) = reached {
        let lost = given_up(files.is_some(), auth);
        if !lost.is_empty() && !args.insecure {
            return Err(Error::mistake(format!("{asked} can be reached from other machines"))
                .because(lost.join("; "))
                .hint(
                    "name a certificate with --tls-cert and --tls-key (`sanafarm token ca` makes one), and leave --auth to \
                     tokens; on a network that you trust, add --insecure",
                ));
        }
        for text in lost {
            printer.note(format!("insecure: {text}"));
        }
    }
    let (tls, http_tls) = match files {
        Some(files) => (Some(load(files.clone(), b"h2").await?), Some(load(files, b"http/1.1").await?)),
        None => (None, None),
    };
    Ok(Serving { auth, tls, http_tls })
}

async fn load(files: TlsFiles, protocol: &[u8]) -> Result<Arc<ServerTls>, Error> {
    let tls = ServerTls::load_for(files, vec![protocol.to_vec()]).await;
    Ok(Arc::new(tls.map_err(|error| Error::mistake("serve with TLS").caused_by(&error))?))
}

/// What a coordinator that others reach does without.
fn given_up(tls: bool, auth: AuthMode) -> Vec<&'static str> {
    let mut lost = Vec::new();
    if !tls {
        lost.push(
            "without TLS whoever is on the network reads and changes prompts, pictures' names and tokens",
        );
    }
    if auth == AuthMode::Open {
        lost.push("without tokens whoever reaches it may submit, see, cancel and render everything");
    }
    lost
}

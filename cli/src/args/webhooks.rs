//! `coordinator --webhook-hosts`, `--webhook-secret`.

use clap::Args;
use sanafarm_coordinator::Webhooks;
use sanafarm_coordinator::domain::webhook::AllowedHost;
use sanafarm_net::Secret;

use crate::error::Error;

/// Where webhooks may go.
#[derive(Clone, Debug, Args)]
pub struct WebhookArgs {
    /// Hosts that webhooks of jobs may go to, such as hooks.example.org or host:port; * for any [env: SANAFARM_WEBHOOK_HOSTS=]
    #[arg(long, value_name = "HOST,...", value_delimiter = ',')]
    pub webhook_hosts: Vec<AllowedHost>,
    /// Sign webhooks with this, as whsec_ and base64; better in the environment, where others cannot see it; two while one takes
    /// over from the other [env: SANAFARM_WEBHOOK_SECRET=]
    #[arg(long, value_name = "SECRET,...", value_delimiter = ',')]
    pub webhook_secret: Vec<Secret>,
}

impl WebhookArgs {
    /// What the coordinator is to call; none when no host is allowed.
    pub fn webhooks(self) -> Result<Option<Webhooks>, Error> {
        let wrong = |error: String| Error::mistake("read --webhook-secret").because(error);
        let secrets = self.webhook_secret.iter().map(|secret| secret.expose().parse());
        let secrets = secrets.collect::<Result<Vec<_>, String>>().map_err(wrong)?;
        if self.webhook_hosts.is_empty() {
            return Ok(None);
        }
        if secrets.is_empty() {
            return Err(Error::mistake("--webhook-hosts needs a secret to sign webhooks with")
                .hint("set SANAFARM_WEBHOOK_SECRET to what `echo whsec_$(openssl rand -base64 32)` prints"));
        }
        Ok(Some(Webhooks { hosts: self.webhook_hosts, secrets }))
    }
}

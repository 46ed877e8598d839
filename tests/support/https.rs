//! What an HTTPS server with a CA of its own answers to a GET.

use std::path::Path;

use reqwest::{Certificate, Client};
use tokio::runtime::Runtime;

/// Status and body.
pub fn get(url: &str, ca: &Path, token: Option<&str>) -> (u16, String) {
    sanafarm_net::install_crypto();
    let ca = Certificate::from_pem(&std::fs::read(ca).unwrap()).unwrap();
    let client = Client::builder().tls_certs_only([ca]).build().unwrap();
    Runtime::new().unwrap().block_on(async {
        let mut request = client.get(url);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    })
}

//! Who is at the other end of a connection.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_util::sync::CancellationToken;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The other end of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Where it is.
    pub address: SocketAddr,
    /// What its certificate says, if it showed one that was verified and says a name and a role.
    pub certificate: Option<CertificateName>,
    /// Ends the connection at once.
    pub cut: CancellationToken,
    /// Whether a call of it was let in.
    admitted: Arc<AtomicBool>,
}

impl Peer {
    /// Somebody of whom no call was let in yet.
    pub fn new(address: SocketAddr, certificate: Option<CertificateName>) -> Self {
        Self { address, certificate, cut: CancellationToken::new(), admitted: Arc::default() }
    }

    /// Says that a call was let in: the connection may stay. One of which that is not said in time is cut.
    pub fn admit(&self) {
        self.admitted.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_admitted(&self) -> bool {
        self.admitted.load(Ordering::Relaxed)
    }
}

/// What counts as one address: whoever has one of an IPv6 network has all 2⁶⁴.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) >> 64 << 64).into()),
        address @ IpAddr::V4(_) => address,
    }
}

/// What the subject of a client certificate says: CN is a name, OU a role, O an owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateName {
    /// CN.
    pub name: String,
    /// OU.
    pub role: String,
    /// O.
    pub owner: Option<String>,
}

impl CertificateName {
    /// None for a certificate without a name or without a role: it says nothing about what its holder may do.
    pub fn read(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let subject = certificate.subject();
        let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
        let role = subject.iter_organizational_unit().next()?.as_str().ok()?.to_owned();
        let owner = subject.iter_organization().next().and_then(|owner| owner.as_str().ok());
        Some(Self { name, role, owner: owner.filter(|owner| !owner.is_empty()).map(str::to_owned) })
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    use super::*;

    fn certificate(subject: &[(DnType, &str)]) -> Vec<u8> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = DistinguishedName::new();
        for (kind, text) in subject {
            params.distinguished_name.push(kind.clone(), *text);
        }
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn a_subject_tells_name_role_and_owner() {
        let (cn, ou, o) = (DnType::CommonName, DnType::OrganizationalUnitName, DnType::OrganizationName);
        let read = |subject: &[(DnType, &str)]| CertificateName::read(&certificate(subject));
        let whole = read(&[(cn.clone(), "w1"), (ou.clone(), "worker"), (o, "ann")]).unwrap();
        assert_eq!(
            (whole.name.as_str(), whole.role.as_str(), whole.owner.as_deref()),
            ("w1", "worker", Some("ann"))
        );
        assert_eq!(read(&[(cn.clone(), "w1"), (ou.clone(), "read")]).unwrap().owner, None);
        assert_eq!(read(&[(cn, "w1")]), None);
        assert_eq!(read(&[(ou, "worker")]), None);
        assert_eq!(CertificateName::read(b"no certificate"), None);
    }
}

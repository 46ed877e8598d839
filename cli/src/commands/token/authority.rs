//! `sanafarm token ca`: a CA of one's own, in a folder.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use jiff::{Timestamp, ToSpan, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SerialNumber,
};

use crate::args::{CaInitArgs, CaIssueArgs, CertificateRole};
use crate::error::{Error, Exit};
use crate::printer::Printer;

/// Clocks differ: a certificate is good from a day before it was made.
const EARLY_DAYS: i64 = 1;

/// Makes the CA.
pub fn init(args: CaInitArgs, printer: &Printer) -> Result<Exit, Error> {
    let (certificate, key) = (args.dir.join("ca.pem"), args.dir.join("ca.key"));
    let failed = |error: rcgen::Error| Error::failure("make a ca").caused_by(&error);
    let mut params = params(Vec::new(), args.days).map_err(failed)?;
    params.distinguished_name.push(DnType::CommonName, args.name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let pair = KeyPair::generate().map_err(failed)?;
    let signed = params.self_signed(&pair).map_err(failed)?;
    std::fs::create_dir_all(&args.dir)
        .map_err(|error| Error::mistake(format!("make folder {}", args.dir.display())).caused_by(&error))?;
    if let Some(there) = [&certificate, &key].into_iter().find(|file| file.exists()) {
        return Err(Error::mistake(format!("there is a ca already: {}", there.display())).hint(
            "sign with it: `sanafarm token ca issue NAME`; for another ca name another folder with --dir",
        ));
    }
    write_new(&key, &pair.serialize_pem(), 0o600)?;
    write_new(&certificate, &signed.pem(), 0o644)?;
    printer.note(format!("whoever has {} can make certificates: keep it from everybody", key.display()));
    printer.data(certificate.display())?;
    Ok(Exit::Success)
}

/// Signs a certificate.
pub fn issue(args: CaIssueArgs, printer: &Printer) -> Result<Exit, Error> {
    let (ca, ca_key) = (args.dir.join("ca.pem"), args.dir.join("ca.key"));
    let folder = args.output.as_deref().unwrap_or(&args.dir);
    let (certificate, key) =
        (folder.join(format!("{}.pem", args.name)), folder.join(format!("{}.key", args.name)));
    if key == ca_key {
        return Err(Error::mistake(format!("the files of {} would be those of the ca", args.name))
            .hint("name it otherwise, or another folder with --output"));
    }
    let there = [&certificate, &key].into_iter().find(|file| file.exists());
    if let Some(there) = there.filter(|_| !args.replace) {
        return Err(Error::mistake(format!("{} is there already", there.display()))
            .hint("add --replace to renew it, with all of its --host or its --role again; or name another folder with --output"));
    }
    let failed = |error: rcgen::Error| {
        Error::failure(format!("sign a certificate for {}", args.name)).caused_by(&error)
    };
    let signer = KeyPair::from_pem(&read(&ca_key)?).map_err(failed)?;
    let issuer = Issuer::from_ca_cert_pem(&read(&ca)?, signer).map_err(failed)?;
    let mut params = params(args.host, args.days).map_err(failed)?;
    let subject = &mut params.distinguished_name;
    subject.push(DnType::CommonName, args.name.clone());
    params.extended_key_usages = match args.role {
        None => vec![ExtendedKeyUsagePurpose::ServerAuth],
        Some(role) => {
            let role = match role {
                CertificateRole::Worker => "worker",
                CertificateRole::Read => "read",
            };
            subject.push(DnType::OrganizationalUnitName, role);
            if let Some(owner) = args.owner {
                subject.push(DnType::OrganizationName, owner);
            }
            vec![ExtendedKeyUsagePurpose::ClientAuth]
        }
    };
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    let pair = KeyPair::generate().map_err(failed)?;
    let signed = params.signed_by(&pair, &issuer).map_err(failed)?;
    std::fs::create_dir_all(folder)
        .map_err(|error| Error::mistake(format!("make folder {}", folder.display())).caused_by(&error))?;
    write_over(&key, &pair.serialize_pem(), 0o600)?;
    write_over(&certificate, &signed.pem(), 0o644)?;
    printer.data(certificate.display())?;
    Ok(Exit::Success)
}

fn params(hosts: Vec<String>, days: u32) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(hosts)?;
    params.distinguished_name = DistinguishedName::new();
    params.not_before = day(-EARLY_DAYS);
    params.not_after = day(i64::from(days));
    params.serial_number = Some(SerialNumber::from_slice(uuid::Uuid::new_v4().as_bytes()));
    Ok(params)
}

/// So many days from now on.
fn day(days: i64) -> time::OffsetDateTime {
    let date = Timestamp::now().to_zoned(TimeZone::UTC).date().saturating_add(days.days());
    rcgen::date_time_ymd(i32::from(date.year()), date.month().unsigned_abs(), date.day().unsigned_abs())
}

fn read(file: &Path) -> Result<String, Error> {
    std::fs::read_to_string(file).map_err(|error| {
        Error::mistake(format!("read {}", file.display()))
            .caused_by(&error)
            .hint("make a ca with `sanafarm token ca init`, and name its folder with --dir")
    })
}

/// A CA that is there is never replaced: all that it has signed would be worth nothing.
fn write_new(file: &Path, text: &str, mode: u32) -> Result<(), Error> {
    write(OpenOptions::new().create_new(true), file, text, mode)
}

/// Whole or not at all: a server may read it at any time.
fn write_over(file: &Path, text: &str, mode: u32) -> Result<(), Error> {
    let mut beside = file.as_os_str().to_owned();
    beside.push(".new");
    write(OpenOptions::new().create(true).truncate(true), Path::new(&beside), text, mode)?;
    std::fs::rename(&beside, file)
        .map_err(|error| Error::mistake(format!("write {}", file.display())).caused_by(&error))
}

fn write(options: &mut OpenOptions, file: &Path, text: &str, mode: u32) -> Result<(), Error> {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, mode);
    #[cfg(not(unix))]
    let _ = mode;
    let written = options.write(true).open(file).and_then(|mut open| open.write_all(text.as_bytes()));
    written.map_err(|error| Error::mistake(format!("write {}", file.display())).caused_by(&error))
}

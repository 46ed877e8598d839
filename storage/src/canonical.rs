//! One name for each output, by which two that are the same are seen to be so.

use std::path::{Component, Path, PathBuf};

use object_store::path::Path as ObjectPath;
use url::Url;

use crate::Error;
use crate::remote::{Scheme, for_people};

/// The one name of an output: an absolute folder without `.`, `..` and slashes at its end, or the URL of an object store with
/// its shortest scheme, its bucket and its prefix. [`crate::Output::open`] opens the same place by it; two names of one place
/// have one. Asks nobody: what links and mounts make of a folder is not seen.
pub fn canonical(output: &str) -> Result<String, Error> {
    if output.is_empty() {
        return Err(Error::Invalid("output: its name is empty".into()));
    }
    if !output.contains("://") {
        return folder(Path::new(output));
    }
    let url = Url::parse(output).map_err(|error| Error::Invalid(format!("output {output}: {error}")))?;
    let refused =
        |why: &dyn std::fmt::Display| Error::Invalid(format!("output {}: {why}", for_people(url.clone()).0));
    let scheme = match Scheme::of(&url) {
        Some(Scheme::File) => {
            let path = url.to_file_path().map_err(|()| refused(&"not a folder on this machine"))?;
            return folder(&path);
        }
        Some(Scheme::S3) => "s3",
        Some(Scheme::Gcs) => "gs",
        Some(Scheme::Azure) => "az",
        Some(Scheme::Http) | None => {
            return Err(refused(&"only folders and s3, gs, az and file URLs are written to"));
        }
    };
    let host = url.host_str().unwrap_or_default();
    // Of Azure's there are `az://container` and `abfss://container@account.dfs.core.windows.net`.
    let container = if scheme == "az" { url.username() } else { "" };
    let plain = |letter: char| {
        letter.is_ascii_lowercase() || letter.is_ascii_digit() || matches!(letter, '.' | '-' | '_' | '$')
    };
    if host.is_empty() || !host.chars().chain(container.chars()).all(plain) {
        return Err(refused(
            &"it names no bucket; those are of lower-case letters, digits, `.`, `-` and `_`",
        ));
    }
    let prefix = ObjectPath::from_url_path(url.path()).map_err(|error| refused(&error))?;
    let at = if container.is_empty() { String::new() } else { format!("{container}@") };
    let mut named = Url::parse(&format!("{scheme}://{at}{host}")).map_err(|error| refused(&error))?;
    if !prefix.as_ref().is_empty() {
        // What looks like an escape in the name of an object is none.
        named.set_path(&format!("/{}", prefix.as_ref().replace('%', "%25")));
    }
    Ok(named.into())
}

fn folder(path: &Path) -> Result<String, Error> {
    let absolute = std::path::absolute(path)
        .map_err(|error| Error::from_io(&format!("find output folder {}", path.display()), &error))?;
    let mut plain = PathBuf::new();
    for part in absolute.components() {
        match part {
            Component::CurDir => {}
            // Above the root is the root.
            Component::ParentDir => drop(plain.pop()),
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => plain.push(part),
        }
    }
    let text = plain.into_os_string().into_string();
    text.map_err(|_| Error::Invalid(format!("output folder {} is not UTF-8", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_place_has_one_name() {
        for (name, others) in [
            (
                "/data/x",
                &["/data/x/", "/data//x", "/data/./x", "/data/y/../x", "/../data/x/.", "file:///data/x"][..],
            ),
            ("/data/x y", &["file:///data/x%20y/", "file://localhost/data/./x%20y"]),
            ("/", &["//", "/..", "file:///"]),
            ("s3://farm", &["s3://farm/", "s3a://farm", "s3://farm?a=b", "s3://key:secret@farm/"]),
            (
                "s3://farm/x",
                &[
                    "s3://farm/x/",
                    "S3://farm/x",
                    "s3a://farm/x",
                    "s3://farm/./x",
                    "s3://farm/y/../x",
                    "s3://farm/y/%2e%2e/x",
                    "s3://farm/%78",
                    "s3://farm:443/x",
                    "s3://farm/x?versionId=1#top",
                    " s3://farm/x",
                ],
            ),
            ("s3://farm/x/y", &["s3://farm/x%2Fy"]),
            ("s3://farm/x%20y", &["s3://farm/x y"]),
            ("s3://farm/%2541", &["s3://farm/%2541/"]),
            ("s3://farm/a%3Fb%23c", &["s3://farm/a%3fb%23c"]),
            ("gs://farm/x", &["gs://farm/x/"]),
            ("az://farm/x", &["azure://farm/x", "abfs://farm/x", "abfss://farm/x/", "adl://farm/x"]),
            (
                "az://farm@acct.dfs.core.windows.net/x",
                &["abfss://farm@acct.dfs.core.windows.net/x/", "abfs://farm@acct.dfs.core.windows.net/./x"],
            ),
        ] {
            assert_eq!(canonical(name).as_deref(), Ok(name));
            for other in others {
                assert_eq!(canonical(other).as_deref(), Ok(name), "{other}");
            }
        }
    }

    #[test]
    fn a_prefix_stays_what_it_was() {
        for name in ["s3://farm/%2541", "s3://farm/a%3Fb", "s3://farm/\u{e4}/b c", "s3://farm/a%25b"] {
            let prefix = |name: &str| ObjectPath::from_url_path(Url::parse(name).unwrap().path()).unwrap();
            assert_eq!(prefix(&canonical(name).unwrap()), prefix(name), "{name}");
        }
    }

    #[test]
    fn what_is_no_output_is_refused() {
        for name in [
            "",
            "s3:///x",
            "s3://f%61rm/x",
            "s3://Farm/x",
            "s3://farm/x//y",
            "s3://farm/%ff",
            "http://farm/x",
            "memory://x",
            "file://farm/x",
        ] {
            assert!(matches!(canonical(name), Err(Error::Invalid(_))), "{name}: {:?}", canonical(name));
        }
        let secret = canonical("http://me:secret@farm/x?token=abc").unwrap_err().to_string();
        assert!(!secret.contains("secret") && !secret.contains("abc"), "{secret}");
    }
}

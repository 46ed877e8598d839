//! What a model is called: `sana-tiny`, a folder, `hf:owner/name[@revision]`, or a prefix of an object store.

use std::path::PathBuf;

use super::Error;
use super::bundled::BUNDLED;

/// The revision of a repository on the hub that is meant when none is named.
const DEFAULT_REVISION: &str = "main";
/// Longest part of a repository's name, and longest revision.
const MAX_PART: usize = 96;
const MAX_REVISION: usize = 255;

/// A model by its name, well-formed; whether it is there is another question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// The model inside the program.
    Bundled,
    /// A folder on this machine.
    Folder(PathBuf),
    /// A model on other machines, which is downloaded before use.
    Remote(Remote),
}

/// A model that is downloaded before use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remote {
    /// A repository on the Hugging Face hub or a mirror of it.
    Hub {
        /// `owner/name`.
        repository: String,
        /// Branch, tag or commit.
        revision: String,
    },
    /// All below a prefix of an object store; the URL has no slash at its end.
    Objects {
        /// Such as `s3://bucket/models/sana`.
        url: String,
    },
}

impl Reference {
    /// Reads a model's name as a person or a job gives it.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let refused = |why: &str| Error::Reference { reference: text.to_owned(), why: why.to_owned() };
        if text == BUNDLED {
            return Ok(Self::Bundled);
        }
        if text.is_empty() || text.contains(char::is_control) {
            return Err(refused("a model has a name on one line"));
        }
        if let Some(rest) = text.strip_prefix("hf:") {
            return hub(rest).map(Self::Remote).map_err(refused);
        }
        let Some((scheme, rest)) = text.split_once("://") else { return Ok(Self::Folder(text.into())) };
        match scheme {
            "s3" | "s3a" | "gs" | "az" | "azure" | "adl" | "abfs" | "abfss" => {
                let url = text.trim_end_matches('/');
                if rest.trim_matches('/').is_empty() {
                    return Err(refused("it names no bucket"));
                }
                if url.contains(['?', '#']) {
                    return Err(refused("a prefix of a bucket has no query"));
                }
                Ok(Self::Remote(Remote::Objects { url: url.to_owned() }))
            }
            "file" => {
                let path = url::Url::parse(text).ok().and_then(|url| url.to_file_path().ok());
                path.map(Self::Folder).ok_or_else(|| refused("it is no folder on this machine"))
            }
            "http" | "https" => Err(refused("the files below a web address cannot be listed")),
            _ => Err(refused("models come from hf:, s3://, gs://, az:// and file://")),
        }
    }
}

/// `owner/name[@revision]`.
fn hub(text: &str) -> Result<Remote, &'static str> {
    let text = text.trim_start_matches("//");
    let (repository, revision) = text.split_once('@').unwrap_or((text, DEFAULT_REVISION));
    let parts: Vec<&str> = repository.split('/').collect();
    let is_name = |part: &&str| {
        let letter = |letter: u8| letter.is_ascii_alphanumeric() || matches!(letter, b'-' | b'_' | b'.');
        !part.is_empty()
            && part.len() <= MAX_PART
            && part.bytes().all(letter)
            && !part.starts_with(['.', '-'])
            && !part.contains("..")
    };
    if parts.len() != 2 || !parts.iter().all(is_name) {
        return Err("a repository on the hub is called owner/name");
    }
    let is_bad = |letter: char| letter.is_whitespace() || letter.is_control() || "?#\\".contains(letter);
    if revision.is_empty() || revision.len() > MAX_REVISION || revision.contains(is_bad) {
        return Err("what follows @ is no branch, tag or commit");
    }
    Ok(Remote::Hub { repository: repository.to_owned(), revision: revision.to_owned() })
}

impl Remote {
    /// Its name without the revision.
    pub fn source(&self) -> String {
        match self {
            Self::Hub { repository, .. } => format!("hf:{repository}"),
            Self::Objects { url } => url.clone(),
        }
    }

    /// The revision as it was asked for; empty where there is none.
    pub fn revision(&self) -> &str {
        match self {
            Self::Hub { revision, .. } => revision,
            Self::Objects { .. } => "",
        }
    }

    /// The commit, when it is one: what is there under its name never changes.
    pub fn commit(&self) -> Option<&str> {
        let is_commit = |text: &str| text.len() == 40 && text.bytes().all(|b| b.is_ascii_hexdigit());
        match self {
            Self::Hub { revision, .. } => Some(revision.as_str()).filter(|text| is_commit(text)),
            Self::Objects { .. } => None,
        }
    }

    /// The same model at this version and no other, where versions have names.
    pub fn pinned(&self, version: &str) -> String {
        match self {
            Self::Hub { repository, .. } => format!("hf:{repository}@{version}"),
            Self::Objects { url } => url.clone(),
        }
    }

    /// What the model is called: its folder's name, which goes into every recipe.
    pub fn name(&self) -> &str {
        let text = match self {
            Self::Hub { repository, .. } => repository,
            Self::Objects { url } => url,
        };
        text.rsplit('/').next().filter(|name| !name.starts_with('.')).unwrap_or("model")
    }
}

impl std::fmt::Display for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Hub { repository, revision } if revision == DEFAULT_REVISION => {
                write!(f, "hf:{repository}")
            }
            Self::Hub { repository, revision } => write!(f, "hf:{repository}@{revision}"),
            Self::Objects { url } => f.write_str(url),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(text: &str) -> Remote {
        match Reference::parse(text).unwrap() {
            Reference::Remote(remote) => remote,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_kind_of_reference_is_told_from_the_others() {
        assert_eq!(Reference::parse("sana-tiny").unwrap(), Reference::Bundled);
        assert_eq!(Reference::parse("models/a").unwrap(), Reference::Folder("models/a".into()));
        assert_eq!(Reference::parse("file:///models/a").unwrap(), Reference::Folder("/models/a".into()));
        let hub = remote("hf:acme/sana-1.5");
        assert_eq!(
            (hub.source().as_str(), hub.revision(), hub.name()),
            ("hf:acme/sana-1.5", "main", "sana-1.5")
        );
        assert_eq!((hub.to_string().as_str(), hub.commit()), ("hf:acme/sana-1.5", None));
        let commit = "0123456789abcdef0123456789ABCDEF01234567";
        let pinned = remote(&hub.pinned(commit));
        assert_eq!(
            (pinned.commit(), pinned.to_string()),
            (Some(commit), format!("hf:acme/sana-1.5@{commit}"))
        );
        assert_eq!(remote("hf:acme/a@refs/pr/1").revision(), "refs/pr/1");
        let objects = remote("s3://bucket/models/sana/");
        assert_eq!((objects.to_string().as_str(), objects.name()), ("s3://bucket/models/sana", "sana"));
        assert_eq!(remote("gs://bucket").name(), "bucket");
    }

    #[test]
    fn what_cannot_be_a_model_is_refused_with_its_reason() {
        for (text, why) in [
            ("", "a model has a name"),
            ("hf:sana", "owner/name"),
            ("hf:a/b/c", "owner/name"),
            ("hf:../b", "owner/name"),
            ("hf:a/b@", "no branch"),
            ("hf:a/b@x y", "no branch"),
            ("s3://", "names no bucket"),
            ("s3://b/m?versionId=3", "no query"),
            ("https://host/model", "cannot be listed"),
            ("ftp://host/model", "models come from"),
        ] {
            let error = Reference::parse(text).unwrap_err();
            assert!(error.to_string().contains(why), "{text}: {error}");
        }
    }
}

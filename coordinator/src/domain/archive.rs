//! Names of tars in the layout webdataset.
//!
//! A worker puts the tar of its lease under a staged name that no other attempt has. Once its pictures are committed it
//! gets its final name: numbers of an output have no holes, so that `train-{000000..000041}.tar` is all of it.

/// Folder of what has no final name yet, below the output.
pub const STAGING: &str = ".staging";

/// Where the tar of an attempt is put.
pub fn staged_name(shard: &str, attempt: u32) -> String {
    format!("{STAGING}/{shard}-{attempt}.tar")
}

/// Whether a tar belongs to this attempt: its name is the staged one, or that with a number for one that was packed anew.
pub fn is_staged_name(object: &str, shard: &str, attempt: u32) -> bool {
    let name = staged_name(shard, attempt);
    let stem = name.strip_suffix(".tar").unwrap_or(&name);
    let Some(more) = object.strip_prefix(stem).and_then(|rest| rest.strip_suffix(".tar")) else {
        return false;
    };
    let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    more.is_empty() || more.strip_prefix('-').is_some_and(is_number)
}

/// The final name. The views of the databases say the same.
pub fn final_name(number: u64) -> String {
    format!("train-{number:06}.tar")
}

/// Its part of the manifest.
pub fn manifest_name(number: u64) -> String {
    format!("{}/train-{number:06}.parquet", super::form::MANIFESTS)
}

/// The lowest so many numbers that are not used; `used` in order. A tar that was withdrawn leaves its number free.
pub fn free_numbers(used: &[u64], count: usize) -> Vec<u64> {
    let mut used = used.iter().copied().peekable();
    (0..).filter(|number| used.next_if_eq(number).is_none()).take(count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_filled_first() {
        assert_eq!(free_numbers(&[], 2), [0, 1]);
        assert_eq!(free_numbers(&[0, 1, 3, 6], 4), [2, 4, 5, 7]);
    }

    #[test]
    fn a_tar_is_of_one_attempt() {
        assert_eq!(staged_name("0199-ab", 3), ".staging/0199-ab-3.tar");
        for good in [".staging/0199-ab-3.tar", ".staging/0199-ab-3-1.tar", ".staging/0199-ab-3-12.tar"] {
            assert!(is_staged_name(good, "0199-ab", 3), "{good}");
        }
        for wrong in [
            ".staging/0199-ab-31.tar",
            ".staging/0199-ab-3-.tar",
            ".staging/0199-ab-3-1-1.tar",
            ".staging/0199-ab-3",
            ".staging/0199-ab-4.tar",
            "0199-ab-3.tar",
            "",
        ] {
            assert!(!is_staged_name(wrong, "0199-ab", 3), "{wrong}");
        }
        assert_eq!(
            (final_name(7), final_name(1_234_567)),
            ("train-000007.tar".into(), "train-1234567.tar".into())
        );
    }
}

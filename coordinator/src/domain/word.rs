//! Enums that are stored as one word.

/// A word from the database that none of the enum's words equals. Unknown is an error, never a default.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown {kind} {word:?}")]
pub struct UnknownWord {
    /// Which enum was wanted.
    pub kind: &'static str,
    /// What was found.
    pub word: String,
}

/// Defines an enum whose variants are stored as words, with `ALL`, `word()` and `FromStr`.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident, $kind:literal { $($(#[$variant_meta:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$variant_meta])* $variant,)+
        }

        impl $name {
            /// Every value, in the order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word that stands for it in the database.
            pub fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::domain::UnknownWord;

            fn from_str(word: &str) -> Result<Self, Self::Err> {
                match word {
                    $($word => Ok(Self::$variant),)+
                    _ => Err($crate::domain::UnknownWord { kind: $kind, word: word.to_owned() }),
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.word())
            }
        }
    };
}

pub(crate) use words;

#[cfg(test)]
mod tests {
    use crate::auth::AuthFailure;
    use crate::domain::access::Role;
    use crate::domain::blame::ErrorClass;
    use crate::domain::event::{EventKind, ImageKind};
    use crate::domain::form::{ImageFormat, Layout};
    use crate::domain::leaving::Drain;
    use crate::domain::listing::ObjectState;
    use crate::domain::schedule::DeviceKind;
    use crate::domain::settings::{BinMode, DecodeMode};
    use crate::domain::state::{ImageState, JobState, LeaseEnd, ShardState};
    use crate::domain::webhook::WebhookState;

    #[test]
    fn every_word_is_read_as_what_wrote_it() {
        macro_rules! check {
            ($($name:ident)+) => {
                $(for value in $name::ALL {
                    assert_eq!(value.word().parse::<$name>().as_ref(), Ok(value));
                })+
            };
        }
        check!(
            AuthFailure Role
            ErrorClass BinMode DecodeMode DeviceKind Drain EventKind ImageFormat ImageKind ImageState JobState Layout LeaseEnd ObjectState ShardState WebhookState
        );
        assert_eq!("Done".parse::<ImageState>().unwrap_err().to_string(), r#"unknown image state "Done""#);
    }
}

//! What the cells of a Parquet column are.

use ::parquet::basic::{ConvertedType, LogicalType, Repetition, TimeUnit, Type as Physical};
use ::parquet::schema::types::Type;

/// Digits that 128 bits hold.
const MAX_DIGITS: u32 = 38;

/// How the stored values of a column are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// As they are stored.
    Plain,
    /// Integers without a sign.
    Unsigned,
    /// UTF-8.
    Text,
    /// Days since 1970.
    Date,
    /// A time since 1970; one in UTC or one of an unknown zone.
    Time {
        /// Nanoseconds of one step.
        step: i64,
        /// Whether it is in UTC.
        utc: bool,
    },
    /// Decimal numbers with so many digits behind the point.
    Decimal(u32),
}

impl Kind {
    /// Of a top-level field of a schema; in words what it holds that has no place in a row.
    pub fn of(field: &Type) -> Result<Self, &'static str> {
        let info = field.get_basic_info();
        let repeated = info.has_repetition() && info.repetition() == Repetition::REPEATED;
        if field.is_group() || repeated {
            return Err("nested values");
        }
        let (logical, converted) = (info.logical_type_ref(), info.converted_type());
        let decimal = matches!(logical, Some(LogicalType::Decimal(_))) || converted == ConvertedType::DECIMAL;
        if decimal {
            let scale = u32::try_from(field.get_scale()).ok().filter(|scale| *scale <= MAX_DIGITS);
            return scale.map(Self::Decimal).ok_or("decimal numbers of an odd scale");
        }
        match field.get_physical_type() {
            Physical::BOOLEAN | Physical::FLOAT | Physical::DOUBLE => Ok(Self::Plain),
            Physical::INT32 | Physical::INT64 => Self::of_integer(logical, converted),
            Physical::INT96 => Ok(Self::Time { step: 1_000_000, utc: true }),
            Physical::BYTE_ARRAY => match (logical, converted) {
                (Some(LogicalType::String | LogicalType::Enum | LogicalType::Json), _)
                | (None, ConvertedType::UTF8 | ConvertedType::ENUM | ConvertedType::JSON) => Ok(Self::Text),
                // Some writers do not say that their strings are text.
                (None, ConvertedType::NONE) => Ok(Self::Text),
                _ => Err("binary values"),
            },
            Physical::FIXED_LEN_BYTE_ARRAY => Err("binary values of a fixed length"),
        }
    }

    fn of_integer(logical: Option<&LogicalType>, converted: ConvertedType) -> Result<Self, &'static str> {
        match (logical, converted) {
            (Some(LogicalType::Date), _) | (_, ConvertedType::DATE) => Ok(Self::Date),
            (Some(LogicalType::Timestamp(time)), _) => {
                let step = match time.unit {
                    TimeUnit::MILLIS => 1_000_000,
                    TimeUnit::MICROS => 1_000,
                    TimeUnit::NANOS => 1,
                };
                Ok(Self::Time { step, utc: time.is_adjusted_to_u_t_c })
            }
            (_, ConvertedType::TIMESTAMP_MILLIS) => Ok(Self::Time { step: 1_000_000, utc: true }),
            (_, ConvertedType::TIMESTAMP_MICROS) => Ok(Self::Time { step: 1_000, utc: true }),
            (Some(LogicalType::Time(_)), _)
            | (_, ConvertedType::TIME_MILLIS | ConvertedType::TIME_MICROS) => Err("times of day"),
            (Some(LogicalType::Integer(integer)), _) if !integer.is_signed => Ok(Self::Unsigned),
            (
                _,
                ConvertedType::UINT_8
                | ConvertedType::UINT_16
                | ConvertedType::UINT_32
                | ConvertedType::UINT_64,
            ) => Ok(Self::Unsigned),
            _ => Ok(Self::Plain),
        }
    }
}

//! Amounts in words.

use indicatif::{DecimalBytes, HumanCount};

/// A length of time, in the two largest units that are not zero.
pub fn duration(seconds: f64) -> String {
    if seconds < 60.0 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    let (days, hours, minutes, seconds) = (whole / 86_400, whole / 3600 % 24, whole / 60 % 60, whole % 60);
    match (days, hours) {
        (0, 0) => format!("{minutes} min {seconds} s"),
        (0, hours) => format!("{hours} h {minutes} min"),
        (days, hours) => format!("{days} d {hours} h"),
    }
}

/// A number of bytes, in decimal units as disks are sold.
pub fn bytes(bytes: f64) -> String {
    DecimalBytes(bytes.round() as u64).to_string()
}

/// A whole number with its thousands apart.
pub fn count(number: u64) -> String {
    HumanCount(number).to_string()
}

/// So many things that are called this.
pub fn counted(number: u64, name: &str) -> String {
    if number == 1 { format!("1 {name}") } else { format!("{} {name}s", count(number)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_the_units_that_people_use() {
        let times: Vec<String> = [0.26, 59.9, 60.0, 3599.6, 5400.0, 90_000.0].map(duration).into();
        assert_eq!(times, ["0.3 s", "59.9 s", "1 min 0 s", "1 h 0 min", "1 h 30 min", "1 d 1 h"]);
    }
}

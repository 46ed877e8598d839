//! Amounts in words.

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
    let units = ["kB", "MB", "GB", "TB", "PB"];
    if bytes < 1000.0 {
        return format!("{bytes:.0} B");
    }
    let mut scaled = bytes / 1000.0;
    let mut unit = 0;
    // What rounds to 1000 is one of the next unit.
    while scaled >= 999.95 && unit + 1 < units.len() {
        scaled /= 1000.0;
        unit += 1;
    }
    format!("{scaled:.1} {}", units[unit])
}

/// A whole number with its thousands apart.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_told_in_the_units_that_people_use() {
        let times: Vec<String> = [0.26, 59.9, 60.0, 3599.6, 5400.0, 90_000.0].map(duration).into();
        assert_eq!(times, ["0.3 s", "59.9 s", "1 min 0 s", "1 h 0 min", "1 h 30 min", "1 d 1 h"]);
        let sizes: Vec<String> = [7.0, 1500.0, 999_990.0, 2.5e13, 1e19].map(bytes).into();
        assert_eq!(sizes, ["7 B", "1.5 kB", "1.0 MB", "25.0 TB", "10000.0 PB"]);
        let counts: Vec<String> = [0, 999, 1000, 1_234_567].map(count).into();
        assert_eq!(counts, ["0", "999", "1,000", "1,234,567"]);
    }
}

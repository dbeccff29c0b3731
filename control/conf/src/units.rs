//! Sizes and rates as people type them: `256MiB`, `1gb`, `5Mbps`.
//!
//! `MB` and `MiB` both mean 2^20 bytes, as the original's tables and inputs do; rates are decimal bits per second.
//! Deliberately absent: fractions of a byte.

/// Bytes. A number without unit is bytes.
pub fn bytes(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text)?;
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1_u64 << 40,
        _ => return Err(format!("\"{unit}\" is no unit of size")),
    };
    scale(number, factor)
}

/// Bits per second. A number without unit is bits per second.
pub fn bits_per_second(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text)?;
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "bps" => 1,
        "kbps" | "k" => 1_000,
        "mbps" | "m" => 1_000_000,
        "gbps" | "g" => 1_000_000_000,
        _ => return Err(format!("\"{unit}\" is no unit of bandwidth")),
    };
    scale(number, factor)
}

/// `256MiB`, `1GiB`, `1.5GiB`: the form of the original's tables.
#[must_use]
pub fn show_bytes(bytes: u64) -> String {
    const UNITS: [(&str, u64); 4] =
        [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    for (unit, size) in UNITS {
        if bytes >= size {
            let (whole, tenth) = (bytes / size, bytes % size * 10 / size);
            return if tenth == 0 {
                format!("{whole}{unit}")
            } else {
                format!("{whole}.{tenth}{unit}")
            };
        }
    }
    format!("{bytes}B")
}

fn split(text: &str) -> Result<(f64, &str), String> {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let number: f64 =
        text[..end].parse().map_err(|_| format!("\"{text}\" does not begin with a number"))?;
    Ok((number, text[end..].trim()))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "checked to lie below 2^53, where every whole number is exact; never negative, no sign is read"
)]
fn scale(number: f64, factor: u64) -> Result<u64, String> {
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    let all = number * factor as f64;
    if all > EXACT_MAX { Err("that is too large".to_owned()) } else { Ok(all as u64) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: every form of the documents, both ways.
    #[test]
    fn forms_of_the_documents() {
        for (text, expected) in [
            ("256MiB", 256 << 20),
            ("256MB", 256 << 20),
            ("1gb", 1 << 30),
            ("0", 0),
            ("1.5g", 3 << 29),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        assert_eq!(bits_per_second("10Mbps"), Ok(10_000_000));
        assert_eq!(bytes("lots").unwrap_err(), "\"lots\" does not begin with a number");
        assert_eq!(bytes("5 apples").unwrap_err(), "\"apples\" is no unit of size");
        assert!(bytes("99999999999TB").is_err());
        for (size, text) in [
            (256 << 20, "256MiB"),
            (1 << 30, "1GiB"),
            (3 << 29, "1.5GiB"),
            (1000, "1000B"),
            (0, "0B"),
        ] {
            assert_eq!(show_bytes(size), text);
        }
    }
}

//! Amounts as people type and read them: `256MB`, `1gb`, `5Mbps`, `30s`, and back.
//!
//! `MB` and `MiB` are both 2²⁰ bytes, bandwidth is decimal bits, as the original has it. Deliberately absent: fractions
//! of bytes.

use crate::failure::Failure;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// Bytes: a number alone counts mebibytes.
pub(crate) fn bytes(text: &str) -> Result<u64, Failure> {
    let refused = || {
        Failure::usage(format!("\"{text}\" is not an amount of memory"))
            .hint("a number and a unit, such as 256MB, 256MiB or 1GB")
    };
    let (number, unit) = split(text);
    let scale = match unit.to_ascii_lowercase().as_str() {
        "b" => 1,
        "k" | "kb" | "kib" => KIB,
        "" | "m" | "mb" | "mib" => MIB,
        "g" | "gb" | "gib" => GIB,
        "t" | "tb" | "tib" => TIB,
        _ => return Err(refused()),
    };
    scaled(number, scale).ok_or_else(refused)
}

/// Bits per second: a number alone counts megabits.
pub(crate) fn bits_per_second(text: &str) -> Result<u64, Failure> {
    let refused = || {
        Failure::usage(format!("\"{text}\" is not a bandwidth"))
            .hint("a number and a unit, such as 5Mbps, 500kbps or 1Gbps")
    };
    let (number, unit) = split(text);
    let scale = match unit.to_ascii_lowercase().as_str() {
        "b" | "bps" => 1,
        "k" | "kb" | "kbps" => 1_000,
        "" | "m" | "mb" | "mbps" => 1_000_000,
        "g" | "gb" | "gbps" => 1_000_000_000,
        _ => return Err(refused()),
    };
    scaled(number, scale).ok_or_else(refused)
}

/// Milliseconds of processor time per second: `200`, `200ms`, `200ms/s`.
pub(crate) fn cpu(text: &str) -> Result<u64, Failure> {
    let number = text.trim().trim_end_matches("/s").trim_end_matches("ms");
    number.trim().parse().map_err(|_| {
        Failure::usage(format!("\"{text}\" is not an amount of processor time"))
            .hint("milliseconds per second, such as 200 or 200ms/s; 0 = uncapped")
    })
}

/// Whole seconds: `30`, `30s`, `2m`, `1h`.
pub(crate) fn seconds(text: &str) -> Result<u64, Failure> {
    let refused = || {
        Failure::usage(format!("\"{text}\" is not a time"))
            .hint("seconds, or a number and s, m or h, such as 30, 90s or 2m")
    };
    let (number, unit) = split(text);
    let scale = match unit.to_ascii_lowercase().as_str() {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3_600,
        _ => return Err(refused()),
    };
    scaled(number, scale).ok_or_else(refused)
}

/// `256MiB`, `1GiB`, `1536KiB`: the largest unit that divides it.
pub(crate) fn show_bytes(bytes: u64) -> String {
    for (scale, unit) in [(TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")] {
        if bytes >= scale && bytes.is_multiple_of(scale) {
            return format!("{}{unit}", bytes / scale);
        }
    }
    format!("{bytes}B")
}

/// `12.3MiB`: for amounts that were measured.
pub(crate) fn show_about(bytes: u64) -> String {
    for (scale, unit) in [(TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")] {
        if bytes >= scale {
            let tenths = bytes / (scale / 10).max(1);
            return format!("{}.{}{unit}", tenths / 10, tenths % 10);
        }
    }
    format!("{bytes}B")
}

/// `5Mbps`.
pub(crate) fn show_bits_per_second(bits: u64) -> String {
    for (scale, unit) in [(1_000_000_000, "Gbps"), (1_000_000, "Mbps"), (1_000, "kbps")] {
        if bits >= scale && bits.is_multiple_of(scale) {
            return format!("{}{unit}", bits / scale);
        }
    }
    if bits == 0 { "0Mbps".to_owned() } else { format!("{bits}bps") }
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    (&text[..end], text[end..].trim())
}

/// `1.5` times `scale`, exact to three decimals.
fn scaled(number: &str, scale: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.len() > 3 || fraction.contains('.') {
        return None;
    }
    let whole: u64 = whole.parse().ok()?;
    let thousandths: u64 = format!("{fraction:0<3}").parse().ok()?;
    whole.checked_mul(scale)?.checked_add(thousandths.checked_mul(scale)? / 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Goal: every spelling of the documents, and the answers that they show.
    #[test]
    fn amounts_and_back() {
        for (text, expected) in [
            ("256MB", "256MiB"),
            ("256", "256MiB"),
            ("1gb", "1GiB"),
            ("1.5GiB", "1536MiB"),
            ("512 kb", "512KiB"),
            ("7B", "7B"),
        ] {
            assert_eq!(show_bytes(bytes(text).unwrap()), expected, "{text}");
        }
        assert_eq!(show_bits_per_second(bits_per_second("5Mbps").unwrap()), "5Mbps");
        assert_eq!(show_bits_per_second(0), "0Mbps");
        assert_eq!(bits_per_second("1500k").unwrap(), 1_500_000);
        assert_eq!((cpu("200ms/s").unwrap(), cpu("0").unwrap()), (200, 0));
        assert_eq!((seconds("30").unwrap(), seconds("2m").unwrap()), (30, 120));
        assert_eq!(show_about(12 * MIB + MIB / 3), "12.3MiB");
    }

    /// Goal: what is no amount is refused with what was read.
    #[test]
    fn what_is_no_amount_is_refused() {
        for text in ["", "MB", "1.2345GB", "1..2", "99999999999999999999", "-1", "12 parsecs"] {
            assert!(bytes(text).is_err(), "{text:?}");
        }
        assert_eq!(bytes("much").unwrap_err().what, "\"much\" is not an amount of memory");
        assert!(bits_per_second("fast").is_err() && cpu("x").is_err() && seconds("soon").is_err());
    }

    proptest! {
        /// Goal: what is shown is read as the same amount; nothing panics.
        #[test]
        fn shown_is_read(amount in 0..u64::MAX / 2, junk in ".{0,12}") {
            prop_assert_eq!(bytes(&show_bytes(amount)).unwrap(), amount);
            prop_assert_eq!(bits_per_second(&show_bits_per_second(amount)).unwrap(), amount);
            drop((bytes(&junk), bits_per_second(&junk), cpu(&junk), seconds(&junk)));
        }
    }
}

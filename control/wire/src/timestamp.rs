//! A point in time as the records write it: RFC 3339 in UTC with up to nine digits after the second.
//!
//! Deliberately absent: reading a clock. Whoever needs "now" gets it from the clock of its service.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// UTC, nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(OffsetDateTime);

impl Timestamp {
    /// Milliseconds since 1970; a value beyond the year 9999 becomes the epoch.
    #[must_use]
    pub fn from_unix_ms(ms: u64) -> Self {
        let nanos = i128::from(ms) * 1_000_000;
        Self(OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH))
    }

    /// Milliseconds since 1970; times before that are 0.
    #[must_use]
    pub fn unix_ms(self) -> u64 {
        u64::try_from(self.0.unix_timestamp_nanos() / 1_000_000).unwrap_or(0)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.format(&Rfc3339).map_err(|_| fmt::Error)?)
    }
}

impl FromStr for Timestamp {
    type Err = time::error::Parse;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        OffsetDateTime::parse(text, &Rfc3339).map(|at| Self(at.to_offset(time::UtcOffset::UTC)))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what is read is what is written, to the nanosecond, and other zones become UTC.
    #[test]
    fn text_and_back() {
        let at: Timestamp = "2016-05-04T12:00:01.123456789Z".parse().unwrap();
        assert_eq!(at.to_string(), "2016-05-04T12:00:01.123456789Z");
        let zoned: Timestamp = "2016-05-04T14:00:01.5+02:00".parse().unwrap();
        assert_eq!(zoned.to_string(), "2016-05-04T12:00:01.5Z");
        assert_eq!(Timestamp::from_unix_ms(zoned.unix_ms()), zoned);
        assert!("yesterday".parse::<Timestamp>().is_err());
    }
}

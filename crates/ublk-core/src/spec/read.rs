//! Reads values that have another form in JSON.

use crate::queue::{CopyMode, Transport};
use serde::de::{Deserialize, Deserializer, Error};
use std::time::Duration;

/// A number of microseconds.
pub fn microseconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    u64::deserialize(deserializer).map(Duration::from_micros)
}

/// `auto`, or the name of a transport.
pub fn transport<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Transport>, D::Error> {
    named(deserializer, "transport", &Transport::ALL, Transport::name)
}

/// `auto`, or the name of a copy mode.
pub fn copy_mode<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<CopyMode>, D::Error> {
    named(deserializer, "copy", &CopyMode::ALL, CopyMode::name)
}

fn named<'de, D: Deserializer<'de>, T: Copy>(
    deserializer: D,
    what: &str,
    all: &[T],
    name_of: fn(T) -> &'static str,
) -> Result<Option<T>, D::Error> {
    let name = String::deserialize(deserializer)?;
    if name == "auto" {
        return Ok(None);
    }
    all.iter().copied().find(|one| name_of(*one) == name).map(Some).ok_or_else(|| {
        let names: Vec<_> = all.iter().map(|one| name_of(*one)).collect();
        D::Error::custom(format!("there is no {what} {name:?}, but auto, {}", names.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Recovery, Spec, Threads};
    use super::*;

    fn read(json: &str) -> Result<Spec, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn options_are_read_from_json() {
        let spec = read(
            r#"{ "queues": 2, "readOnly": true, "maxDiscard": 8589934592, "recovery": "fail", "threads": "shared",
                "poll": 50, "transport": "per-io", "copy": "zero", "buffers": { "hugePages": true } }"#,
        );
        let spec = spec.unwrap();
        assert_eq!((spec.queues, spec.depth, spec.read_only), (2, 128, true));
        assert_eq!((spec.max_discard, spec.recovery), (Some(1 << 33), Some(Recovery::Fail)));
        assert_eq!((spec.threads, spec.poll), (Threads::Shared, Duration::from_micros(50)));
        assert_eq!((spec.transport, spec.copy), (Some(Transport::PerIo), Some(CopyMode::Zero)));
        assert!(spec.buffers.huge && !spec.buffers.lock);
    }

    #[test]
    fn automatic_choices_are_none() {
        let spec = read(r#"{ "transport": "auto", "copy": "auto" }"#).unwrap();
        assert_eq!((spec.transport, spec.copy), (None, None));
    }

    #[test]
    fn wrong_options_are_named() {
        for (json, message) in [
            (r#"{ "queue": 2 }"#, "unknown field `queue`, expected one of `id`, `queues`"),
            (r#"{ "queues": -1 }"#, "invalid value: integer `-1`, expected u32"),
            (r#"{ "copy": "none" }"#, r#"there is no copy "none", but auto, copy, user, zero"#),
            (
                r#"{ "recovery": "retry" }"#,
                "unknown variant `retry`, expected one of `requeue`, `reissue`, `fail`",
            ),
        ] {
            let error = read(json).unwrap_err();
            assert!(error.starts_with(message), "{error}");
        }
    }
}

//! When to try again, and how long to wait before that.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

/// Patience with registries. All waiting is bounded by these values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts at one thing in one place, the first included. A download that moved
    /// [`PROGRESS`] bytes since its last failure starts to count anew.
    pub attempts: u32,
    /// Delay before the second attempt; it doubles from one to the next.
    pub base_delay: Duration,
    /// The longest delay that doubling leads to.
    pub max_delay: Duration,
    /// The longest delay that a registry can ask for with `Retry-After`.
    pub max_retry_after: Duration,
    /// Time to connect.
    pub connect: Duration,
    /// Time in which something must move: the head of an answer, or [`RetryPolicy::floor`] bytes
    /// of a body.
    pub stall: Duration,
    /// Bytes that must arrive in each [`RetryPolicy::stall`].
    pub floor: u64,
    /// Time for a small body (a manifest, a token, an error) as a whole.
    pub small_body: Duration,
}

/// A download that moves this many bytes is getting on.
pub const PROGRESS: u64 = 1 << 20;

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 5,
            base_delay: Duration::from_millis(500),
            max_delay: Duration::from_secs(15),
            max_retry_after: Duration::from_mins(1),
            connect: Duration::from_secs(10),
            stall: Duration::from_secs(30),
            floor: 1024,
            small_body: Duration::from_mins(1),
        }
    }
}

impl RetryPolicy {
    /// The delay after failed attempt number `attempt` (from 1): half of it fixed, half by chance,
    /// so that many clients that failed together do not come back together.
    #[must_use]
    pub fn delay(&self, attempt: u32, retry_after: Option<Duration>) -> Duration {
        if let Some(asked) = retry_after {
            return asked.min(self.max_retry_after);
        }
        let doubled =
            self.base_delay.saturating_mul(1 << attempt.saturating_sub(1).min(16)).min(self.max_delay);
        // A freshly keyed hasher is all the randomness that jitter needs.
        let chance = u32::try_from(RandomState::new().hash_one(attempt) % 1000).unwrap_or_default();
        doubled / 2 + doubled.mul_f64(f64::from(chance) / 2000.0)
    }
}

/// `Retry-After` in either of its forms: seconds, or a date (RFC 9110, section 10.2.3).
pub(super) fn retry_after(value: &str, now: jiff::Timestamp) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(value).ok()?;
    Some(Duration::try_from(date.duration_since(now)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_and_are_bounded() {
        let policy = RetryPolicy::default();
        for attempt in 1..40 {
            let delay = policy.delay(attempt, None);
            let full = policy.base_delay.saturating_mul(1 << (attempt - 1).min(16)).min(policy.max_delay);
            assert!(delay >= full / 2 && delay <= full, "{attempt}: {delay:?}");
        }
        assert_eq!(policy.delay(1, Some(Duration::from_secs(7))), Duration::from_secs(7));
        assert_eq!(policy.delay(1, Some(Duration::from_hours(24))), policy.max_retry_after);
    }

    #[test]
    fn retry_after_in_both_forms() {
        let now = "2026-11-21T08:00:00Z".parse().unwrap();
        assert_eq!(retry_after("3", now), Some(Duration::from_secs(3)));
        assert_eq!(retry_after("Sat, 21 Nov 2026 08:00:09 GMT", now), Some(Duration::from_secs(9)));
        assert_eq!(retry_after("Sat, 21 Nov 2026 07:00:00 GMT", now), Some(Duration::ZERO));
        assert_eq!(retry_after("soon", now), None);
    }
}

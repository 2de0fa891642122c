//! A condition and a limit in → the value, once the condition holds, or a panic that says what was waited for.

use std::time::{Duration, Instant};

/// Long enough for a busy two-core machine; a test that waits this long has failed.
pub const GENEROUS: Duration = Duration::from_secs(20);

/// Calls `probe` until it gives a value. Panics after `limit` with `what` was awaited.
pub fn until<T>(limit: Duration, what: &str, probe: impl FnMut() -> Option<T>) -> T {
    within(limit, probe).unwrap_or_else(|| panic!("waited {limit:?} for {what}"))
}

/// Calls `probe` until it holds. Panics after `limit` with `what` was awaited.
pub fn until_true(limit: Duration, what: &str, mut probe: impl FnMut() -> bool) {
    until(limit, what, || probe().then_some(()));
}

/// The same for async tests; `probe` must not block.
pub async fn until_async<T>(
    limit: Duration,
    what: &str,
    mut probe: impl FnMut() -> Option<T>,
) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(Instant::now() < end, "waited {limit:?} for {what}");
        tokio::time::sleep(STEP).await;
    }
}

/// Calls `probe` until it gives a value or `limit` has passed.
pub fn within<T>(limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(value) = probe() {
            return Some(value);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(STEP);
    }
}

const STEP: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_the_value_or_nothing() {
        let mut calls = 0;
        let value = within(GENEROUS, || {
            calls += 1;
            (calls == 3).then_some(calls)
        });
        assert_eq!(value, Some(3));
        assert_eq!(within(Duration::from_millis(30), || None::<()>), None);
    }
}

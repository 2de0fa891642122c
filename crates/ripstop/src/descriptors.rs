//! How many files this process may hold open.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the limit as far as it goes without privileges, and returns it. Only for processes that start no others: what
/// they start would inherit a number that some programs count up to.
pub(crate) fn raise() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return 1024;
    };
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(_) => soft,
    }
}

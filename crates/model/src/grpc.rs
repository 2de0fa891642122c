//! The statuses of gRPC by name (`google.rpc.Code`).

/// A status' number is its place.
pub const STATUSES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// The number of the status with this name, to the letter.
pub fn status(name: &str) -> Option<u32> {
    (0..)
        .zip(STATUSES)
        .find(|(_, known)| *known == name)
        .map(|(code, _)| code)
}

#[cfg(test)]
mod tests {
    #[test]
    fn by_name() {
        assert_eq!(super::status("OK"), Some(0));
        assert_eq!(super::status("UNAVAILABLE"), Some(14));
        assert_eq!(super::status("UNAUTHENTICATED"), Some(16));
        assert_eq!(super::status("unavailable"), None);
    }
}

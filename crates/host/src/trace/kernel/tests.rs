use super::*;

#[test]
fn a_connection_is_the_same_key_here_and_there() {
    let ends = Ends {
        local: "10.88.0.2:40001".parse().unwrap(),
        remote: "240.240.0.7:80".parse().unwrap(),
    };
    let key = words(ends);
    assert_eq!(key[0], 0);
    assert_eq!(key[1].to_le_bytes(), [0, 0, 0xff, 0xff, 10, 88, 0, 2]);
    assert_eq!(key[4].to_le_bytes(), [0x41, 0x9c, 80, 0, 0, 0, 0, 0]);
}

/// What the verifier refuses is ours to mend; what this machine lacks is not.
#[test]
fn the_kernel_accepts_the_programs_or_says_what_it_lacks() {
    let loaded = available();
    assert!(
        !matches!(loaded, Err(Unavailable::Refused(_) | Unavailable::Format)),
        "{loaded:?}"
    );
}

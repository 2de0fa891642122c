//! `decode(encode(x)) == x` for every model that `compile` could emit.

mod arbitrary;

use proptest::prelude::*;

use arbitrary::Entropy;
use ripstop_model::discovery::{Kind, Resource};

use super::*;
use crate::decode;
use crate::resource;

fn round_trip(body: Resource) -> Result<(), TestCaseError> {
    let encoded = resource::encode(&body);
    prop_assert_eq!(&encoded.name, &body.name());
    let decoded = match decode::resource(body.kind(), &encoded.bytes) {
        Ok(decoded) => decoded,
        Err(problems) => {
            return Err(TestCaseError::fail(format!("{problems}\nof {body:#?}")));
        }
    };
    prop_assert_eq!(&decoded.value, &body);
    prop_assert_eq!(
        decoded.warnings,
        vec![],
        "nothing that is written is left out when read"
    );
    prop_assert_eq!(resource::encode(&decoded.value).version, encoded.version);
    Ok(())
}

fn entropy() -> impl Strategy<Value = Entropy> {
    proptest::collection::vec(any::<u8>(), 0..3000).prop_map(Entropy::new)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn listeners(mut e in entropy()) {
        round_trip(Resource::Listener(Arc::new(e.listener())))?;
    }

    #[test]
    fn routes(mut e in entropy()) {
        round_trip(Resource::Route(Arc::new(e.route_config())))?;
    }

    #[test]
    fn clusters(mut e in entropy()) {
        round_trip(Resource::Cluster(Arc::new(e.cluster())))?;
    }

    #[test]
    fn endpoints_(mut e in entropy()) {
        round_trip(Resource::Endpoints(Arc::new(e.endpoints())))?;
    }

    #[test]
    fn secrets(mut e in entropy()) {
        round_trip(Resource::Secret(Arc::new(e.secret())))?;
    }

    #[test]
    fn hosts(mut e in entropy()) {
        round_trip(Resource::Host(Arc::new(e.host())))?;
    }

    #[test]
    fn ranges(mut e in entropy()) {
        let ranges: Vec<_> = e.list(4, Entropy::net);
        round_trip(Resource::Ranges(ranges.into()))?;
    }

    /// Whatever bytes a peer sends, decoding answers with a value or with problems.
    #[test]
    fn decoding_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400), kind in 0..Kind::ALL.len()) {
        let _ = decode::resource(Kind::ALL[kind], &bytes);
    }

    /// Nor does it when a valid message is damaged.
    #[test]
    fn decoding_damaged_messages_never_panics(mut e in entropy(), at in any::<usize>(), to in any::<u8>()) {
        let mut bytes = resource::encode(&Resource::Listener(Arc::new(e.listener()))).bytes.to_vec();
        let at = at % bytes.len();
        bytes[at] = to;
        let _ = decode::resource(Kind::Listener, &bytes);
    }
}

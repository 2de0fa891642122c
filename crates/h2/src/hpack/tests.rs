use super::table::OVERHEAD;
use super::*;
use crate::head::{Head, Kind, classify};
use crate::violation::Malformed;

fn bytes(hex: &str) -> Vec<u8> {
    hex.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn lines(head: &Head) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let mut all = Vec::new();
    if head.status() != 0 {
        all.push((":status".to_owned(), head.status().to_string()));
    }
    for (name, value) in [
        (":method", head.method()),
        (":scheme", head.scheme()),
        (":path", head.path()),
        (":authority", head.authority().unwrap_or_default()),
    ] {
        if !value.is_empty() {
            all.push((name.to_owned(), text(value)));
        }
    }
    all.extend(
        head.fields()
            .map(|field| (text(field.name), text(field.value))),
    );
    all
}

fn owned(fields: &[(&str, &str)]) -> Vec<(String, String)> {
    let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    fields.iter().map(own).collect()
}

/// RFC 7541 appendix C.2.
#[test]
fn single_fields() {
    for (hex, want, size) in [
        (
            "400a637573746f6d2d6b65790d637573746f6d2d686561646572",
            ("custom-key", "custom-header"),
            55,
        ),
        ("040c2f73616d706c652f70617468", (":path", "/sample/path"), 0),
        (
            "100870617373776f726406736563726574",
            ("password", "secret"),
            0,
        ),
        ("82", (":method", "GET"), 0),
    ] {
        let mut decoder = Decoder::new(TABLE);
        let mut head = Head::default();
        decoder
            .decode(&bytes(hex), Kind::Request, 1000, usize::MAX, &mut head)
            .unwrap();
        assert_eq!(lines(&head), owned(&[want]));
        assert_eq!(decoder.table().size(), size);
    }
}

type Example = (&'static str, &'static [(&'static str, &'static str)], usize);

fn examples(kind: Kind, table: usize, examples: &[Example]) {
    let mut decoder = Decoder::new(table);
    let mut head = Head::default();
    for (hex, want, size) in examples {
        decoder
            .decode(&bytes(hex), kind, 10_000, usize::MAX, &mut head)
            .unwrap();
        assert_eq!(head.malformed(), None);
        assert_eq!(lines(&head), owned(want));
        assert_eq!(decoder.table().size(), *size);
    }
}

const REQUESTS: [&[(&str, &str)]; 3] = [
    &[
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "www.example.com"),
    ],
    &[
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "www.example.com"),
        ("cache-control", "no-cache"),
    ],
    &[
        (":method", "GET"),
        (":scheme", "https"),
        (":path", "/index.html"),
        (":authority", "www.example.com"),
        ("custom-key", "custom-value"),
    ],
];

/// RFC 7541 appendices C.3 and C.4.
#[test]
fn requests() {
    examples(
        Kind::Request,
        TABLE,
        &[
            ("828684410f7777772e6578616d706c652e636f6d", REQUESTS[0], 57),
            ("828684be58086e6f2d6361636865", REQUESTS[1], 110),
            (
                "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
                REQUESTS[2],
                164,
            ),
        ],
    );
    examples(
        Kind::Request,
        TABLE,
        &[
            ("828684418cf1e3c2e5f23a6ba0ab90f4ff", REQUESTS[0], 57),
            ("828684be5886a8eb10649cbf", REQUESTS[1], 110),
            (
                "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
                REQUESTS[2],
                164,
            ),
        ],
    );
}

const RESPONSES: [&[(&str, &str)]; 3] = [
    &[
        (":status", "302"),
        ("cache-control", "private"),
        ("date", "Mon, 21 Oct 2013 20:13:21 GMT"),
        ("location", "https://www.example.com"),
    ],
    &[
        (":status", "307"),
        ("cache-control", "private"),
        ("date", "Mon, 21 Oct 2013 20:13:21 GMT"),
        ("location", "https://www.example.com"),
    ],
    &[
        (":status", "200"),
        ("cache-control", "private"),
        ("date", "Mon, 21 Oct 2013 20:13:22 GMT"),
        ("location", "https://www.example.com"),
        ("content-encoding", "gzip"),
        (
            "set-cookie",
            "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
        ),
    ],
];

/// RFC 7541 appendices C.5 and C.6: a table of 256 bytes, from which entries are evicted.
#[test]
fn responses() {
    examples(
        Kind::Response,
        256,
        &[
            (
                "4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a323120474d546e1768747470733a2f2f7777772e6578616d706c652e636f6d",
                RESPONSES[0],
                222,
            ),
            ("4803333037c1c0bf", RESPONSES[1], 222),
            (
                "88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a69707738666f6f3d4153444a4b48514b425a584f5157454f50495541585157454f49553b206d61782d6167653d333630303b2076657273696f6e3d31",
                RESPONSES[2],
                215,
            ),
        ],
    );
    examples(
        Kind::Response,
        256,
        &[
            (
                "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3",
                RESPONSES[0],
                222,
            ),
            ("4883640effc1c0bf", RESPONSES[1], 222),
            (
                "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
                RESPONSES[2],
                215,
            ),
        ],
    );
}

#[test]
fn blocks_that_no_encoder_makes_are_refused() {
    for (hex, what) in [
        ("80", "index 0"),
        ("be", "an entry that is not there"),
        ("ff80808080", "an endless index"),
        ("4003", "a cut-off name"),
        ("400161", "no value"),
        ("82203f01", "a size update after a field"),
        ("203f0120", "three size updates"),
        ("3fe21f", "a table larger than allowed"),
        ("4084ffffffff", "EOS in a string"),
        ("408107", "a name and no value, in Huffman's code"),
    ] {
        let mut decoder = Decoder::new(TABLE);
        let mut head = Head::default();
        let decoded = decoder.decode(&bytes(hex), Kind::Request, 1000, usize::MAX, &mut head);
        assert!(decoded.is_err(), "{what}");
    }
}

#[test]
fn a_list_that_is_too_large_still_keeps_the_tables_alike() {
    let mut decoder = Decoder::new(TABLE);
    let mut head = Head::default();
    let mut block = bytes("400a637573746f6d2d6b65790d637573746f6d2d686561646572");
    block.extend_from_slice(&[0xbe; 1000]);
    decoder
        .decode(&block, Kind::Trailers, 200, usize::MAX, &mut head)
        .unwrap();
    assert!(head.is_oversized());
    assert!(head.fields().len() <= 3 && head.text_len() < 200);
    decoder
        .decode(&[0xbe], Kind::Trailers, 200, usize::MAX, &mut head)
        .unwrap();
    assert_eq!(lines(&head), owned(&[("custom-key", "custom-header")]));
}

/// What an encoder wrote, read back by a decoder that has read everything before.
struct Pair {
    encoder: Encoder,
    decoder: Decoder,
    lower: Vec<u8>,
}

impl Pair {
    fn new() -> Pair {
        Pair {
            encoder: Encoder::new(),
            decoder: Decoder::new(TABLE),
            lower: Vec::new(),
        }
    }

    /// The size of the block; `None`: nothing was written.
    fn pass(&mut self, fields: &[(&str, &str)]) -> Option<usize> {
        let mut out = Vec::new();
        let mut writer = FieldWriter::new(&mut self.encoder, &mut out, &mut self.lower);
        for (name, value) in fields {
            writer.field(name.as_bytes(), value.as_bytes());
        }
        if !writer.finish() {
            assert!(out.is_empty());
            return None;
        }
        let mut head = Head::default();
        self.decoder
            .decode(&out, Kind::Trailers, usize::MAX, usize::MAX, &mut head)
            .unwrap();
        assert_eq!(head.malformed(), None);
        let lower = |(name, value): &(&str, &str)| (name.to_lowercase(), (*value).to_owned());
        assert_eq!(lines(&head), fields.iter().map(lower).collect::<Vec<_>>());
        assert_eq!(self.encoder.table().size(), self.decoder.table().size());
        Some(out.len())
    }
}

#[test]
fn what_repeats_becomes_one_byte_and_what_changes_stays_out_of_the_table() {
    let mut pair = Pair::new();
    let mut sizes = Vec::new();
    for number in 0..50 {
        let id = format!("{number:032x}");
        let fields = [
            ("content-type", "application/grpc"),
            ("User-Agent", "grpc-go/1.60"),
            ("x-request-id", &id),
        ];
        sizes.push(pair.pass(&fields).unwrap());
    }
    assert!(sizes[0] > 70, "{sizes:?}");
    // Two indices, and a literal whose name is a literal too.
    let last = 2 + 1 + 1 + "x-request-id".len() + 1 + 32;
    assert_eq!(sizes[49], last, "{sizes:?}");
    let known = [
        "content-type",
        "application/grpc",
        "user-agent",
        "grpc-go/1.60",
    ];
    let text: usize = known.iter().map(|text| text.len()).sum();
    assert_eq!(pair.encoder.table().size(), text + 2 * OVERHEAD);
}

#[test]
fn secrets_are_never_indexed() {
    let mut pair = Pair::new();
    for _ in 0..5 {
        pair.pass(&[
            ("authorization", "Bearer abcdefghijklmnop"),
            ("cookie", "a=b"),
        ])
        .unwrap();
    }
    assert_eq!(pair.encoder.table().size(), 0);
    let mut out = Vec::new();
    let mut writer = FieldWriter::new(&mut pair.encoder, &mut out, &mut pair.lower);
    writer.field(b"authorization", b"x");
    assert!(writer.finish());
    assert_eq!(out, [0x1f, 8, 1, b'x']);
}

#[test]
fn a_block_that_is_given_up_leaves_both_tables_alike() {
    let mut pair = Pair::new();
    let fine = [("one", "1"), ("two", "2")];
    for _ in 0..3 {
        pair.pass(&fine).unwrap();
    }
    assert!(pair.encoder.table().size() > 0);
    for wrong in [
        ("bad name", "x"),
        ("name", "bad\nvalue"),
        ("connection", "close"),
    ] {
        assert_eq!(pair.pass(&[("three", "3"), wrong]), None);
        pair.pass(&fine).unwrap();
        pair.pass(&fine).unwrap();
    }
}

#[test]
fn the_peer_s_table_size_is_kept() {
    let mut pair = Pair::new();
    let fields = [("one", "1"), ("two", "2")];
    for size in [4096, 40, 0, 4096, 100, 1 << 30] {
        pair.encoder.resize(size);
        for _ in 0..3 {
            pair.pass(&fields).unwrap();
        }
        assert!(pair.encoder.table().size() <= size as usize);
    }
    pair.encoder.resize(0);
    pair.encoder.resize(4096);
    pair.pass(&fields).unwrap();
}

#[test]
fn names_and_values_are_checked_whether_literal_or_indexed() {
    let mut decoder = Decoder::new(TABLE);
    let mut head = Head::default();
    let mut block = Vec::new();
    for (name, value) in [("Upper", "x"), ("a", " padded"), ("a", "nul\0")] {
        block.push(0x40);
        for text in [name, value] {
            integer::write(&mut block, 0, 7, text.len());
            block.extend_from_slice(text.as_bytes());
        }
    }
    decoder
        .decode(&block, Kind::Trailers, 1000, usize::MAX, &mut head)
        .unwrap();
    for (index, want) in [
        (62, Malformed::Value),
        (63, Malformed::PaddedValue),
        (64, Malformed::Name),
    ] {
        decoder
            .decode(&[0x80 | index], Kind::Trailers, 1000, usize::MAX, &mut head)
            .unwrap();
        assert_eq!(head.malformed(), Some(want));
    }
    assert_eq!(classify(b"upper"), crate::head::Class::Regular);
}

use super::wire::*;

fn split(bytes: &[u8]) -> ([u8; PROLOGUE], &[u8]) {
    let (prologue, rest) = bytes.split_at(PROLOGUE);
    (prologue.try_into().expect("prologue"), rest)
}

fn call(arguments: Vec<Value>) -> Vec<u8> {
    let call = Call { destination: "a.b", path: "/a", interface: "a.B", member: "Do", arguments };
    call.bytes(7)
}

/// Written by hand from the specification.
#[test]
fn a_call_as_bytes() {
    let bytes = call(vec![Value::str("x"), Value::U64(5)]);
    let mut expected = vec![b'l', 1, 0, 1, 16, 0, 0, 0, 7, 0, 0, 0, 70, 0, 0, 0];
    expected.extend(b"\x01\x01o\0\x02\0\0\0/a\0\0\0\0\0\0");
    expected.extend(b"\x02\x01s\0\x03\0\0\0a.B\0\0\0\0\0");
    expected.extend(b"\x03\x01s\0\x02\0\0\0Do\0\0\0\0\0\0");
    expected.extend(b"\x06\x01s\0\x03\0\0\0a.b\0\0\0\0\0");
    expected.extend(b"\x08\x01g\0\x02st\0");
    expected.resize(16 + 72, 0);
    expected[12] = 72;
    expected.extend(b"\x01\0\0\0x\0\0\0\x05\0\0\0\0\0\0\0");
    assert_eq!(bytes, expected);
}

#[test]
fn what_is_written_is_read() {
    let bytes = call(vec![Value::U32(9), Value::Path("/job/1".into()), Value::str("done")]);
    let (prologue, rest) = split(&bytes);
    assert_eq!(rest_of(&prologue), Some(rest.len()));
    let message = Message::parse(&prologue, rest).expect("message");
    assert_eq!((message.kind, message.member.as_str()), (1, "Do"));
    assert_eq!(message.texts(), ["9", "/job/1", "done"]);
    let variant = call(vec![Value::Variant(Box::new(Value::str("257")))]);
    let (prologue, rest) = split(&variant);
    assert_eq!(Message::parse(&prologue, rest).expect("message").texts(), ["257"]);
}

#[test]
fn arrays_are_padded_before_their_length_counts() {
    let list = Value::Array("(ss)".into(), vec![Value::Struct(vec![Value::str("a"), Value::str("b")])]);
    assert_eq!(list.signature(), "a(ss)");
    let bytes = call(vec![Value::Bool(true), list]);
    let body = &bytes[bytes.len() - 22..];
    assert_eq!(&body[..8], b"\x01\0\0\0\x0e\0\0\0", "no padding: it is aligned already");
    let bytes = call(vec![Value::Array("t".into(), vec![Value::U64(1)])]);
    assert_eq!(&bytes[bytes.len() - 16..], b"\x08\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0");
}

/// Whatever comes in place of a message is refused, and nothing of it is believed.
#[test]
fn broken_messages() {
    let good = call(vec![Value::str("text")]);
    for at in 0..good.len() {
        for value in [0, 1, 0x7f, 0xff] {
            let mut bytes = good.clone();
            bytes[at] = value;
            let (prologue, rest) = split(&bytes);
            let Some(length) = rest_of(&prologue) else { continue };
            if let Some(message) = Message::parse(&prologue, &rest[..length.min(rest.len())]) {
                message.texts();
            }
        }
    }
    for end in 0..good.len() - PROLOGUE {
        let (prologue, rest) = split(&good);
        if let Some(message) = Message::parse(&prologue, &rest[..end]) {
            assert!(message.texts().len() <= 1);
        }
    }
    let mut large = good;
    large[7] = 1;
    assert_eq!(rest_of(&split(&large).0), None);
    large[0] = b'B';
    assert_eq!(rest_of(&split(&large).0), None);
}

//! The few messages of CRIU's service, in the encoding of protocol buffers (criu, images/rpc.proto): a field is its
//! number and kind, then a number, or a length and so many bytes. Of a message that comes, fields that nobody asks
//! for are passed over.

/// The kinds of a field that CRIU uses.
const NUMBER: u64 = 0;
const BYTES: u64 = 2;

/// A message in the making.
#[derive(Clone, Debug, Default)]
pub(super) struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    pub(super) fn number(&mut self, field: u64, number: u64) {
        self.varint(field << 3 | NUMBER);
        self.varint(number);
    }

    /// A truth value that is false when it is not there.
    pub(super) fn flag(&mut self, field: u64, set: bool) {
        if set {
            self.number(field, 1);
        }
    }

    pub(super) fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.varint(field << 3 | BYTES);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    /// A message of two texts, numbered 1 and 2: what CRIU has for pairs.
    pub(super) fn pair(&mut self, field: u64, first: &[u8], second: &[u8]) {
        let mut pair = Message::default();
        pair.bytes(1, first);
        pair.bytes(2, second);
        self.bytes(field, &pair.0);
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The value of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// A message that came, field by field. It ends at what is no field.
#[derive(Clone, Debug)]
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    /// The last number of this field.
    pub(super) fn number(&self, field: u64) -> Option<u64> {
        self.clone()
            .filter_map(|(found, value)| match value {
                Value::Number(number) if found == field => Some(number),
                _ => None,
            })
            .last()
    }

    /// The last bytes of this field.
    pub(super) fn bytes(&self, field: u64) -> Option<&'a [u8]> {
        self.clone()
            .filter_map(|(found, value)| match value {
                Value::Bytes(bytes) if found == field => Some(bytes),
                _ => None,
            })
            .last()
    }

    fn varint(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = (u64, Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let key = self.varint()?;
        let value = match key & 7 {
            NUMBER => Value::Number(self.varint()?),
            BYTES => {
                let length = usize::try_from(self.varint()?).ok()?;
                let (bytes, rest) = self.0.split_at_checked(length)?;
                self.0 = rest;
                Value::Bytes(bytes)
            }
            _ => return None,
        };
        Some((key >> 3, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let mut message = Message::default();
        message.number(1, 300);
        message.flag(2, false);
        message.pair(53, b"a", b"");
        message.bytes(3, b"xyz");
        assert_eq!(message.as_bytes()[..3], [0x08, 0xac, 0x02]);
        let fields = Fields(message.as_bytes());
        assert_eq!((fields.number(1), fields.number(2), fields.number(3)), (Some(300), None, None));
        assert_eq!(fields.bytes(3), Some(&b"xyz"[..]));
        let pair = Fields(fields.bytes(53).expect("pair"));
        assert_eq!((pair.bytes(1), pair.bytes(2)), (Some(&b"a"[..]), Some(&b""[..])));
        let mut most = Message::default();
        most.number(1, u64::MAX);
        assert_eq!(Fields(most.as_bytes()).number(1), Some(u64::MAX));
    }

    #[test]
    fn what_is_cut_off_or_no_message_ends() {
        for odd in [&[0x08][..], &[0x12, 5, 1], &[0x0d, 0, 0, 0, 0], &[0xff; 20], &[0x12, 0xff, 0xff, 0xff, 0xff, 0x7f]]
        {
            assert_eq!(Fields(odd).count(), 0, "{odd:?}");
        }
    }
}

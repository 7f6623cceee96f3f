//! Messages of D-Bus as bytes (D-Bus specification, "Message Protocol"): as much of it as it takes to ask systemd,
//! little-endian as all machines are that this runtime is built for.

/// A value of one of D-Bus's types.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Byte(u8),
    Bool(bool),
    I16(i16),
    U16(u16),
    I32(i32),
    U32(u32),
    I64(i64),
    U64(u64),
    Double(f64),
    Str(String),
    Path(String),
    Signature(String),
    /// With the signature of its elements, of which there may be none.
    Array(String, Vec<Value>),
    Struct(Vec<Value>),
    Variant(Box<Value>),
}

impl Value {
    pub(super) fn str(text: &str) -> Value {
        Value::Str(text.to_owned())
    }

    pub(super) fn bytes(bytes: &[u8]) -> Value {
        Value::Array("y".to_owned(), bytes.iter().copied().map(Value::Byte).collect())
    }

    /// The type, as D-Bus writes it.
    pub(super) fn signature(&self) -> String {
        match self {
            Value::Byte(_) => "y".to_owned(),
            Value::Bool(_) => "b".to_owned(),
            Value::I16(_) => "n".to_owned(),
            Value::U16(_) => "q".to_owned(),
            Value::I32(_) => "i".to_owned(),
            Value::U32(_) => "u".to_owned(),
            Value::I64(_) => "x".to_owned(),
            Value::U64(_) => "t".to_owned(),
            Value::Double(_) => "d".to_owned(),
            Value::Str(_) => "s".to_owned(),
            Value::Path(_) => "o".to_owned(),
            Value::Signature(_) => "g".to_owned(),
            Value::Array(elements, _) => format!("a{elements}"),
            Value::Struct(fields) => format!("({})", signature(fields)),
            Value::Variant(_) => "v".to_owned(),
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Value::Byte(value) => out.push(*value),
            Value::Bool(value) => number(out, &u32::from(*value).to_le_bytes()),
            Value::I16(value) => number(out, &value.to_le_bytes()),
            Value::U16(value) => number(out, &value.to_le_bytes()),
            Value::I32(value) => number(out, &value.to_le_bytes()),
            Value::U32(value) => number(out, &value.to_le_bytes()),
            Value::I64(value) => number(out, &value.to_le_bytes()),
            Value::U64(value) => number(out, &value.to_le_bytes()),
            Value::Double(value) => number(out, &value.to_le_bytes()),
            Value::Str(text) | Value::Path(text) => {
                number(out, &(text.len() as u32).to_le_bytes());
                out.extend(text.as_bytes());
                out.push(0);
            }
            Value::Signature(text) => write_signature(out, text),
            Value::Array(elements, values) => {
                number(out, &[0; 4]);
                let length_at = out.len() - 4;
                // The padding before the first element does not count.
                align(out, alignment(elements));
                let start = out.len();
                for value in values {
                    value.write(out);
                }
                let length = (out.len() - start) as u32;
                out[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
            }
            Value::Struct(fields) => {
                align(out, 8);
                for field in fields {
                    field.write(out);
                }
            }
            Value::Variant(value) => {
                write_signature(out, &value.signature());
                value.write(out);
            }
        }
    }
}

fn signature(values: &[Value]) -> String {
    values.iter().map(Value::signature).collect()
}

fn alignment(signature: &str) -> usize {
    match signature.as_bytes().first() {
        Some(b'n' | b'q') => 2,
        Some(b'b' | b'i' | b'u' | b's' | b'o' | b'a') => 4,
        Some(b'x' | b't' | b'd' | b'(' | b'{') => 8,
        _ => 1,
    }
}

fn align(out: &mut Vec<u8>, to: usize) {
    out.resize(out.len().next_multiple_of(to), 0);
}

/// Writes a number, which is aligned to its own size.
fn number(out: &mut Vec<u8>, bytes: &[u8]) {
    align(out, bytes.len());
    out.extend(bytes);
}

fn write_signature(out: &mut Vec<u8>, signature: &str) {
    out.push(signature.len() as u8);
    out.extend(signature.as_bytes());
    out.push(0);
}

const METHOD_CALL: u8 = 1;
/// The kinds of messages that are received.
pub(super) const METHOD_RETURN: u8 = 2;
pub(super) const ERROR: u8 = 3;
pub(super) const SIGNAL: u8 = 4;

/// The length of what is before the header's fields.
pub(super) const PROLOGUE: usize = 16;
/// What a message may have at most, here; the specification's own limit is 128 MiB.
const LARGEST: usize = 1 << 20;

/// A call of a method.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub(super) destination: &'a str,
    pub(super) path: &'a str,
    pub(super) interface: &'a str,
    pub(super) member: &'a str,
    pub(super) arguments: Vec<Value>,
}

impl Call<'_> {
    pub(super) fn bytes(&self, serial: u32) -> Vec<u8> {
        let mut body = Vec::new();
        for value in &self.arguments {
            value.write(&mut body);
        }
        let field = |code: u8, value: Value| Value::Struct(vec![Value::Byte(code), Value::Variant(Box::new(value))]);
        let mut fields = vec![
            field(1, Value::Path(self.path.to_owned())),
            field(2, Value::str(self.interface)),
            field(3, Value::str(self.member)),
            field(6, Value::str(self.destination)),
        ];
        if !self.arguments.is_empty() {
            fields.push(field(8, Value::Signature(signature(&self.arguments))));
        }
        let mut message = vec![b'l', METHOD_CALL, 0, 1];
        Value::U32(body.len() as u32).write(&mut message);
        Value::U32(serial).write(&mut message);
        Value::Array("(yv)".to_owned(), fields).write(&mut message);
        align(&mut message, 8);
        message.extend(body);
        message
    }
}

/// A message that was received, as far as it is understood.
#[derive(Debug, Default)]
pub(super) struct Message {
    pub(super) kind: u8,
    pub(super) member: String,
    /// The name of an error.
    pub(super) error: String,
    /// The serial of the call that is answered.
    pub(super) reply_to: u32,
    signature: String,
    body: Vec<u8>,
}

/// How much follows a message's first [`PROLOGUE`] bytes; `None` when they begin no message that is understood.
pub(super) fn rest_of(prologue: &[u8; PROLOGUE]) -> Option<usize> {
    let length = |at: usize| u32::from_le_bytes([prologue[at], prologue[at + 1], prologue[at + 2], prologue[at + 3]]);
    let (body, fields) = (length(4) as usize, length(12) as usize);
    let whole = fields.checked_next_multiple_of(8)?.checked_add(body)?;
    (prologue[0] == b'l' && prologue[3] == 1 && whole <= LARGEST).then_some(whole)
}

impl Message {
    /// Understands a message from its beginning and the rest.
    pub(super) fn parse(prologue: &[u8; PROLOGUE], rest: &[u8]) -> Option<Message> {
        let fields = u32::from_le_bytes([prologue[12], prologue[13], prologue[14], prologue[15]]) as usize;
        // The fields begin at a multiple of 8, so that positions in them are aligned as in the whole.
        let mut reader = Reader { bytes: rest.get(..fields)?, at: 0 };
        let mut message = Message {
            kind: prologue[1],
            body: rest.get(fields.checked_next_multiple_of(8)?..)?.to_vec(),
            ..Message::default()
        };
        while reader.at < fields {
            reader.align(8)?;
            let code = reader.take(1)?[0];
            match (code, reader.signature()?.as_str()) {
                (3, "s") => message.member = reader.string()?,
                (4, "s") => message.error = reader.string()?,
                (5, "u") => message.reply_to = reader.number()?,
                (8, "g") => message.signature = reader.signature()?,
                (_, "s" | "o") => drop(reader.string()?),
                (_, "g") => drop(reader.signature()?),
                (_, "u") => drop(reader.number()?),
                _ => return None,
            }
        }
        Some(message)
    }

    /// The leading values of the body that are texts, paths, numbers of 32 bits, or variants of these; numbers are in
    /// decimal.
    pub(super) fn texts(&self) -> Vec<String> {
        let mut reader = Reader { bytes: &self.body, at: 0 };
        let mut texts = Vec::new();
        for kind in self.signature.chars() {
            let kind = match kind {
                'v' => reader.signature().unwrap_or_default(),
                kind => kind.to_string(),
            };
            let text = match kind.as_str() {
                "s" | "o" => reader.string(),
                "u" => reader.number().map(|number| number.to_string()),
                _ => None,
            };
            match text {
                Some(text) => texts.push(text),
                None => break,
            }
        }
        texts
    }
}

/// Reads bytes of a message that need not be a right one.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn align(&mut self, to: usize) -> Option<()> {
        self.at = self.at.checked_next_multiple_of(to)?;
        Some(())
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(count)?)?;
        self.at += count;
        Some(taken)
    }

    fn number(&mut self) -> Option<u32> {
        self.align(4)?;
        self.take(4)?.try_into().ok().map(u32::from_le_bytes)
    }

    fn string(&mut self) -> Option<String> {
        let length = self.number()? as usize;
        self.text(length)
    }

    fn signature(&mut self) -> Option<String> {
        let length = self.take(1)?[0];
        self.text(length.into())
    }

    fn text(&mut self, length: usize) -> Option<String> {
        let text = self.take(length)?;
        self.take(1)?;
        String::from_utf8(text.to_vec()).ok()
    }
}

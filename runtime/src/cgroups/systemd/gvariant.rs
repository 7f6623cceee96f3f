//! Values in GVariant's text format (docs.gtk.org/glib/gvariant-text-format.html): texts, numbers, truth values, arrays
//! and tuples of these, with or without their type. Dictionaries, variants and maybes are no property's type.

use super::wire::Value;

/// How deep arrays and tuples may lie in each other.
const DEEPEST: usize = 8;
/// What D-Bus allows a signature.
const LONGEST_SIGNATURE: usize = 255;

/// Understands a whole text.
pub(super) fn parse(text: &str) -> Result<Value, String> {
    if text.contains('\0') {
        return Err("it contains a NUL".to_owned());
    }
    let mut parser = Parser { rest: text };
    let value = parser.value(None, DEEPEST)?;
    parser.skip();
    if !parser.rest.is_empty() {
        return Err(format!("{:?} follows the value", parser.rest));
    }
    match value.signature().len() {
        0..=LONGEST_SIGNATURE => Ok(value),
        length => Err(format!("its type takes {length} letters, more than {LONGEST_SIGNATURE}")),
    }
}

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn skip(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn has(&mut self, letter: char) -> bool {
        self.skip();
        match self.rest.strip_prefix(letter) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// What comes next that has only such letters.
    fn word(&mut self, fits: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|letter| !fits(letter)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    /// A value, of this type when one is given.
    fn value(&mut self, kind: Option<&str>, depth: usize) -> Result<Value, String> {
        if depth == 0 {
            return Err(format!("it is more than {DEEPEST} deep"));
        }
        self.skip();
        match self.rest.chars().next() {
            None => Err("a value is missing".to_owned()),
            Some(quote @ ('\'' | '"')) => {
                let text = self.text(quote)?;
                match kind {
                    None | Some("s") => Ok(Value::Str(text)),
                    Some("o") => Ok(Value::Path(text)),
                    Some("g") => Ok(Value::Signature(text)),
                    Some(kind) => Err(format!("a text is not of type {kind:?}")),
                }
            }
            Some('[') => self.array(kind, depth),
            Some('(') => self.tuple(kind, depth),
            Some('@') => {
                self.rest = &self.rest[1..];
                let signature = self.word(|letter| letter.is_ascii_alphabetic() || "()".contains(letter));
                if kind.is_some() || split(signature).len() != 1 {
                    return Err(format!("{signature:?} is not the type of one value"));
                }
                self.value(Some(signature), depth)
            }
            Some(_) => self.named(kind, depth),
        }
    }

    /// A truth value, a number, or the name of a type and a value of it.
    fn named(&mut self, kind: Option<&str>, depth: usize) -> Result<Value, String> {
        let word = self.word(|letter| letter.is_ascii_alphanumeric() || "+-.".contains(letter));
        let named = match word {
            "true" | "false" if matches!(kind, None | Some("b")) => return Ok(Value::Bool(word == "true")),
            "boolean" => "b",
            "byte" => "y",
            "int16" => "n",
            "uint16" => "q",
            "int32" => "i",
            "uint32" => "u",
            "int64" => "x",
            "uint64" => "t",
            "double" => "d",
            "string" => "s",
            "objectpath" => "o",
            "signature" => "g",
            _ => return number(word, kind),
        };
        if kind.is_some() {
            return Err(format!("{word} is one type too many"));
        }
        self.value(Some(named), depth)
    }

    fn text(&mut self, quote: char) -> Result<String, String> {
        let mut text = String::new();
        let mut letters = self.rest.char_indices().skip(1);
        while let Some((at, letter)) = letters.next() {
            match letter {
                '\\' => match letters.next() {
                    Some((_, letter @ ('\\' | '\'' | '"'))) => text.push(letter),
                    Some((_, 'n')) => text.push('\n'),
                    Some((_, 't')) => text.push('\t'),
                    _ => return Err("of escapes there are \\\\, \\', \\\", \\n and \\t".to_owned()),
                },
                letter if letter == quote => {
                    self.rest = &self.rest[at + 1..];
                    return Ok(text);
                }
                letter => text.push(letter),
            }
        }
        Err("a text does not end".to_owned())
    }

    fn array(&mut self, kind: Option<&str>, depth: usize) -> Result<Value, String> {
        let mut element = match kind {
            None => None,
            Some(kind) => {
                let element = kind.strip_prefix('a').ok_or_else(|| format!("an array is not of type {kind:?}"))?;
                Some(element.to_owned())
            }
        };
        self.has('[');
        let mut values = Vec::new();
        while !self.has(']') {
            if !values.is_empty() && !self.has(',') {
                return Err("`,` or `]` is missing".to_owned());
            }
            let value = self.value(element.as_deref(), depth - 1)?;
            // All are of the type of the first.
            element.get_or_insert_with(|| value.signature());
            values.push(value);
        }
        let element = element.ok_or("an empty array needs its type, as in @as []")?;
        Ok(Value::Array(element, values))
    }

    fn tuple(&mut self, kind: Option<&str>, depth: usize) -> Result<Value, String> {
        let kinds = match kind {
            None => None,
            Some(kind) => {
                let inside = kind.strip_prefix('(').and_then(|kind| kind.strip_suffix(')'));
                Some(split(inside.ok_or_else(|| format!("a tuple is not of type {kind:?}"))?))
            }
        };
        self.has('(');
        let mut values = Vec::new();
        while !self.has(')') {
            if !values.is_empty() && !self.has(',') {
                return Err("`,` or `)` is missing".to_owned());
            }
            let kind = match &kinds {
                None => None,
                Some(kinds) => Some(*kinds.get(values.len()).ok_or("a tuple has more values than its type")?),
            };
            values.push(self.value(kind, depth - 1)?);
        }
        if values.is_empty() || kinds.is_some_and(|kinds| kinds.len() != values.len()) {
            return Err("a tuple has fewer values than its type, or none".to_owned());
        }
        Ok(Value::Struct(values))
    }
}

fn number(word: &str, kind: Option<&str>) -> Result<Value, String> {
    let odd =
        || format!("{word:?} is not a value{}", kind.map(|kind| format!(" of type {kind:?}")).unwrap_or_default());
    let (sign, digits) = match word.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, word.strip_prefix('+').unwrap_or(word)),
    };
    let whole = match digits.strip_prefix("0x") {
        Some(digits) if !digits.starts_with('+') => i128::from_str_radix(digits, 16),
        _ => digits.parse::<u64>().map(i128::from),
    };
    let whole = whole.ok().map(|number| sign * number);
    let kind = kind.unwrap_or(if whole.is_some() { "i" } else { "d" });
    let value = match (kind, whole) {
        ("y", Some(number)) => number.try_into().ok().map(Value::Byte),
        ("n", Some(number)) => number.try_into().ok().map(Value::I16),
        ("q", Some(number)) => number.try_into().ok().map(Value::U16),
        ("i", Some(number)) => number.try_into().ok().map(Value::I32),
        ("u", Some(number)) => number.try_into().ok().map(Value::U32),
        ("x", Some(number)) => number.try_into().ok().map(Value::I64),
        ("t", Some(number)) => number.try_into().ok().map(Value::U64),
        ("d", _) if word.contains(|letter: char| letter.is_ascii_digit()) => word.parse().ok().map(Value::Double),
        _ => None,
    };
    value.ok_or_else(odd)
}

/// The single types of a signature; none when it is not one.
fn split(signature: &str) -> Vec<&str> {
    let mut types = Vec::new();
    let mut rest = signature;
    while !rest.is_empty() {
        let arrays = rest.len() - rest.trim_start_matches('a').len();
        let end = match rest[arrays..].chars().next() {
            Some('(') => {
                let mut open = 0_i32;
                let closes = |letter: char| {
                    open += i32::from(letter == '(') - i32::from(letter == ')');
                    open == 0
                };
                rest[arrays..].find(closes).map(|at| arrays + at + 1)
            }
            Some(letter) if "ybnqiuxtdsog".contains(letter) => Some(arrays + 1),
            _ => None,
        };
        let Some(end) = end else { return Vec::new() };
        types.push(&rest[..end]);
        rest = &rest[end..];
    }
    types
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        let is = |text: &str, value: Value| assert_eq!(parse(text), Ok(value), "{text}");
        is("true", Value::Bool(true));
        is(" 'it\\'s' ", Value::str("it's"));
        is("\"two\"", Value::str("two"));
        is("-5", Value::I32(-5));
        is("1.5", Value::Double(1.5));
        is("uint64 0xff", Value::U64(255));
        is("@t 5", Value::U64(5));
        is("byte 255", Value::Byte(255));
        is("objectpath '/a'", Value::Path("/a".into()));
        is("@as []", Value::Array("s".into(), Vec::new()));
        is("['a', 'b']", Value::Array("s".into(), vec![Value::str("a"), Value::str("b")]));
        is("@at [1,2]", Value::Array("t".into(), vec![Value::U64(1), Value::U64(2)]));
        let pair = Value::Struct(vec![Value::str("/dev/null"), Value::str("rw")]);
        is("[('/dev/null', 'rw')]", Value::Array("(ss)".into(), vec![pair.clone()]));
        is("@a(ss) [('/dev/null', 'rw')]", Value::Array("(ss)".into(), vec![pair]));
        is("@(ti) (1, -1)", Value::Struct(vec![Value::U64(1), Value::I32(-1)]));
    }

    #[test]
    fn what_is_no_value() {
        let deep = format!("{}1{}", "[".repeat(9), "]".repeat(9));
        let wide = format!("({}1)", "1,".repeat(300));
        for text in [
            "",
            " ",
            "'a",
            "'a\\x'",
            "a",
            "inf",
            "nan",
            "1 2",
            "'a' 'b'",
            "[]",
            "[1,'a']",
            "[1",
            "()",
            "(1",
            "@",
            "@a 1",
            "@ss 'a'",
            "@v 1",
            "@{ss} 1",
            "<1>",
            "{'a':1}",
            "uint64 -1",
            "byte 256",
            "uint64 int32 5",
            "2147483648",
            "0x",
            "0x+1",
            "+-1",
            "-0x1g",
            "'a\0'",
            "@(ss) ('a')",
            "@(s) ('a','b')",
            "boolean 1",
            &deep,
            &wide,
        ] {
            assert!(parse(text).is_err(), "{text}: {:?}", parse(text));
        }
    }
}

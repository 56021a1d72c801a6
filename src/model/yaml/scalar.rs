//! What a plain scalar means: the rules of go-yaml version 2 (`resolve.go`), and of the
//! conversion to JSON behind it (`sigs.k8s.io/yaml`, `convertToJSONableObject`).

use serde_json::{Number, Value};

/// A scalar with its type.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Scalar {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Float(f64),
    Text(String),
}

/// What an untagged plain scalar means.
pub(super) fn resolve(text: &str) -> Scalar {
    if let Some(known) = word(text) {
        return known;
    }
    let number = match text.as_bytes().first() {
        Some(b'.') => float(text),
        Some(b'0'..=b'9' | b'+' | b'-') => number(&text.replace('_', "")),
        _ => None,
    };
    number.unwrap_or_else(|| Scalar::Text(text.to_owned()))
}

fn word(text: &str) -> Option<Scalar> {
    Some(match text {
        "" | "~" | "null" | "Null" | "NULL" => Scalar::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            Scalar::Bool(true)
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            Scalar::Bool(false)
        }
        ".nan" | ".NaN" | ".NAN" => Scalar::Float(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => Scalar::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => Scalar::Float(f64::NEG_INFINITY),
        _ => return None,
    })
}

/// Integers in the order in which Go tries them: signed, unsigned, a float's spelling, and last
/// the binary form with its sign behind the prefix.
fn number(plain: &str) -> Option<Scalar> {
    let (negative, digits) = match plain.as_bytes().first()? {
        b'-' => (true, &plain[1..]),
        b'+' => (false, &plain[1..]),
        _ => (false, plain),
    };
    if let Some(size) = magnitude(digits) {
        let signed = if negative { 0i64.checked_sub_unsigned(size) } else { i64::try_from(size).ok() };
        if let Some(signed) = signed {
            return Some(Scalar::Int(signed));
        }
        if digits.len() == plain.len() {
            return Some(Scalar::Uint(size));
        }
    }
    if let Some(float) = float(plain) {
        return Some(float);
    }
    let binary = match plain.strip_prefix("-0b") {
        Some(rest) => format!("-{rest}"),
        None => plain.strip_prefix("0b")?.to_owned(),
    };
    i64::from_str_radix(&binary, 2).ok().map(Scalar::Int)
}

/// An unsigned integer with Go's prefixes; a leading zero alone means octal.
fn magnitude(digits: &str) -> Option<u64> {
    let bytes = digits.as_bytes();
    let (radix, digits) = match (bytes.first()?, bytes.get(1).map(u8::to_ascii_lowercase)) {
        (b'0', Some(b'x')) => (16, &digits[2..]),
        (b'0', Some(b'o')) => (8, &digits[2..]),
        (b'0', Some(b'b')) => (2, &digits[2..]),
        (b'0', Some(_)) => (8, &digits[1..]),
        _ => (10, digits),
    };
    // `from_str_radix` would take a sign.
    if !digits.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return None;
    }
    u64::from_str_radix(digits, radix).ok()
}

/// A float, if `text` is one as go-yaml spells it and is finite.
fn float(text: &str) -> Option<Scalar> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['+', '-']).unwrap_or(exponent))),
        None => (unsigned, None),
    };
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let mantissa_ok = match mantissa.split_once('.') {
        Some(("", fraction)) => !fraction.is_empty() && digits(fraction),
        Some((whole, fraction)) => digits(whole) && digits(fraction),
        None => !mantissa.is_empty() && digits(mantissa),
    };
    if !mantissa_ok || exponent.is_some_and(|exponent| exponent.is_empty() || !digits(exponent)) {
        return None;
    }
    text.parse::<f64>().ok().filter(|number| number.is_finite()).map(Scalar::Float)
}

/// A float as it looks after Go has written it as JSON and read it again: whole numbers that
/// an `int64` holds become integers. `None` for what JSON has no number for.
pub(super) fn float_value(number: f64) -> Option<Value> {
    // Both languages write the fewest digits that mean this float, and zeros up to the point.
    if number.fract() == 0.0
        && let Ok(whole) = number.to_string().parse::<i64>()
    {
        return Some(Value::Number(whole.into()));
    }
    Number::from_f64(number).map(Value::Number)
}

impl Scalar {
    /// The JSON value.
    pub(super) fn into_value(self) -> Result<Value, String> {
        Ok(match self {
            Self::Null => Value::Null,
            Self::Bool(value) => Value::Bool(value),
            Self::Int(value) => Value::Number(value.into()),
            Self::Uint(value) => Value::Number(value.into()),
            Self::Float(value) => {
                return float_value(value).ok_or_else(|| format!("JSON has no number for `{value}`"));
            }
            Self::Text(value) => Value::String(value),
        })
    }

    /// The key of a JSON object.
    pub(super) fn into_key(self) -> Result<String, String> {
        match self {
            Self::Null => Err("a key is null".to_owned()),
            Self::Bool(value) => Ok(value.to_string()),
            Self::Int(value) => Ok(value.to_string()),
            Self::Uint(value) => Err(format!("the key `{value}` is a number above 64 bits with a sign")),
            Self::Float(value) => Ok(go_shortest(value)),
            Self::Text(value) => Ok(value),
        }
    }

    /// The name of the type in YAML's core schema.
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "bool",
            Self::Int(_) | Self::Uint(_) => "int",
            Self::Float(_) => "float",
            Self::Text(_) => "str",
        }
    }
}

/// Go's `strconv.FormatFloat(number, 'g', -1, 32)`, which is how a float becomes a key.
fn go_shortest(number: f64) -> String {
    #[expect(clippy::cast_possible_truncation, reason = "Go rounds keys to 32 bits as well")]
    let number = number as f32;
    if number.is_nan() {
        return ".nan".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { ".inf" } else { "-.inf" }.to_owned();
    }
    let exponential = format!("{number:e}");
    let (digits, exponent) = exponential.split_once('e').unwrap_or((&exponential, "0"));
    match exponent.parse::<i32>() {
        Ok(exponent) if !(-4..6).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
        }
        _ => format!("{number}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_as_go_reads_them() {
        for (text, want) in [
            ("0", Scalar::Int(0)),
            ("-0", Scalar::Int(0)),
            ("0644", Scalar::Int(420)),
            ("0o644", Scalar::Int(420)),
            ("0x_1F", Scalar::Int(31)),
            ("1_000", Scalar::Int(1000)),
            ("+12", Scalar::Int(12)),
            ("0b101", Scalar::Int(5)),
            ("0b-101", Scalar::Int(-5)),
            ("08", Scalar::Float(8.0)),
            ("9223372036854775807", Scalar::Int(i64::MAX)),
            ("-9223372036854775808", Scalar::Int(i64::MIN)),
            ("9223372036854775808", Scalar::Uint(9_223_372_036_854_775_808)),
            ("1e3", Scalar::Float(1000.0)),
            ("1.", Scalar::Float(1.0)),
            (".5", Scalar::Float(0.5)),
            ("-1.5E-3", Scalar::Float(-0.0015)),
        ] {
            assert_eq!(resolve(text), want, "{text}");
        }
    }

    #[test]
    fn what_only_looks_like_something_is_text() {
        for text in [
            "1:30",
            "2001-01-01",
            "1.2.3",
            "0x",
            "0b",
            "0xZZ",
            "1e",
            "e5",
            ".",
            "+",
            "-",
            "-.",
            "1e999",
            "yEs",
            "nULL",
            "tRue",
            "_1",
            ".5_0",
            "0o8",
            "10.0.0.1",
            "1-2",
            "Infinity",
            "nan",
            "=",
        ] {
            assert_eq!(resolve(text), Scalar::Text(text.to_owned()), "{text}");
        }
    }

    #[test]
    fn whole_floats_become_integers_as_in_json() {
        assert_eq!(float_value(1e6), Some(1_000_000.into()));
        assert_eq!(float_value(-0.0), Some(0.into()));
        assert_eq!(float_value(123_456_789_012_345_678.0), Some(123_456_789_012_345_680i64.into()));
        assert_eq!(float_value(-9_223_372_036_854_775_808.0), Some(json!(-9_223_372_036_854_775_808.0)));
        assert_eq!(float_value(0.5), Some(json!(0.5)));
        assert_eq!(float_value(1e20), Some(json!(1e20)));
        assert_eq!(float_value(f64::NAN), None);
    }
}

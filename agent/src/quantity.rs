//! Kubernetes quantities (`100m`, `64Mi`, `1e3`) as numbers.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

const NANO: i128 = 1_000_000_000;

/// A parsed quantity, exact to the nano unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Amount(i128);

impl Amount {
    /// Parses a quantity; `None` when the text is not one.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let digits_end =
            text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-'))).unwrap_or(text.len());
        let (number, suffix) = text.split_at(digits_end);
        let (numerator, denominator) = scale(suffix)?;
        let (negative, number) = match number.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, number.strip_prefix('+').unwrap_or(number)),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let mut nanos = digits(whole)?.checked_mul(NANO)?;
        // Digits beyond the ninth are below what the type holds.
        let fraction = &fraction[..fraction.len().min(9)];
        let unit = NANO / 10_i128.checked_pow(fraction.len() as u32)?;
        nanos = nanos.checked_add(digits(fraction)?.checked_mul(unit)?)?;
        let scaled = nanos.checked_mul(numerator)?;
        let exact = scaled.div_euclid(denominator) + i128::from(scaled % denominator != 0);
        Some(Self(if negative { -exact } else { exact }))
    }

    /// From an API object; a quantity the API server would refuse counts as absent.
    pub(crate) fn of(quantity: &Quantity) -> Option<Self> {
        Self::parse(&quantity.0)
    }

    /// Whole units, rounded up.
    pub(crate) fn value(self) -> i64 {
        self.in_units_of(NANO)
    }

    /// Thousandths, rounded up.
    pub(crate) fn milli(self) -> i64 {
        self.in_units_of(NANO / 1000)
    }

    /// How many `divisor`s fit, rounded up; a divisor of zero counts as one unit.
    pub(crate) fn divided_by(self, divisor: Self) -> i64 {
        self.in_units_of(if divisor.0 > 0 { divisor.0 } else { NANO })
    }

    fn in_units_of(self, unit: i128) -> i64 {
        let up = self.0.div_euclid(unit) + i128::from(self.0.rem_euclid(unit) != 0);
        i64::try_from(up).unwrap_or(i64::MAX)
    }
}

fn digits(text: &str) -> Option<i128> {
    if text.is_empty() {
        return Some(0);
    }
    // `parse` alone would take a sign.
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

/// The factor of a suffix, as numerator and denominator.
fn scale(suffix: &str) -> Option<(i128, i128)> {
    let binary = |power: u32| (1_i128 << (10 * power), 1);
    Some(match suffix {
        "" => (1, 1),
        "n" => (1, NANO),
        "u" => (1, 1_000_000),
        "m" => (1, 1000),
        "k" => (1000, 1),
        "M" => (1_000_000, 1),
        "G" => (NANO, 1),
        "T" => (NANO * 1000, 1),
        "P" => (NANO * 1_000_000, 1),
        "E" => (NANO * NANO, 1),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10_i128.checked_pow(exponent.unsigned_abs())?;
            if exponent < 0 { (1, power) } else { (power, 1) }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::Amount;

    #[test]
    fn suffixes_and_rounding() {
        let value = |text| Amount::parse(text).map(Amount::value);
        assert_eq!(value("64Mi"), Some(64 << 20));
        assert_eq!(value("1.5Gi"), Some(3 << 29));
        assert_eq!(value("100m"), Some(1));
        assert_eq!(value("1e3"), Some(1000));
        assert_eq!(value("2E"), Some(2_000_000_000_000_000_000));
        assert_eq!(value("-3"), Some(-3));
        assert_eq!(Amount::parse("250m").map(Amount::milli), Some(250));
        assert_eq!(Amount::parse("0.1").map(Amount::milli), Some(100));
        for bad in ["", "m", "1x", "1.2.3", "e3", "--1"] {
            assert_eq!(Amount::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn division_rounds_up() {
        let a = |text| Amount::parse(text).expect("a quantity");
        assert_eq!(a("1500Ki").divided_by(a("1Mi")), 2);
        assert_eq!(a("1100m").divided_by(a("1")), 2);
        assert_eq!(a("1100m").divided_by(a("1m")), 1100);
    }
}

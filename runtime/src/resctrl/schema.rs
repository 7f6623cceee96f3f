//! Lines of a `schemata` file: `L3:0=7f0;1=1f`, a value for each cache. Values are bit masks in hexadecimal, or
//! for MB a number.

/// The name of a line and its values by cache; `None` for what is no such line.
fn parse(line: &str) -> Option<(&str, Vec<(u32, u64)>)> {
    let (name, values) = line.trim().split_once(':')?;
    let name = name.trim();
    let radix = if name.starts_with("MB") { 10 } else { 16 };
    let value = |pair: &str| {
        let (cache, value) = pair.split_once('=')?;
        let value = value.trim();
        let digits = if radix == 16 { value.strip_prefix("0x").unwrap_or(value) } else { value };
        Some((cache.trim().parse().ok()?, u64::from_str_radix(digits, radix).ok()?))
    };
    let values: Option<Vec<_>> = values.split(';').filter(|pair| !pair.trim().is_empty()).map(value).collect();
    values.map(|values| (name, values))
}

/// Whether all that a line asks for is what a `schemata` file says. Bandwidth counts as the same within a step,
/// to which the kernel rounds it up.
pub(super) fn is_set(line: &str, present: &str, step: u64) -> bool {
    let Some((name, wanted)) = parse(line) else { return false };
    let mut lines = present.lines().filter_map(parse);
    let Some((_, present)) = lines.find(|(known, _)| *known == name) else { return false };
    let rounded = |value: u64| if name == "MB" { value.div_ceil(step.max(1)) } else { value };
    wanted
        .iter()
        .all(|(cache, value)| present.iter().any(|(known, set)| known == cache && rounded(*set) == rounded(*value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRESENT: &str = "    MB:0= 30;1=100\n    L3:0=7f0;1=00f\n";

    #[test]
    fn lines() {
        assert_eq!(parse("L3:0=7f0;1=1f"), Some(("L3", vec![(0, 0x7f0), (1, 0x1f)])));
        assert_eq!(parse("    MB:0= 20"), Some(("MB", vec![(0, 20)])));
        for odd in ["", "L3", "L3:0", "L3:x=f", "L3:0=g", "MB:0=f"] {
            assert_eq!(parse(odd), None, "{odd}");
        }
    }

    #[test]
    fn the_same_is_told_from_the_other() {
        for same in ["L3:0=7f0;1=f", "L3:1=0xf;0=07F0", "L3:1=f", "MB:0=30", "MB:1=100;0=21"] {
            assert!(is_set(same, PRESENT, 10), "{same}");
        }
        for other in ["L3:0=7f1", "L3:2=f", "L2:0=f", "MB:0=20", "MB:0=31", "nonsense"] {
            assert!(!is_set(other, PRESENT, 10), "{other}");
        }
        assert!(!is_set("MB:0=21", PRESENT, 1));
    }
}

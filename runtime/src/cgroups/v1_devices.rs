//! The device list of version 1: a default and the exceptions from it, of which there is one for each device or
//! wildcard. The kernel takes an exception back only whole as it was made, and ignores what is a part of another.
//! Documentation/admin-guide/cgroup-v1/devices.rst.

use std::fmt;
use std::path::Path;

use super::devices::{Access, DevicePolicy};
use super::files::{read_file, write_values};
use crate::error::{Error, Failure};

/// What an exception is about; `None` is any number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Device {
    /// `b` or `c`.
    kind: char,
    major: Option<u32>,
    minor: Option<u32>,
}

/// A device list, its exceptions in the order in which they came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DeviceList {
    default_allow: bool,
    exceptions: Vec<(Device, Access)>,
}

impl Device {
    fn covers(self, other: Device) -> bool {
        let covers = |own: Option<u32>, other: Option<u32>| own.is_none() || own == other;
        self.kind == other.kind && covers(self.major, other.major) && covers(self.minor, other.minor)
    }

    fn meets(self, other: Device) -> bool {
        let meets = |one: Option<u32>, other: Option<u32>| one.is_none() || other.is_none() || one == other;
        self.kind == other.kind && meets(self.major, other.major) && meets(self.minor, other.minor)
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |number: Option<u32>| number.map_or_else(|| "*".to_owned(), |number| number.to_string());
        write!(f, "{} {}:{}", self.kind, number(self.major), number(self.minor))
    }
}

fn letters(access: Access) -> String {
    let all = [(Access::READ, 'r'), (Access::WRITE, 'w'), (Access::MKNOD, 'm')];
    all.into_iter().filter_map(|(bit, letter)| (!access.common(bit).is_none()).then_some(letter)).collect()
}

impl DeviceList {
    /// The list that a policy comes to. What would need an exception from an exception is refused: the kernel
    /// would take it and do nothing.
    pub(super) fn new(policy: &DevicePolicy) -> Result<DeviceList, Error> {
        let mut list = DeviceList { default_allow: policy.default_allow, exceptions: Vec::new() };
        for rule in &policy.rules {
            for kind in rule.kinds() {
                let device = Device { kind: *kind, major: rule.major, minor: rule.minor };
                if rule.allow == policy.default_allow {
                    list.take_back(device, rule.access)?;
                } else {
                    list.add(device, rule.access);
                }
            }
        }
        Ok(list)
    }

    fn add(&mut self, device: Device, access: Access) {
        match self.exceptions.iter_mut().find(|(known, _)| *known == device) {
            Some((_, known)) => *known = known.and(access),
            None => self.exceptions.push((device, access)),
        }
    }

    fn take_back(&mut self, device: Device, access: Access) -> Result<(), Error> {
        for (known, left) in &mut self.exceptions {
            if device.covers(*known) {
                *left = left.without(access);
            } else if device.meets(*known) && !left.common(access).is_none() {
                let (verb, other) = if self.default_allow { ("allow", "denies") } else { ("deny", "allows") };
                let why = format!(
                    "cgroup v1 cannot {verb} {device} {}, a part of what an earlier rule {other} ({known} {})",
                    letters(access),
                    letters(*left)
                );
                return Err(Error::unsupported("linux.resources.devices", why));
            }
        }
        self.exceptions.retain(|(_, access)| !access.is_none());
        Ok(())
    }

    /// Reads the list of a group. Where everything is allowed the kernel does not tell the exceptions.
    fn read(folder: &Path) -> Result<DeviceList, Failure> {
        let path = folder.join("devices.list");
        let mut list = DeviceList { default_allow: false, exceptions: Vec::new() };
        for line in read_file(&path)?.lines() {
            match parse(line) {
                Some(Line::Exception(device, access)) => list.add(device, access),
                Some(Line::Everything) => return Ok(DeviceList { default_allow: true, exceptions: Vec::new() }),
                None => return Err(Failure::refused("read", path.display(), format!("not understood: {line:?}"))),
            }
        }
        Ok(list)
    }

    /// Sets the list of a group without processes.
    pub(super) fn set(&self, folder: &Path) -> Result<(), Failure> {
        write(folder, self.default_allow, ["a".to_owned()])?;
        write(folder, !self.default_allow, self.exceptions.iter().copied().map(line))
    }

    /// Changes the list of a group: first what is new, then what is no more, so that what is in both is allowed
    /// at all times. Only to or from a list that allows everything there is no such way.
    pub(super) fn change(&self, folder: &Path) -> Result<(), Failure> {
        let present = DeviceList::read(folder)?;
        if present.default_allow || self.default_allow {
            return self.set(folder);
        }
        write(folder, !self.default_allow, self.beyond(&present).into_iter().map(line))?;
        write(folder, self.default_allow, present.beyond(self).into_iter().map(line))
    }

    /// The exceptions, or parts of them, that another list has not.
    fn beyond(&self, other: &DeviceList) -> Vec<(Device, Access)> {
        let known = |device: Device| other.exceptions.iter().find(|(known, _)| *known == device);
        let rest = |(device, access): &(Device, Access)| {
            (*device, known(*device).map_or(*access, |(_, known)| access.without(*known)))
        };
        self.exceptions.iter().map(rest).filter(|(_, access)| !access.is_none()).collect()
    }
}

fn line((device, access): (Device, Access)) -> String {
    format!("{device} {}", letters(access))
}

fn write(folder: &Path, allow: bool, lines: impl IntoIterator<Item = String>) -> Result<(), Failure> {
    write_values(&folder.join(if allow { "devices.allow" } else { "devices.deny" }), lines)
}

/// A line of the kernel's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Everything,
    Exception(Device, Access),
}

fn parse(line: &str) -> Option<Line> {
    let words: Vec<&str> = line.split(' ').collect();
    let [kind, numbers, access] = words[..] else { return None };
    let kind = match kind {
        "a" => return Some(Line::Everything),
        "b" => 'b',
        "c" => 'c',
        _ => return None,
    };
    let number = |text: &str| if text == "*" { Some(None) } else { text.parse().ok().map(Some) };
    let (major, minor) = numbers.split_once(':')?;
    Some(Line::Exception(Device { kind, major: number(major)?, minor: number(minor)? }, Access::parse(Some(access))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(rules: &str) -> Result<DeviceList, Error> {
        let rules: Vec<_> = serde_json::from_str(rules).expect("test data");
        DeviceList::new(&DevicePolicy::new(&rules)?)
    }

    fn lines(list: &[(Device, Access)]) -> Vec<String> {
        list.iter().map(|(device, access)| format!("{device} {}", letters(*access))).collect()
    }

    const BLOCKS: &str = r#"[{"allow":false},{"allow":true,"type":"b","major":8,"access":"r"}"#;

    #[test]
    fn what_changes() {
        let before = list(&format!("{BLOCKS}]")).expect("list");
        let after = r#",{"allow":true,"type":"b","major":8,"access":"w"},{"allow":true,"type":"c","major":10,"minor":229,"access":"rw"},
            {"allow":false,"type":"b","access":"r"}]"#;
        let after = list(&format!("{BLOCKS}{after}")).expect("list");
        assert_eq!(lines(&after.beyond(&before)), ["b 8:* w", "c 10:229 rw"]);
        assert_eq!(lines(&before.beyond(&after)), ["b 8:* r"], "a rule that covers another takes its access back");
    }

    #[test]
    fn a_part_of_an_exception_cannot_be_taken_back() {
        let part = r#",{"allow":false,"type":"b","major":8,"minor":1,"access":"r"}]"#;
        let error = list(&format!("{BLOCKS}{part}")).expect_err("part").to_string();
        assert!(error.contains("linux.resources.devices") && error.contains("b 8:1 r"), "{error}");
        let other = r#",{"allow":false,"type":"b","major":8,"minor":1,"access":"w"}]"#;
        assert!(list(&format!("{BLOCKS}{other}")).is_ok(), "it is not allowed anyway");
        let crossing = r#"[{"allow":false},{"allow":true,"type":"b","minor":3,"access":"r"},
            {"allow":false,"type":"b","major":8,"access":"r"}]"#;
        assert!(list(crossing).is_err());
    }

    #[test]
    fn lines_of_the_kernel() {
        for line in ["c 1:3 rwm", "b *:* m", "c 136:* rw"] {
            let Some(Line::Exception(device, access)) = parse(line) else { panic!("{line}") };
            assert_eq!(format!("{device} {}", letters(access)), line);
        }
        assert_eq!(parse("a *:* rwm"), Some(Line::Everything));
        for odd in ["", "c 1:3", "d 1:3 r", "c 1-3 r", "c x:3 r"] {
            assert_eq!(parse(odd), None, "{odd}");
        }
    }
}

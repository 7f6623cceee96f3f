//! Who a container runs as: numbers as given, names by the image's /etc/passwd and /etc/group.

use std::path::{Path, PathBuf};

use orlop_proto::v1;

use super::{Inputs, layers};
use crate::error::{Context, Error, Kind, Result};

/// The most bytes of /etc/passwd or /etc/group that are read.
const FILE_LIMIT: u64 = 4 << 20;
/// The highest id that is accepted, as in Kubernetes and runc: what does not fit an i32 is a mistake or a trick.
const MAX_ID: i64 = i32::MAX as i64;

/// A resolved user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// All groups, `gid` first, each once.
    pub(crate) groups: Vec<u32>,
    /// The home folder that /etc/passwd names.
    pub(crate) home: Option<String>,
}

/// The two halves of `user[:group]`.
struct Wanted {
    user: String,
    group: Option<String>,
}

/// Resolves the user of a container.
pub(super) fn resolve(inputs: &Inputs<'_>, security: &v1::LinuxContainerSecurityContext) -> Result<User> {
    let wanted = wanted(security, &inputs.image.user)?;
    let passwd = read(inputs.layers, "/etc/passwd")?;
    let group = read(inputs.layers, "/etc/group")?;
    let strict = security.supplemental_groups_policy() == v1::SupplementalGroupsPolicy::Strict;
    let mut user = lookup(&wanted, &passwd, &group, !strict)?;
    for &gid in &security.supplemental_groups {
        user.groups.push(id("supplemental group", gid)?);
    }
    let mut seen = std::collections::BTreeSet::new();
    user.groups.retain(|gid| seen.insert(*gid));
    Ok(user)
}

fn wanted(security: &v1::LinuxContainerSecurityContext, image: &str) -> Result<Wanted> {
    let name = (!security.run_as_username.is_empty()).then(|| security.run_as_username.clone());
    let user = match (&security.run_as_user, name) {
        (Some(_), Some(_)) => return Err(Error::invalid("run_as_user and run_as_username are both set")),
        (Some(uid), None) => Some(id("run_as_user", uid.value)?.to_string()),
        (None, name) => name,
    };
    let group = security.run_as_group.as_ref().map(|gid| id("run_as_group", gid.value)).transpose()?;
    let group = group.map(|gid| gid.to_string());
    match user {
        Some(user) => Ok(Wanted { user, group }),
        None if group.is_some() => Err(Error::invalid("run_as_group is set without a user")),
        None => {
            let (user, group) = image.split_once(':').map_or((image, None), |(user, group)| (user, Some(group)));
            Ok(Wanted {
                user: if user.is_empty() { "0".to_owned() } else { user.to_owned() },
                group: group.filter(|group| !group.is_empty()).map(str::to_owned),
            })
        }
    }
}

fn id(what: &str, value: i64) -> Result<u32> {
    if (0..=MAX_ID).contains(&value) {
        return Ok(value as u32);
    }
    Err(Error::invalid(format!("{what} {value} is not in 0..={MAX_ID}")))
}

fn read(layers: &[PathBuf], path: &str) -> Result<String> {
    let content = layers::read(layers, Path::new(path), FILE_LIMIT)
        .context(Kind::InvalidArgument, || format!("read the image's {path}"))?;
    Ok(content.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default())
}

/// A number if the text is made of digits only. A number is never looked up as a name: an image could give the
/// name "1000" to root (CVE-2024-40635 and its kin).
fn number(what: &str, text: &str) -> Result<Option<u32>> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    let value = text.parse::<i64>().map_err(|_| Error::invalid(format!("{what} {text} is not in 0..={MAX_ID}")))?;
    id(what, value).map(Some)
}

fn lookup(wanted: &Wanted, passwd: &str, group: &str, merge: bool) -> Result<User> {
    let number_of_user = number("user", &wanted.user)?;
    let entry = passwd.lines().filter_map(PasswdEntry::parse).find(|entry| match number_of_user {
        Some(uid) => entry.uid == uid,
        None => entry.name == wanted.user,
    });
    let uid = match (&entry, number_of_user) {
        (_, Some(uid)) => uid,
        (Some(entry), None) => entry.uid,
        (None, None) => {
            return Err(Error::invalid(format!("the image's /etc/passwd has no user {:?}", wanted.user)));
        }
    };
    let gid = match &wanted.group {
        Some(text) => group_id(text, group)?,
        None => entry.as_ref().map_or(0, |entry| entry.gid),
    };
    let mut groups = vec![gid];
    if let (true, Some(entry)) = (merge, &entry) {
        groups.extend(memberships(group, entry.name));
    }
    Ok(User { uid, gid, groups, home: entry.map(|entry| entry.home.to_owned()).filter(|home| home.starts_with('/')) })
}

fn group_id(text: &str, group: &str) -> Result<u32> {
    if let Some(gid) = number("group", text)? {
        return Ok(gid);
    }
    group
        .lines()
        .filter_map(GroupEntry::parse)
        .find(|entry| entry.name == text)
        .map(|entry| entry.gid)
        .ok_or_else(|| Error::invalid(format!("the image's /etc/group has no group {text:?}")))
}

fn memberships<'a>(group: &'a str, name: &'a str) -> impl Iterator<Item = u32> + 'a {
    group
        .lines()
        .filter_map(GroupEntry::parse)
        .filter(move |entry| entry.members.split(',').any(|member| member == name))
        .map(|entry| entry.gid)
}

/// A line of passwd(5): `name:password:uid:gid:comment:home:shell`.
struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl<'a> PasswdEntry<'a> {
    fn parse(line: &'a str) -> Option<PasswdEntry<'a>> {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let uid = number("", fields.nth(1)?).ok()??;
        let gid = number("", fields.next()?).ok()??;
        Some(PasswdEntry { name, uid, gid, home: fields.nth(1).unwrap_or_default() })
    }
}

/// A line of group(5): `name:password:gid:member,…`.
struct GroupEntry<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

impl<'a> GroupEntry<'a> {
    fn parse(line: &'a str) -> Option<GroupEntry<'a>> {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let gid = number("", fields.nth(1)?).ok()??;
        Some(GroupEntry { name, gid, members: fields.next().unwrap_or_default() })
    }
}

#[cfg(test)]
mod tests {
    use super::{User, Wanted, lookup, wanted};
    use orlop_proto::v1;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:w:/srv/web:/bin/sh\n1000:x:0:0::/:/bin/sh\n\
                          bad line\n:x:5:5::/:\nbroken:x:-1:0::/:\n";
    const GROUP: &str = "root:x:0:\nweb:x:34:\nlogs:x:50:web,other\nmore:x:51:other,web\n";

    fn of(user: &str, group: Option<&str>, merge: bool) -> Result<User, crate::Error> {
        let wanted = Wanted { user: user.to_owned(), group: group.map(str::to_owned) };
        lookup(&wanted, PASSWD, GROUP, merge)
    }

    #[test]
    fn names_are_looked_up_and_numbers_are_numbers() {
        let web = of("web", None, true).unwrap();
        assert_eq!((web.uid, web.gid, web.groups.as_slice()), (33, 34, [34, 50, 51].as_slice()));
        assert_eq!(web.home.as_deref(), Some("/srv/web"));
        assert_eq!(of("33", None, true).unwrap().groups, [34, 50, 51]);
        assert_eq!(of("web", None, false).unwrap().groups, [34]);
        assert_eq!(of("web", Some("logs"), true).unwrap().groups, [50, 50, 51]);
        let unknown = of("4711", None, true).unwrap();
        assert_eq!((unknown.uid, unknown.gid), (4711, 0));
        assert_eq!(of("1000", None, true).unwrap().uid, 1000, "the name 1000 must not become root");
    }

    #[test]
    fn odd_users_are_refused() {
        for user in ["2147483648", "4294967295", "4294967296", "-1", "0x0", "1000x", " 0", "nobody", "broken", "+0"] {
            assert!(of(user, None, true).is_err(), "{user:?}");
        }
        assert!(of("1000", Some("4294967296"), true).is_err());
        assert!(of("1000", Some("nogroup"), true).is_err());
        assert_eq!(of("2147483647", None, true).unwrap().uid, 2_147_483_647);
    }

    #[test]
    fn the_request_goes_before_the_image() {
        let mut security = v1::LinuxContainerSecurityContext::default();
        let from_image = wanted(&security, "web:logs").unwrap();
        assert_eq!((from_image.user.as_str(), from_image.group.as_deref()), ("web", Some("logs")));
        assert_eq!(wanted(&security, "").unwrap().user, "0");
        assert_eq!(wanted(&security, ":5").unwrap().group.as_deref(), Some("5"));
        security.run_as_user = Some(v1::Int64Value { value: 7 });
        let from_request = wanted(&security, "web:logs").unwrap();
        assert_eq!((from_request.user.as_str(), from_request.group.as_deref()), ("7", None));
        security.run_as_user = Some(v1::Int64Value { value: -1 });
        assert!(wanted(&security, "").is_err());
        security.run_as_user = None;
        security.run_as_group = Some(v1::Int64Value { value: 7 });
        assert!(wanted(&security, "").is_err());
    }
}

//! The names of units: `slice:prefix:name` of linux.cgroupsPath, as runc and crun understand it, and where systemd puts
//! a unit below a hierarchy's mount point (systemd.unit(5), systemd.slice(5)).

use std::path::{Path, PathBuf};

use super::Manager;
use crate::error::Error;

const FIELD: &str = "linux.cgroupsPath";
/// As systemd counts, with the suffix.
const LONGEST: usize = 255;

/// The slice and the name of the scope for a container.
pub(super) fn names(path: Option<&Path>, id: &str, manager: Manager) -> Result<(String, String), Error> {
    let invalid = |reason: String| Error::invalid(FIELD, reason);
    let given = path.filter(|path| !path.as_os_str().is_empty());
    let text = given.map_or_else(|| format!(":orlop:{}", escape(id)), |path| path.to_string_lossy().into_owned());
    let parts: Vec<&str> = text.split(':').collect();
    let &[slice, prefix, name] = &*parts else {
        return Err(invalid(format!("{text:?}: with the systemd driver it has the form slice:prefix:name")));
    };
    let default = if manager == Manager::System { "system.slice" } else { "user.slice" };
    let slice = if slice.is_empty() { default } else { slice };
    if expand(slice).is_none() {
        return Err(invalid(format!("{slice:?} is not the name of a slice, as in a-b.slice")));
    }
    if name.strip_suffix(".slice").is_some() {
        return Err(invalid(format!("{name:?} is a slice, which holds no processes; name a scope")));
    }
    let unit = format!("{prefix}-{name}.scope");
    if !is_valid(&unit) {
        return Err(invalid(format!(
            "{unit:?} is not the name of a unit: up to {LONGEST} letters, digits and `:-_.\\@`"
        )));
    }
    Ok((slice.to_owned(), unit))
}

/// The folder of a slice: `a-b.slice` is `a.slice/a-b.slice`, `-.slice` the root. `None` for what is no slice.
pub(super) fn expand(slice: &str) -> Option<PathBuf> {
    let name = slice.strip_suffix(".slice").filter(|_| is_valid(slice))?;
    let mut folder = PathBuf::new();
    if name == "-" {
        return Some(folder);
    }
    let mut end = 0;
    for part in name.split('-') {
        if part.is_empty() {
            return None;
        }
        end += part.len();
        folder.push(format!("{}.slice", &name[..end]));
        end += 1;
    }
    Some(folder)
}

fn is_valid(unit: &str) -> bool {
    let fits = |letter: char| letter.is_ascii_alphanumeric() || ":-_.\\@".contains(letter);
    unit.len() <= LONGEST && unit.chars().all(fits) && !unit.starts_with('.')
}

/// A container's name in a unit's: of its letters `+` is none there, and stands escaped as systemd-escape(1) does it.
fn escape(id: &str) -> String {
    id.replace('+', "\\x2b")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names_of(path: &str) -> Option<(String, String)> {
        names(Some(Path::new(path)), "web", Manager::System).ok()
    }

    #[test]
    fn units() {
        let pair = |slice: &str, unit: &str| Some((slice.to_owned(), unit.to_owned()));
        assert_eq!(names_of("a-b.slice:cri:1234"), pair("a-b.slice", "cri-1234.scope"));
        assert_eq!(names_of("::x"), pair("system.slice", "-x.scope"));
        assert_eq!(names_of(""), pair("system.slice", "orlop-web.scope"));
        assert_eq!(names(None, "a+b", Manager::User).ok(), pair("user.slice", "orlop-a\\x2bb.scope"));
        let long = format!(":p:{}", "x".repeat(250));
        for odd in ["/a/b", "a:b", "a:b:c:d", "a/b.slice:p:n", "a--b.slice:p:n", "a:p:n", ":p:x y", ":p:a/b", &long] {
            assert_eq!(names_of(odd), None, "{odd}");
        }
        assert_eq!(names_of(":p:a.slice"), None, "a slice holds no processes");
    }

    #[test]
    fn slices() {
        let folder = |slice: &str| expand(slice).map(|folder| folder.display().to_string());
        assert_eq!(folder("a.slice").as_deref(), Some("a.slice"));
        assert_eq!(folder("a-b-c.slice").as_deref(), Some("a.slice/a-b.slice/a-b-c.slice"));
        assert_eq!(folder("-.slice").as_deref(), Some(""));
        for odd in ["", ".slice", "a", "-a.slice", "a-.slice", "a--b.slice", "a/b.slice", "--.slice"] {
            assert_eq!(folder(odd), None, "{odd}");
        }
    }
}

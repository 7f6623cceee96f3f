//! Overlays by the mount API, which takes no value of more than 255 bytes, and by which Linux knows lower layers one by one
//! only since 6.7 (overlayfs.rst of the kernel). Where that is not enough the folders are named by descriptors.

use std::ffi::OsStr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use crate::error::{Context, Failure};
use crate::procfs::ProcFs;
use crate::sys::FsContext;

/// The most bytes of a value that fsconfig(2) takes.
const LONGEST: usize = 255;

/// What an overlay is made of.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Overlay {
    /// From the top on.
    pub(crate) lower: Vec<PathBuf>,
    pub(crate) upper: Option<PathBuf>,
    pub(crate) work: Option<PathBuf>,
    /// Other options.
    pub(crate) rest: Vec<(String, Option<String>)>,
}

impl Overlay {
    /// From the options of a mount, if they are too long to be given as they are, and such as can be taken apart.
    pub(crate) fn of_long(options: &[(String, Option<String>)]) -> Option<Overlay> {
        let is_long = |(_, value): &(String, Option<String>)| value.as_ref().is_some_and(|text| text.len() > LONGEST);
        if !options.iter().any(is_long) {
            return None;
        }
        let mut overlay = Overlay::default();
        for (key, value) in options {
            match (key.as_str(), value) {
                // Layers of data alone.
                ("lowerdir", Some(value)) if value.contains("::") => return None,
                ("lowerdir", Some(value)) => overlay.lower = split(value),
                ("upperdir", Some(value)) => overlay.upper = split(value).pop(),
                ("workdir", Some(value)) => overlay.work = split(value).pop(),
                _ => overlay.rest.push((key.clone(), value.clone())),
            }
        }
        Some(overlay)
    }

    /// Makes it without attaching it anywhere, with these `MOUNT_ATTR_*` flags.
    pub(crate) fn mount(&self, attributes: u64) -> Result<OwnedFd, Failure> {
        let names: Option<Vec<&str>> = self.folders().map(as_it_is).collect();
        let tried = match names {
            Some(names) => match self.mount_by(&names, true, attributes) {
                // Linux does not know layers one by one, and says so here or there, depending on its age.
                Err(failure) if failure.errno == Errno::EINVAL as i32 => true,
                result => return result,
            },
            None => false,
        };
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let open_one = |path: &Path| open(path, flags, Mode::empty()).at("open layer", path.display());
        let folders = self.folders().map(open_one).collect::<Result<Vec<_>, _>>()?;
        let names: Vec<String> = folders.iter().map(|fd| fd.as_raw_fd().to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let here = open_one(Path::new("."))?;
        let descriptors = ProcFs::open()?.own_descriptors()?;
        nix::unistd::fchdir(&descriptors).at("chdir to", "/proc/self/fd")?;
        let mounted = match self.mount_by(&names, !tried, attributes) {
            Err(failure) if !tried && failure.errno == Errno::EINVAL as i32 => self.mount_by(&names, false, attributes),
            result => result,
        };
        nix::unistd::fchdir(&here).at("chdir", "back")?;
        mounted
    }

    /// The lower ones, the upper one and that to work in.
    fn folders(&self) -> impl Iterator<Item = &Path> {
        self.lower.iter().chain(&self.upper).chain(&self.work).map(PathBuf::as_path)
    }

    /// `names` are those of the folders.
    fn mount_by(&self, names: &[&str], one_by_one: bool, attributes: u64) -> Result<OwnedFd, Failure> {
        let context = FsContext::open("overlay").at("mount", "overlay")?;
        let said = |failure: Failure| failure.note(context.message());
        self.configure(&context, names, one_by_one).map_err(said)?;
        context.mount(attributes).at("mount", "overlay").map_err(said)
    }

    fn configure(&self, context: &FsContext, names: &[&str], one_by_one: bool) -> Result<(), Failure> {
        let set = |key: &str, value: Option<&str>| {
            context.set(key, value).at("configure overlay", format!("{key}={}", value.unwrap_or_default()))
        };
        set("source", Some("overlay"))?;
        let (lower, above) = names.split_at(self.lower.len());
        if one_by_one {
            lower.iter().try_for_each(|layer| set("lowerdir+", Some(layer)))?;
        } else {
            set("lowerdir", Some(&lower.join(":")))?;
        }
        let keys = [self.upper.as_ref().map(|_| "upperdir"), self.work.as_ref().map(|_| "workdir")];
        keys.into_iter().flatten().zip(above).try_for_each(|(key, name)| set(key, Some(name)))?;
        self.rest.iter().try_for_each(|(key, value)| set(key, value.as_deref()))
    }
}

/// A path that the kernel takes, and that means the same to it.
fn as_it_is(path: &Path) -> Option<&str> {
    path.to_str().filter(|text| text.len() <= LONGEST && !text.contains('\\'))
}

/// The paths of an option of overlayfs: a colon is between two of them, and a backslash makes what follows it a letter.
fn split(value: &str) -> Vec<PathBuf> {
    let mut paths = vec![Vec::new()];
    let mut letters = value.bytes();
    while let (Some(letter), Some(path)) = (letters.next(), paths.last_mut()) {
        match letter {
            b'\\' => path.extend(letters.next()),
            b':' => paths.push(Vec::new()),
            letter => path.push(letter),
        }
    }
    paths.iter().map(|path| OsStr::from_bytes(path).into()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_options_are_taken_apart() {
        let long = "x".repeat(250);
        let options = |lower: &str| {
            let all =
                [("lowerdir", Some(lower)), ("upperdir", Some("/u")), ("workdir", Some("/w")), ("userxattr", None)];
            all.map(|(key, value)| (key.to_owned(), value.map(str::to_owned)))
        };
        let lower = format!("/{long}:/a\\:b:/c\\\\d");
        let wanted = Overlay {
            lower: vec![format!("/{long}").into(), "/a:b".into(), "/c\\d".into()],
            upper: Some("/u".into()),
            work: Some("/w".into()),
            rest: vec![("userxattr".to_owned(), None)],
        };
        assert_eq!(Overlay::of_long(&options(&lower)), Some(wanted));
        assert_eq!(Overlay::of_long(&options("/a:/b")), None);
        assert_eq!(Overlay::of_long(&options(&format!("/{long}:/a::/data"))), None);
    }
}

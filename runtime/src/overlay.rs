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
use crate::path::fd_path;
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
                ("lowerdir", Some(value)) => overlay.lower = split(value, Some(b':')),
                ("upperdir", Some(value)) => overlay.upper = split(value, None).pop(),
                ("workdir", Some(value)) => overlay.work = split(value, None).pop(),
                _ => overlay.rest.push((key.clone(), value.clone())),
            }
        }
        Some(overlay)
    }

    /// Makes it without attaching it anywhere, with these `MOUNT_ATTR_*` flags.
    pub(crate) fn mount(&self, attributes: u64) -> Result<OwnedFd, Failure> {
        let names: Option<Vec<&str>> = self.folders().map(as_it_is).collect();
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let open_one = |path: &Path| open(path, flags, Mode::empty());
        let mut folders = Vec::new();
        if names.is_none() {
            folders = self.open(open_one)?;
        }
        let by_descriptor: Vec<String> = folders.iter().map(fd_path).collect();
        let names = names.unwrap_or_else(|| by_descriptor.iter().map(String::as_str).collect());
        // Linux that does not know layers one by one says so here or there, depending on its age.
        let first = match self.mount_by(&names, true, attributes) {
            Err(failure) if failure.errno == Errno::EINVAL as i32 => failure,
            result => return result,
        };
        if folders.is_empty() {
            folders = self.open(open_one)?;
        }
        // All lower ones are one value then, in which their numbers take the least space.
        let numbers: Vec<String> = folders.iter().map(|fd| fd.as_raw_fd().to_string()).collect();
        let numbers: Vec<&str> = numbers.iter().map(String::as_str).collect();
        // Who may not enter its own folder is a container's process, for which any other will do.
        let here =
            open_one(Path::new(".")).or_else(|_| open_one(Path::new("/"))).at("open", "the working directory")?;
        nix::unistd::fchdir(ProcFs::open()?.own_descriptors()?).at("chdir to", "/proc/self/fd")?;
        let mounted = self.mount_by(&numbers, false, attributes);
        nix::unistd::fchdir(&here).at("chdir", "back")?;
        // Where the kernel has said why, and it was not that, it was the reason both times.
        let said = !first.note.is_empty() && !first.note.contains("lowerdir+");
        mounted.map_err(|failure| if said { first } else { failure })
    }

    fn open(&self, open_one: impl Fn(&Path) -> nix::Result<OwnedFd>) -> Result<Vec<OwnedFd>, Failure> {
        self.folders().map(|path| open_one(path).at("open layer", path.display())).collect()
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
            let joined = lower.join(":");
            if joined.len() > LONGEST {
                let count = lower.len();
                let note =
                    format!("{count} layers are too many for one option, and one by one (Linux 6.7) they are refused");
                return Err(Failure::refused("configure overlay", "lowerdir", note));
            }
            set("lowerdir", Some(&joined))?;
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

/// The paths of an option of overlayfs: there may be a colon between two of them, and a backslash makes what follows it a
/// letter.
fn split(value: &str, between: Option<u8>) -> Vec<PathBuf> {
    let mut paths = vec![Vec::new()];
    let mut letters = value.bytes();
    while let (Some(letter), Some(path)) = (letters.next(), paths.last_mut()) {
        match letter {
            b'\\' => path.extend(letters.next()),
            letter if Some(letter) == between => paths.push(Vec::new()),
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
            let all = [
                ("lowerdir", Some(lower)),
                ("upperdir", Some("/u:u\\\\")),
                ("workdir", Some("/w")),
                ("userxattr", None),
            ];
            all.map(|(key, value)| (key.to_owned(), value.map(str::to_owned)))
        };
        let lower = format!("/{long}:/a\\:b:/c\\\\d");
        let wanted = Overlay {
            lower: vec![format!("/{long}").into(), "/a:b".into(), "/c\\d".into()],
            upper: Some("/u:u\\".into()),
            work: Some("/w".into()),
            rest: vec![("userxattr".to_owned(), None)],
        };
        assert_eq!(Overlay::of_long(&options(&lower)), Some(wanted));
        assert_eq!(Overlay::of_long(&options("/a:/b")), None);
        assert_eq!(Overlay::of_long(&options(&format!("/{long}:/a::/data"))), None);
    }
}

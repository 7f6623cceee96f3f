//! Files that change all at once: a timestamped folder, and `..data`, a link that is renamed over.
//!
//! A reader who follows `name -> ..data/name` sees the old set of files or the new one, never a mixture.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::{Component, Path, PathBuf};

use super::Reason;
use super::ownership::{self, Owner};

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";

/// One file. No Debug: it may be a secret.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) content: Vec<u8>,
    pub(crate) mode: u32,
    /// Owned by this user instead of root.
    pub(crate) user: Option<u32>,
}

/// Files by their path in the volume.
pub(crate) type Payload = BTreeMap<String, File>;

/// Makes the volume hold exactly these files.
pub(super) fn write(volume: &Path, payload: &Payload, owner: Owner) -> Result<(), Reason> {
    for path in payload.keys() {
        check_path(path)?;
    }
    let system = |action| move |e: io::Error| Reason::system(action, volume, e);
    let current = current_set(volume).map_err(system("read the files of"))?;
    let same = match &current {
        Some(set) => holds(&volume.join(set), payload).map_err(system("read the files of"))?,
        None => false,
    };
    if !same {
        let fresh = new_set(volume).map_err(system("make a folder in"))?;
        let set = volume.join(&fresh);
        fill(&set, payload, owner).map_err(|e| {
            // Without room for the files, tries must not fill it with halves; the next success removes what stays.
            let _ = fs::remove_dir_all(&set);
            system("write the files of")(e)
        })?;
        publish(volume, &fresh).map_err(system("publish the files of"))?;
    }
    link_names(volume, payload).map_err(system("link the files of"))?;
    remove_stale_sets(volume).map_err(system("remove old files of"))
}

/// Whether the volume has a whole set of files.
pub(super) fn is_published(volume: &Path) -> bool {
    volume.join(DATA).is_dir()
}

fn check_path(path: &str) -> Result<(), Reason> {
    let plain = !path.is_empty()
        && !path.starts_with("..")
        && Path::new(path).components().all(|c| matches!(c, Component::Normal(_)));
    if plain { Ok(()) } else { Err(Reason::Path(path.to_owned())) }
}

fn current_set(volume: &Path) -> io::Result<Option<PathBuf>> {
    match fs::read_link(volume.join(DATA)) {
        Ok(target) => Ok(Some(target)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Whether the folder has these files with these contents, and no others.
fn holds(set: &Path, payload: &Payload) -> io::Result<bool> {
    let mut found = BTreeSet::new();
    if !set.is_dir() {
        return Ok(false);
    }
    collect(set, set, &mut found)?;
    if found.len() != payload.len() {
        return Ok(false);
    }
    for (path, file) in payload {
        if !found.contains(Path::new(path)) || fs::read(set.join(path))? != file.content {
            return Ok(false);
        }
    }
    Ok(true)
}

fn collect(root: &Path, folder: &Path, found: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            collect(root, &entry.path(), found)?;
        } else if let Ok(path) = entry.path().strip_prefix(root) {
            found.insert(path.to_owned());
        }
    }
    Ok(())
}

fn new_set(volume: &Path) -> io::Result<String> {
    let now = jiff::Timestamp::now();
    let stamp = now.strftime("..%Y_%m_%d_%H_%M_%S").to_string();
    for attempt in 0..100_u32 {
        let name = format!("{stamp}.{:09}{attempt:02}", now.subsec_nanosecond());
        match DirBuilder::new().mode(0o755).create(volume.join(&name)) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            made => return made.map(|()| name),
        }
    }
    Err(io::Error::from(ErrorKind::AlreadyExists))
}

fn fill(set: &Path, payload: &Payload, owner: Owner) -> io::Result<()> {
    for (path, file) in payload {
        let path = set.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        out.write_all(&file.content)?;
        // The umask must not decide.
        out.set_permissions(Permissions::from_mode(file.mode))?;
        if file.user.is_some() {
            chown(&path, file.user, None)?;
        }
    }
    match owner.group {
        Some(group) => ownership::apply(set, group, 0o440),
        None => Ok(()),
    }
}

fn publish(volume: &Path, set: &str) -> io::Result<()> {
    let fresh = volume.join(DATA_NEW);
    remove_link(&fresh)?;
    symlink(set, &fresh)?;
    fs::rename(&fresh, volume.join(DATA))
}

fn remove_link(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// The names users see, each a link through `..data`.
fn link_names(volume: &Path, payload: &Payload) -> io::Result<()> {
    let wanted: BTreeSet<&str> = payload.keys().filter_map(|p| p.split('/').next()).collect();
    for name in &wanted {
        match symlink(Path::new(DATA).join(name), volume.join(name)) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
    }
    for entry in fs::read_dir(volume)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !wanted.contains(name.as_ref()) {
            remove_link(&entry.path())?;
        }
    }
    Ok(())
}

/// Sets that are not current: the previous one, and those of a write that was cut short.
fn remove_stale_sets(volume: &Path) -> io::Result<()> {
    let current = current_set(volume)?;
    for entry in fs::read_dir(volume)? {
        let entry = entry?;
        let name = PathBuf::from(entry.file_name());
        let is_set = entry.file_type()?.is_dir() && name.to_string_lossy().starts_with("..");
        if is_set && Some(&name) != current.as_ref() {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        let file = |content: &str| File { content: content.as_bytes().to_vec(), mode: 0o640, user: None };
        files.iter().map(|(path, content)| ((*path).to_owned(), file(content))).collect()
    }

    fn put(volume: &Path, files: &[(&str, &str)]) {
        write(volume, &payload(files), Owner::default()).expect("a write");
    }

    #[test]
    fn replaces_all_at_once_and_leaves_nothing_old() {
        let dir = tempfile::tempdir().expect("a folder");
        let volume = dir.path();
        put(volume, &[("a", "1"), ("d/b", "2")]);
        assert_eq!(fs::read_to_string(volume.join("d/b")).expect("a file"), "2");
        let mode = fs::metadata(volume.join("a")).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        let first = fs::read_link(volume.join(DATA)).expect("a link");
        put(volume, &[("a", "1"), ("d/b", "2")]);
        assert_eq!(fs::read_link(volume.join(DATA)).expect("a link"), first, "unchanged files stay");
        fs::create_dir(volume.join("..2020_cut_short")).expect("a leftover");
        put(volume, &[("a", "3")]);
        assert_eq!(fs::read_to_string(volume.join("a")).expect("a file"), "3");
        let names: BTreeSet<String> = fs::read_dir(volume)
            .expect("a folder")
            .map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        let current = fs::read_link(volume.join(DATA)).expect("a link").to_string_lossy().into_owned();
        assert_eq!(names, BTreeSet::from(["a".to_owned(), DATA.to_owned(), current]));
    }

    #[test]
    fn an_open_folder_keeps_its_set() {
        let dir = tempfile::tempdir().expect("a folder");
        put(dir.path(), &[("a", "old"), ("b", "old")]);
        let handle = fs::File::open(dir.path().join("a")).expect("a file");
        put(dir.path(), &[("a", "new"), ("b", "new")]);
        let mut text = String::new();
        io::Read::read_to_string(&mut { handle }, &mut text).expect("a read");
        assert_eq!(text, "old");
    }

    #[test]
    fn a_write_that_fails_leaves_nothing() {
        let dir = tempfile::tempdir().expect("a folder");
        let clash = payload(&[("a", "1"), ("a/b", "2")]);
        assert!(write(dir.path(), &clash, Owner::default()).is_err());
        assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 0);
        assert!(!is_published(dir.path()));
        put(dir.path(), &[("a", "1")]);
        assert!(is_published(dir.path()));
    }

    #[test]
    fn paths_that_leave_the_volume_are_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        for bad in ["../x", "/x", "a/../../x", "", "..x"] {
            let written = write(dir.path(), &payload(&[(bad, "1")]), Owner::default());
            assert!(matches!(written, Err(Reason::Path(_))), "{bad:?}");
        }
        assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 0);
    }
}

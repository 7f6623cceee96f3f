//! Layers that try to leave their folder, or to use up the machine.

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use orlop_cri::image::{ImageStore, ImportOptions, Limits, RegistryConfig};
use tar::EntryType;

use super::build::{GZIP, PLAIN, Tar, ZSTD, archive, layer};
use super::fixture::Scratch;

/// A folder that no layer may change.
struct Canary {
    folder: PathBuf,
}

impl Canary {
    fn new(scratch: &Scratch) -> Canary {
        let folder = scratch.path("canary");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("file"), "alive").unwrap();
        std::fs::set_permissions(folder.join("file"), PermissionsExt::from_mode(0o600)).unwrap();
        Canary { folder }
    }

    fn check(&self) {
        let names: Vec<_> = std::fs::read_dir(&self.folder).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["file"]);
        let file = self.folder.join("file");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "alive");
        let metadata = std::fs::metadata(&file).unwrap();
        assert_eq!((metadata.mode() & 0o7777, metadata.uid(), metadata.nlink()), (0o600, 0, 1));
    }
}

async fn unpack(scratch: &Scratch, store: &ImageStore, tar: Tar) -> Result<PathBuf, String> {
    let path = archive(&scratch.path(""), "a/b:c", &[layer(tar, PLAIN)]);
    match store.import(&path, ImportOptions::default()).await {
        Ok(ids) => Ok(store.layers(&ids[0]).unwrap().remove(0)),
        Err(error) => {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            Err(format!("{error}: {}", cause.unwrap_or_default()))
        }
    }
}

#[tokio::test]
async fn nothing_leaves_the_layer() {
    let scratch = Scratch::new();
    let store = scratch.store();
    let canary = Canary::new(&scratch);
    let outside = canary.folder.to_str().unwrap();
    let file = format!("{outside}/file");
    let up = "../".repeat(12);
    let climbing = format!("{up}{}", &outside[1..]);

    // Refused outright.
    for tar in [
        Tar::default().file(&format!("{climbing}/file"), "dead"),
        Tar::default().file("a/../../b", "dead"),
        Tar::default().file("..", "dead"),
        Tar::default().hard_link("stolen", &format!("{climbing}/file")),
        Tar::default().hard_link("stolen", &file),
        Tar::default().symlink("evil", outside).hard_link("stolen", "evil/file"),
        Tar::default().file("a/.wh...", ""),
        Tar::default().file("a/.wh..", ""),
        Tar::default().entry(EntryType::Regular, ".", "", 0o644, b"the root"),
        Tar::default().entry(EntryType::GNUSparse, "sparse", "", 0o644, b""),
    ] {
        let result = unpack(&scratch, &store, tar).await;
        assert!(result.is_err(), "{result:?}");
        assert!(store.list().is_empty());
        canary.check();
    }
    scratch.empty();

    // Kept inside.
    for tar in [
        Tar::default().file(&file, "dead"),
        Tar::default().symlink("evil", outside).file("evil/file", "dead"),
        Tar::default().symlink("evil", &climbing).file("evil/file", "dead"),
        Tar::default().symlink("evil", &file).file("evil", "replaces the link"),
        Tar::default().symlink("evil", outside).dir("evil", 0o777),
        Tar::default().symlink("evil", outside).file("evil/.wh.file", ""),
        Tar::default().symlink("evil", outside).file("evil/.wh..wh..opq", ""),
        Tar::default().symlink("evil", &file).hard_link("more", "evil").file("more", "dead"),
        Tar::default().symlink("a", "b").symlink("b", outside).file("a/file", "dead"),
        Tar::default().dir("x", 0o755).symlink("x/up", "../../../../../../..").file(&format!("x/up{file}"), "dead"),
        Tar::default().symlink("host", "/proc/self/root").file(&format!("host{file}"), "dead"),
    ] {
        let result = unpack(&scratch, &store, tar).await;
        assert!(result.is_ok(), "{result:?}");
        canary.check();
        store.remove("a/b:c").await.unwrap();
    }
    scratch.empty();
}

#[tokio::test]
async fn a_symlink_loop_is_an_error_and_no_hang() {
    let scratch = Scratch::new();
    let tar = Tar::default().symlink("a", "b").symlink("b", "a").file("a/file", "");
    assert!(unpack(&scratch, &scratch.store(), tar).await.is_err());
    scratch.empty();
}

#[tokio::test]
async fn links_to_links_overflow_no_stack() {
    let scratch = Scratch::new();
    let deep = "/a".repeat(1900);
    let tar = (0..39).fold(Tar::default(), |tar, n| {
        let target = format!("l{}{deep}", n + 1);
        tar.pax(&[("linkpath", target.as_bytes())]).symlink(&format!("l{n}"), "long")
    });
    let path = format!("l0{deep}/file");
    let tar = tar.pax(&[("path", path.as_bytes())]).file("long", "");
    assert!(unpack(&scratch, &scratch.store(), tar).await.is_err());
    scratch.empty();
}

#[tokio::test]
async fn folders_behind_dangling_links_are_made_inside() {
    let scratch = Scratch::new();
    let store = scratch.store();
    let tar = Tar::default()
        .dir("x", 0o755)
        .symlink("x/a", "../y/./z/..//b")
        .symlink("b", "/c/d/../e")
        .file("x/a/one", "1")
        .file("b/two", "2");
    let root = unpack(&scratch, &store, tar).await.unwrap();
    assert_eq!(std::fs::read_to_string(root.join("y/b/one")).unwrap(), "1");
    assert_eq!(std::fs::read_to_string(root.join("c/e/two")).unwrap(), "2");
}

#[tokio::test]
async fn attributes_are_kept_and_the_host_s_are_not_set() {
    let scratch = Scratch::new();
    let store = scratch.store();
    // A capability set of version 2 with cap_net_raw: <linux/capability.h>.
    let mut capability = [0_u8; 20];
    (capability[3], capability[5]) = (2, 0x20);
    let tar = Tar::default()
        .entry(EntryType::Regular, "suid", "", 0o6755, b"x")
        .pax(&[
            ("SCHILY.xattr.security.capability", &capability),
            ("SCHILY.xattr.user.mine", b"yes"),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/elsewhere"),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ])
        .file("capable", "x")
        .entry(EntryType::Char, "null", "", 0o666, b"")
        .entry(EntryType::Block, "disk", "", 0o600, b"")
        .entry(EntryType::Fifo, "pipe", "", 0o620, b"")
        .dir("sticky", 0o1777)
        .file("sticky/inside", "")
        .hard_link("linked", "suid");
    let root = unpack(&scratch, &store, tar).await.unwrap();
    let stat = |name: &str| std::fs::symlink_metadata(root.join(name)).unwrap();
    assert_eq!(stat("suid").mode() & 0o7777, 0o6755);
    assert_eq!(stat("suid").ino(), stat("linked").ino());
    let get = |name: &str| xattr::get(root.join("capable"), name).unwrap();
    assert_eq!(get("security.capability").as_deref(), Some(&capability[..]));
    assert_eq!(get("user.mine").as_deref(), Some(&b"yes"[..]));
    assert!(get("trusted.overlay.redirect").is_none() && get("trusted.overlay.opaque").is_none());
    assert!(stat("null").file_type().is_char_device() && stat("null").rdev() == nix::sys::stat::makedev(1, 3));
    assert_eq!(stat("null").mode() & 0o7777, 0o666);
    assert!(stat("disk").file_type().is_block_device());
    assert!(stat("pipe").file_type().is_fifo() && stat("pipe").mode() & 0o7777 == 0o620);
    assert_eq!((stat("sticky").mode() & 0o7777, stat("sticky").mtime()), (0o1777, 1_000_000_000));
}

#[tokio::test]
async fn bombs_are_stopped() {
    let scratch = Scratch::new();
    let limits = Limits { layer_bytes: 1 << 20, layer_entries: 100, ..Limits::default() };
    let store = scratch.store_with(RegistryConfig { limits, ..RegistryConfig::default() });
    let zeros = "\0".repeat(4 << 20);
    for media_type in [GZIP, ZSTD] {
        let path = archive(&scratch.path(""), "a", &[layer(Tar::default().file("zeros", &zeros), media_type)]);
        let error = store.import(&path, ImportOptions::default()).await.unwrap_err();
        assert!(std::error::Error::source(&error).unwrap().to_string().contains("bytes"), "{error:?}");
    }
    let many = (0..101).fold(Tar::default(), |tar, n| tar.file(&format!("f{n}"), ""));
    assert!(unpack(&scratch, &store, many).await.unwrap_err().contains("entries"));
    scratch.empty();
    drop(store);
    let limits = Limits { layer_names: 4096, ..Limits::default() };
    let store = scratch.store_with(RegistryConfig { limits, ..RegistryConfig::default() });
    let many = (0..100).fold(Tar::default(), |tar, n| tar.dir(&format!("folder{n}"), 0o755));
    assert!(unpack(&scratch, &store, many).await.unwrap_err().contains("names"));
    let many = (0..100).fold(Tar::default(), |tar, n| tar.file(&format!("folder{n}/file"), ""));
    assert!(unpack(&scratch, &store, many).await.unwrap_err().contains("names"));
    scratch.empty();
    let same = (0..1000).fold(Tar::default(), |tar, _| tar.dir("same", 0o755));
    assert!(unpack(&scratch, &store, same).await.is_ok());
}

#[tokio::test]
async fn state_is_for_root_alone() {
    let scratch = Scratch::new();
    let _store = scratch.store();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
    let root = scratch.path("store");
    for folder in ["", "blobs", "layers", "ingest", "trash"] {
        assert_eq!(mode(&root.join(folder)), 0o700, "{folder}");
    }
}

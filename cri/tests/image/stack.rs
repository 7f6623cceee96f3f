//! Layers on top of each other, seen through overlayfs.

use std::os::unix::fs::MetadataExt;

use orlop_cri::image::ImportOptions;
use tar::EntryType;

use super::build::{GZIP, Layer, Tar, ZSTD, archive, layer};
use super::fixture::{Overlay, Scratch};

async fn mounted(scratch: &Scratch, layers: &[Layer]) -> Overlay {
    let store = scratch.store();
    let path = archive(&scratch.path(""), "stack", layers);
    let id = store.import(&path, ImportOptions::default()).await.unwrap().remove(0);
    Overlay::mount(&store.layers(&id).unwrap(), scratch.path("merged"))
}

#[tokio::test]
async fn whiteouts_hide_what_is_below() {
    let scratch = Scratch::new();
    let lower = Tar::default()
        .dir("etc", 0o755)
        .file("etc/keep", "keep")
        .file("etc/gone", "gone")
        .dir("opaque", 0o755)
        .file("opaque/old", "old")
        .dir("swapped", 0o755)
        .file("swapped/old", "old")
        .file("becomes-dir", "file")
        .dir("dropped", 0o755)
        .file("dropped/x", "x");
    let upper = Tar::default()
        .file("etc/.wh.gone", "")
        .dir("opaque", 0o755)
        .file("opaque/.wh..wh..opq", "")
        .file("opaque/new", "new")
        .file(".wh.swapped", "")
        .dir("swapped", 0o755)
        .file("swapped/new", "new")
        .dir("becomes-dir", 0o755)
        .file("becomes-dir/x", "x")
        .file(".wh.dropped", "");
    let merged = mounted(&scratch, &[layer(lower, GZIP), layer(upper, ZSTD)]).await;
    assert_eq!(merged.read("etc/keep"), "keep");
    assert_eq!(merged.read("opaque/new"), "new");
    assert_eq!(merged.read("swapped/new"), "new");
    assert_eq!(merged.read("becomes-dir/x"), "x");
    for gone in ["etc/gone", "opaque/old", "swapped/old", "dropped", "etc/.wh.gone", "opaque/.wh..wh..opq"] {
        assert!(merged.lacks(gone), "{gone}");
    }
}

#[tokio::test]
async fn a_layer_without_its_folders_fits_the_layers_below() {
    let scratch = Scratch::new();
    let lower = Tar::default()
        .dir("./", 0o711)
        .dir("tmp", 0o1777)
        .dir("usr", 0o755)
        .dir("usr/bin", 0o751)
        .file("usr/bin/old", "old")
        .symlink("bin", "usr/bin")
        .dir("data", 0o700)
        .file("data/shared", "shared")
        .entry(EntryType::Directory, "hidden", "", 0o700, b"");
    let upper = Tar::default()
        .file("tmp/file", "in tmp")
        .file("bin/tool", "tool")
        .dir("bin/sub", 0o755)
        .file("bin/sub/more", "more")
        .hard_link("copy", "data/shared")
        .hard_link("copy2", "data/shared")
        .file("fresh/deep/file", "deep");
    let merged = mounted(&scratch, &[layer(lower, GZIP), layer(upper, GZIP)]).await;
    let mode = |name: &str| std::fs::symlink_metadata(merged.path(name)).unwrap().mode() & 0o7777;
    assert_eq!((mode(""), mode("tmp"), mode("usr/bin"), mode("data")), (0o711, 0o1777, 0o751, 0o700));
    assert!(merged.path("bin").is_symlink(), "the link is not hidden by a folder");
    assert_eq!(merged.read("usr/bin/old"), "old");
    assert_eq!(merged.read("bin/tool"), "tool");
    assert_eq!(merged.read("usr/bin/sub/more"), "more");
    assert_eq!(merged.read("tmp/file"), "in tmp");
    assert_eq!(merged.read("fresh/deep/file"), "deep");
    assert_eq!((merged.read("copy"), merged.read("copy2")), ("shared".to_owned(), "shared".to_owned()));
}

#[tokio::test]
async fn a_lower_link_leads_nowhere_outside() {
    let scratch = Scratch::new();
    let outside = scratch.path("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("secret"), "secret").unwrap();
    let target = outside.to_str().unwrap();
    let lower = Tar::default().symlink("evil", target).symlink("up", "../../../../../../../../..");
    let upper = Tar::default().file("evil/file", "x").file(&format!("up{target}/file"), "x");
    let merged = mounted(&scratch, &[layer(lower, GZIP), layer(upper, GZIP)]).await;
    assert!(!outside.join("file").exists());
    drop(merged);

    let scratch = Scratch::new();
    let lower = Tar::default().symlink("evil", target);
    let upper = Tar::default().hard_link("stolen", "evil/secret");
    let path = archive(&scratch.path(""), "stack", &[layer(lower, GZIP), layer(upper, GZIP)]);
    assert!(scratch.store().import(&path, ImportOptions::default()).await.is_err());
}

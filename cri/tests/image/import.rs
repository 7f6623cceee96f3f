//! Archives made by another tool.

use orlop_cri::image::ImportOptions;

use super::build::{GZIP, Layout, Tar, ZSTD, layer};
use super::fixture::{Scratch, have, run};

/// Writes a layout with two images and has skopeo make an archive of one.
fn skopeo(scratch: &Scratch, target: &str) {
    let root = scratch.path("made");
    let mut layout = Layout::new(&root);
    let base = || layer(Tar::default().dir("etc", 0o755).file("etc/base", "base"), GZIP);
    let image = layout.image("amd64", &[base(), layer(Tar::default().file("etc/top", "top"), GZIP)]);
    layout.tag(image, "it");
    layout.finish();
    run("skopeo", &["--insecure-policy", "copy", &format!("oci:{}:it", root.display()), target]);
    std::fs::remove_dir_all(&root).unwrap();
}

#[tokio::test]
async fn docker_and_oci_archives_are_imported() {
    if !have(&["skopeo", "gzip"]) {
        return;
    }
    let scratch = Scratch::new();
    let store = scratch.store();
    let (docker, oci) = (scratch.path("docker.tar"), scratch.path("oci.tar"));
    skopeo(&scratch, &format!("docker-archive:{}:q.example/app:docker", docker.display()));
    skopeo(&scratch, &format!("oci-archive:{}:q.example/app:oci", oci.display()));
    for (path, name) in [(&docker, "q.example/app:docker"), (&oci, "q.example/app:oci")] {
        let (own, from) = (store.clone(), path.clone());
        let spawned = tokio::spawn(async move { own.import(&from, ImportOptions { pin: true }).await });
        let ids = spawned.await.unwrap().unwrap();
        let image = store.find(name).unwrap().unwrap();
        assert_eq!(ids, [image.id], "{name}");
        assert!(image.pinned);
        let layers = store.layers(&image.id).unwrap();
        assert_eq!(std::fs::read_to_string(layers[0].join("etc/top")).unwrap(), "top");
        assert_eq!(std::fs::read_to_string(layers[1].join("etc/base")).unwrap(), "base");
    }
    assert_eq!(scratch.names("layers").len(), 2, "both have the same layers");
    for image in store.list() {
        store.remove(&image.id.to_string()).await.unwrap();
    }
    scratch.empty();
    // A compressed archive is an archive.
    run("gzip", &["-1", docker.to_str().unwrap()]);
    store.import(&scratch.path("docker.tar.gz"), ImportOptions::default()).await.unwrap();
    assert!(store.find("q.example/app:docker").unwrap().is_some());
}

#[tokio::test]
async fn what_is_no_archive_of_images_is_refused() {
    let scratch = Scratch::new();
    let store = scratch.store();
    let path = scratch.path("junk.tar");
    for content in [
        &b"not a tar at all, but long enough to be read as the first block".repeat(10)[..],
        &Tar::default().file("a", "b").bytes(),
    ] {
        std::fs::write(&path, content).unwrap();
        assert!(store.import(&path, ImportOptions::default()).await.is_err());
    }
    let absent = store.import(&scratch.path("absent"), ImportOptions::default()).await.unwrap_err();
    assert!(absent.to_string().contains("absent"), "{absent}");
    scratch.empty();
}

#[tokio::test]
async fn the_platform_is_chosen_and_damage_is_refused() {
    let scratch = Scratch::new();
    let store = scratch.store();
    let root = scratch.path("made");
    let mut layout = Layout::new(&root);
    let of = |architecture: &str, media_type| {
        layout.image(architecture, &[layer(Tar::default().file(architecture, "x"), media_type)])
    };
    let index = layout.index(&[of("arm64", GZIP), of("amd64", ZSTD)]);
    layout.tag(index, "multi");
    layout.finish();
    let pack = |path: &std::path::Path| {
        let mut builder = tar::Builder::new(std::fs::File::create(path).unwrap());
        builder.append_dir_all(".", &root).unwrap();
        builder.finish().unwrap();
    };
    let path = scratch.path("archive.tar");
    pack(&path);
    let id = store.import(&path, ImportOptions::default()).await.unwrap()[0];
    assert!(store.layers(&id).unwrap()[0].join("amd64").is_file());
    store.remove("multi").await.unwrap();
    scratch.empty();

    for entry in std::fs::read_dir(root.join("blobs/sha256")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        if bytes[..4] == [0x28, 0xb5, 0x2f, 0xfd] {
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            std::fs::write(&path, bytes).unwrap();
        }
    }
    pack(&path);
    assert!(store.import(&path, ImportOptions::default()).await.is_err());
    assert!(store.list().is_empty());
    scratch.empty();
}

//! The store over time: names, leases, removal, damage, restarts.

use orlop_cri::image::{ImageStore, ImportOptions, RegistryConfig};

use super::build::{GZIP, Tar, archive, layer};
use super::fixture::{Scratch, have, run, text};

fn import_of(scratch: &Scratch, name: &str, files: &[&str]) -> std::path::PathBuf {
    let layers: Vec<_> = files.iter().map(|file| layer(Tar::default().file(file, file), GZIP)).collect();
    archive(&scratch.path(""), name, &layers)
}

#[tokio::test]
async fn names_move_and_images_stay_until_removed() {
    let scratch = Scratch::new();
    let store = scratch.store();
    let path = import_of(&scratch, "app:1", &["base", "one"]);
    let one = store.import(&path, ImportOptions { pin: true }).await.unwrap()[0];
    let image = store.find("app:1").unwrap().unwrap();
    assert_eq!(image.tags, ["docker.io/library/app:1"]);
    assert!(image.pinned && image.size > 0 && image.repo_digests.is_empty());
    assert_eq!(image.config.process.entrypoint, ["/init"]);
    assert_eq!((image.config.process.user.as_str(), image.config.process.working_dir.as_str()), ("1000:2000", "/work"));
    let usage = store.usage();
    assert!(usage.bytes > 0 && usage.inodes > 0);

    let path = import_of(&scratch, "app:1", &["base", "two"]);
    let two = store.import(&path, ImportOptions::default()).await.unwrap()[0];
    assert_ne!(one, two);
    assert_eq!(store.find("app:1").unwrap().unwrap().id, two);
    let first = store.find(&one.to_string()).unwrap().unwrap();
    assert!(first.tags.is_empty(), "it lost its name, and is still here");
    assert_eq!(store.layers(&one).unwrap()[1], store.layers(&two).unwrap()[1], "the base is shared");
    assert_eq!(store.find(&two.hex()[..10]).unwrap().unwrap().id, two);

    store.untag("app:1").await.unwrap();
    assert!(store.find("app:1").unwrap().is_none());
    assert_eq!(store.list().len(), 2);
    drop(store);
    let store = scratch.store();
    assert_eq!(store.list().len(), 2, "nameless images outlive a restart");
    store.remove(&one.to_string()).await.unwrap();
    store.remove(&one.to_string()).await.unwrap();
    assert!(store.layers(&two).unwrap().iter().all(|path| path.is_dir()));
    store.remove(&two.hex()).await.unwrap();
    scratch.empty();
    assert_eq!(store.usage(), orlop_cri::image::Usage::default());
}

#[tokio::test]
async fn a_leased_image_keeps_its_layers() {
    let scratch = Scratch::new();
    let store = scratch.store();
    let path = import_of(&scratch, "app:1", &["one"]);
    let id = store.import(&path, ImportOptions::default()).await.unwrap()[0];
    let (lease, second) = (store.lease(&id).unwrap(), store.lease(&id).unwrap());
    store.remove("app:1").await.unwrap();
    assert!(store.list().is_empty() && store.find(&id.to_string()).unwrap().is_none());
    drop(second);
    let layers = store.layers(&lease.id()).unwrap();
    assert!(layers[0].join("one").is_file());

    // The daemon is killed: another one finds what was on disk then, and its containers take their leases up again.
    let killed = scratch.path("killed");
    run("cp", &["-a", text(&scratch.path("store")), text(&killed)]);
    let after = ImageStore::open(&killed, RegistryConfig::default()).unwrap();
    assert!(after.list().is_empty());
    let again = after.lease(&id).unwrap();
    after.collect().await.unwrap();
    assert!(after.layers(&id).unwrap()[0].join("one").is_file());
    drop((again, after));

    drop(lease);
    scratch.empty();
    assert!(store.lease(&id).is_err());
}

#[tokio::test]
async fn damage_costs_only_what_is_damaged() {
    let scratch = Scratch::new();
    let store = scratch.store();
    for name in ["good", "bad"] {
        let path = import_of(&scratch, name, &["base", name]);
        store.import(&path, ImportOptions::default()).await.unwrap();
    }
    let (good, bad) = (store.find("good").unwrap().unwrap().id, store.find("bad").unwrap().unwrap().id);
    let top = store.layers(&bad).unwrap()[0].clone();
    drop(store);

    // A layer is unpacked again from its blob.
    std::fs::remove_file(top.with_file_name("layer.json")).unwrap();
    // What was interrupted, and what belongs to nothing, goes.
    std::fs::create_dir_all(scratch.path("store/ingest/x/layer/fs")).unwrap();
    std::fs::write(scratch.path("store/blobs/sha256").join("0".repeat(64)), "orphan").unwrap();
    std::fs::create_dir_all(scratch.path("store/layers").join("1".repeat(64))).unwrap();
    let store = scratch.store();
    scratch.settled();
    assert_eq!(store.list().len(), 2);
    assert_eq!(std::fs::read_to_string(top.join("bad")).unwrap(), "bad");
    assert!(!scratch.names("blobs/sha256").contains(&"0".repeat(64)));
    assert!(!scratch.names("layers").contains(&"1".repeat(64)));
    drop(store);

    // A torn blob costs its image; the other stays.
    let manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(scratch.path("store/index.json")).unwrap()).unwrap();
    let entry =
        manifest["manifests"].as_array().unwrap().iter().find(|m| m.to_string().contains("library/bad")).unwrap();
    let blob = |digest: &serde_json::Value| scratch.path("store/blobs/sha256").join(&digest.as_str().unwrap()[7..]);
    let manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(blob(&entry["digest"])).unwrap()).unwrap();
    std::fs::write(blob(&manifest["layers"][1]["digest"]), "torn").unwrap();
    let store = scratch.store();
    assert!(store.find(&bad.to_string()).unwrap().is_none());
    assert_eq!(store.find("good").unwrap().unwrap().id, good);
    assert!(store.layers(&good).unwrap().iter().all(|path| path.is_dir()));
}

#[tokio::test]
async fn one_process_has_the_store() {
    let scratch = Scratch::new();
    let store = scratch.store();
    let error = ImageStore::open(scratch.path("store"), RegistryConfig::default()).unwrap_err();
    assert!(error.to_string().contains("another process"), "{error}");
    drop(store);
    scratch.store();
}

#[tokio::test]
async fn other_tools_read_the_layout() {
    if !have(&["skopeo", "umoci"]) {
        return;
    }
    let scratch = Scratch::new();
    let store = scratch.store();
    let path = import_of(&scratch, "q.example/app:1", &["one"]);
    store.import(&path, ImportOptions::default()).await.unwrap();
    let root = scratch.path("store");
    let name = format!("oci:{}:q.example/app:1", root.display());
    let seen = String::from_utf8(run("skopeo", &["inspect", &name]).stdout).unwrap();
    assert!(seen.contains("\"amd64\"") && seen.contains("sha256:"), "{seen}");
    let listed = String::from_utf8(run("umoci", &["ls", "--layout", text(&root)]).stdout).unwrap();
    assert!(listed.contains("q.example/app:1"), "{listed}");
    // A copy made by another tool is the same image.
    let copy = scratch.path("copy.tar");
    run("skopeo", &["--insecure-policy", "copy", &name, &format!("oci-archive:{}:copy:1", copy.display())]);
    let ids = store.import(&copy, ImportOptions::default()).await.unwrap();
    assert_eq!(ids[0], store.find("q.example/app:1").unwrap().unwrap().id);
    assert_eq!(store.list().len(), 1);
    assert_eq!(store.list()[0].tags, ["docker.io/library/copy:1", "q.example/app:1"]);
}

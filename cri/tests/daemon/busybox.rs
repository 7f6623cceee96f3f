//! An image of Debian's busybox-static, as a Docker archive.

use std::fs;
use std::path::Path;

use serde_json::json;
use sha2::{Digest, Sha256};

/// The image's name.
pub(crate) const IMAGE: &str = "docker.io/library/busybox:test";

const APPLETS: [&str; 18] = [
    "sh", "sleep", "echo", "cat", "true", "false", "id", "ls", "kill", "yes", "seq", "grep", "mount", "head", "touch",
    "stat", "nc", "hostname",
];

/// Writes the archive.
pub(crate) fn write_archive(path: &Path) {
    let layer = layer();
    let config = json!({
        "architecture": if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" },
        "os": "linux",
        "config": { "Env": ["PATH=/bin", "FROM=image"], "Cmd": ["sh"], "WorkingDir": "/srv" },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", hex::encode(Sha256::digest(&layer)))] },
    })
    .to_string();
    let manifest = json!([{ "Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"] }]).to_string();
    let mut archive = tar::Builder::new(fs::File::create(path).unwrap());
    for (name, content) in
        [("manifest.json", manifest.as_bytes()), ("config.json", config.as_bytes()), ("layer.tar", layer.as_slice())]
    {
        file(&mut archive, name, 0o644, content);
    }
    archive.finish().unwrap();
}

fn layer() -> Vec<u8> {
    let mut layer = tar::Builder::new(Vec::new());
    for folder in ["bin", "etc", "srv", "tmp"] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(if folder == "tmp" { 0o1777 } else { 0o755 });
        header.set_size(0);
        layer.append_data(&mut header, folder, &[][..]).unwrap();
    }
    let busybox = fs::read("/bin/busybox").expect("/bin/busybox, of Debian's package busybox-static");
    file(&mut layer, "bin/busybox", 0o755, &busybox);
    for applet in APPLETS {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_mode(0o777);
        header.set_size(0);
        layer.append_link(&mut header, format!("bin/{applet}"), "busybox").unwrap();
    }
    file(&mut layer, "etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/srv:/bin/sh\n");
    file(&mut layer, "etc/group", 0o644, b"root:x:0:\nweb:x:34:\nlogs:x:50:web\n");
    layer.into_inner().unwrap()
}

fn file<W: std::io::Write>(archive: &mut tar::Builder<W>, name: &str, mode: u32, content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_size(content.len() as u64);
    archive.append_data(&mut header, name, content).unwrap();
}

//! Writes a folder as an OCI image layout of one layer, tagged `image` (OCI image specification 1.1).

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Hashes and counts what goes through to `inner`.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
    size: u64,
}

impl<W> Hashing<W> {
    fn new(inner: W) -> Self {
        Hashing { inner, hash: Sha256::new(), size: 0 }
    }

    fn finish(self) -> (W, String, u64) {
        (self.inner, hex::encode(self.hash.finalize()), self.size)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Writes the layout of an image with the files of `rootfs`, all owned by root, and `config` as its run
/// configuration (the object `config` of the image's configuration).
pub(super) fn write(layout: &Path, rootfs: &Path, config: &Value) -> Result<()> {
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let (layer, layer_size, diff_id) = write_layer(&blobs, rootfs)?;
    let (config, config_size) = write_blob(
        &blobs,
        &json!({
            "architecture": "amd64", "os": "linux", "config": config,
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{diff_id}")]},
        }),
    )?;
    let (manifest, manifest_size) = write_blob(
        &blobs,
        &json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                       "digest": format!("sha256:{config}"), "size": config_size},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                        "digest": format!("sha256:{layer}"), "size": layer_size}],
        }),
    )?;
    let index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json",
                       "digest": format!("sha256:{manifest}"), "size": manifest_size,
                       "annotations": {"org.opencontainers.image.ref.name": "image"}}],
    });
    fs::write(layout.join("index.json"), serde_json::to_vec(&index)?)?;
    fs::write(layout.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    Ok(())
}

/// Digest and size of the compressed layer, and its diff id.
fn write_layer(blobs: &Path, rootfs: &Path) -> Result<(String, u64, String)> {
    let partial = blobs.join("layer");
    let file = Hashing::new(BufWriter::new(File::create(&partial)?));
    let mut tar = tar::Builder::new(Hashing::new(GzEncoder::new(file, Compression::fast())));
    tar.follow_symlinks(false);
    append(&mut tar, rootfs, Path::new("")).with_context(|| format!("pack {}", rootfs.display()))?;
    let (gzip, diff_id, _) = tar.into_inner()?.finish();
    let (mut file, digest, size) = gzip.finish()?.finish();
    file.flush()?;
    fs::rename(partial, blobs.join(&digest))?;
    Ok((digest, size, diff_id))
}

fn append<W: Write>(tar: &mut tar::Builder<W>, rootfs: &Path, folder: &Path) -> Result<()> {
    let mut names = fs::read_dir(rootfs.join(folder))?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<io::Result<Vec<_>>>()?;
    names.sort();
    for name in names {
        let inside = folder.join(name);
        let path = rootfs.join(&inside);
        let metadata = fs::symlink_metadata(&path)?;
        let mut header = tar::Header::new_gnu();
        header.set_metadata_in_mode(&metadata, tar::HeaderMode::Complete);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        if metadata.is_symlink() {
            tar.append_link(&mut header, &inside, fs::read_link(&path)?)?;
        } else if metadata.is_dir() {
            tar.append_data(&mut header, &inside, io::empty())?;
            append(tar, rootfs, &inside)?;
        } else {
            tar.append_data(&mut header, &inside, File::open(&path)?)?;
        }
    }
    Ok(())
}

fn write_blob(blobs: &Path, value: &Value) -> Result<(String, usize)> {
    let bytes = serde_json::to_vec(value)?;
    let digest = hex::encode(Sha256::digest(&bytes));
    fs::write(blobs.join(&digest), &bytes)?;
    Ok((digest, bytes.len()))
}

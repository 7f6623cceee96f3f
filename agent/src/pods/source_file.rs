//! Static pods: one pod in each YAML or JSON file of a folder.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus, Toleration};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc::UnboundedSender;

use super::inotify::FolderWatch;
use super::manager::{Message, Source};
use super::{CONFIG_HASH, SOURCE};
use crate::images;
use crate::objects::references;

/// How often the folder is read when no change was told.
const POLL: Duration = Duration::from_secs(20);
/// Files are often written in several steps.
const SETTLE: Duration = Duration::from_millis(50);

/// A file that is not a static pod.
#[derive(Debug, thiserror::Error)]
enum FileError {
    #[error("cannot be read: {0}")]
    Read(#[from] std::io::Error),
    #[error("is not a Pod in YAML or JSON: {0}")]
    Parse(#[from] serde_yaml_ng::Error),
    #[error("{0}")]
    Invalid(&'static str),
}

/// Reads the folder now, at each change of it, and now and then.
pub(crate) async fn run(folder: PathBuf, node_name: String, manager: UnboundedSender<Message>) {
    let watch = FolderWatch::new(&folder)
        .inspect_err(|error| tracing::warn!(folder = %folder.display(), %error, "static pods are polled only"))
        .ok();
    let mut files = Files { folder, node_name, good: BTreeMap::new() };
    let mut last = None;
    loop {
        match files.read() {
            Ok(pods) if last.as_ref() != Some(&pods) => {
                last = Some(pods.clone());
                if manager.send(Message::Set(Source::File, pods)).is_err() {
                    return;
                }
            }
            Ok(_) => {}
            // No list is not an empty list: that would end every static pod.
            Err(error) => {
                tracing::warn!(folder = %files.folder.display(), %error, "cannot read the static pods");
            }
        }
        match &watch {
            Some(watch) => {
                // A change or the time: either way the folder is read.
                let _ = tokio::time::timeout(POLL, watch.changed()).await;
                tokio::time::sleep(SETTLE).await;
            }
            None => tokio::time::sleep(POLL).await,
        }
    }
}

/// The folder, and what its files held last.
#[derive(Debug)]
struct Files {
    folder: PathBuf,
    node_name: String,
    good: BTreeMap<PathBuf, Pod>,
}

impl Files {
    /// The pods of all files. One that cannot be read, or is half written, stands for what it held before.
    fn read(&mut self) -> std::io::Result<Vec<Pod>> {
        let mut good = BTreeMap::new();
        for path in paths(&self.folder)? {
            match load(&path, &self.node_name) {
                Ok(Some(pod)) => {
                    good.insert(path, pod);
                }
                Ok(None) => {}
                Err(error) => {
                    let before = self.good.remove(&path);
                    let kept = before.is_some();
                    tracing::warn!(file = %path.display(), %error, kept, "not a static pod");
                    good.extend(before.map(|pod| (path, pod)));
                }
            }
        }
        self.good = good;
        let mut pods = BTreeMap::new();
        for pod in self.good.values() {
            pods.entry(super::full_name(pod)).or_insert_with(|| pod.clone());
        }
        Ok(pods.into_values().collect())
    }
}

/// All files but hidden ones; of a folder that is gone, none.
fn paths(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with('.') {
            paths.push(entry.path());
        }
    }
    Ok(paths)
}

/// The pod of a file; `None` for a folder or device, and for what went away meanwhile.
fn load(path: &Path, node_name: &str) -> Result<Option<Pod>, FileError> {
    let text = match fs::metadata(path) {
        Ok(meta) if !meta.is_file() => return Ok(None),
        Ok(_) => fs::read(path),
        Err(e) => Err(e),
    };
    match text {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        text => parse(&text?, path, node_name).map(Some),
    }
}

/// A pod from a file, with the defaults the API server would have given it.
fn parse(text: &[u8], path: &Path, node_name: &str) -> Result<Pod, FileError> {
    let mut pod: Pod = serde_yaml_ng::from_slice(text)?;
    let meta = &mut pod.metadata;
    let name = meta.name.take().filter(|n| !n.is_empty());
    let name = name.ok_or(FileError::Invalid("has no metadata.name"))?;
    meta.name = Some(format!("{name}-{}", node_name.to_lowercase()));
    meta.namespace.get_or_insert_with(|| "default".to_owned());
    let uid = uid(text, path, node_name);
    meta.uid = Some(uid.clone());
    meta.creation_timestamp = None;
    let annotations = meta.annotations.get_or_insert_default();
    annotations.insert(CONFIG_HASH.to_owned(), uid);
    annotations.insert(SOURCE.to_owned(), "file".to_owned());
    let modified = fs::metadata(path).and_then(|m| m.modified()).ok();
    let seen = modified.and_then(|t| Timestamp::try_from(t).ok()).unwrap_or(Timestamp::UNIX_EPOCH);
    annotations.insert("kubernetes.io/config.seen".to_owned(), seen.to_string());
    let spec = pod.spec.as_mut().ok_or(FileError::Invalid("has no spec"))?;
    if spec.containers.is_empty() {
        return Err(FileError::Invalid("has no containers"));
    }
    if spec.service_account_name.is_some() {
        return Err(FileError::Invalid("static pods may not reference serviceaccounts"));
    }
    spec.node_name = Some(node_name.to_owned());
    spec.tolerations.get_or_insert_default().push(Toleration {
        operator: Some("Exists".to_owned()),
        effect: Some("NoExecute".to_owned()),
        ..Toleration::default()
    });
    spec.restart_policy.get_or_insert_with(|| "Always".to_owned());
    spec.enable_service_links.get_or_insert(true);
    let init = spec.init_containers.iter_mut().flatten();
    for container in init.chain(&mut spec.containers) {
        container.image_pull_policy = Some(images::policy(container).to_owned());
    }
    if !references(&pod).is_empty() {
        return Err(FileError::Invalid("static pods may not reference secrets or configmaps"));
    }
    pod.status = Some(PodStatus { phase: Some("Pending".to_owned()), ..PodStatus::default() });
    Ok(pod)
}

/// 32 hexadecimal digits that change with the content, the file and the node.
fn uid(text: &[u8], path: &Path, node_name: &str) -> String {
    let mut hasher = Sha256::new();
    for part in [text, path.as_os_str().as_encoded_bytes(), node_name.as_bytes()] {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let digest = hasher.finalize();
    digest[..16].iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_text(text: &str) -> Result<Pod, FileError> {
        parse(text.as_bytes(), Path::new("/x.yaml"), "Node")
    }

    #[test]
    fn defaults() {
        let text =
            "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: a, image: busybox}]}\n";
        let pod = parse_text(text).expect("a pod");
        assert_eq!(pod.metadata.name.as_deref(), Some("web-node"));
        assert_eq!(pod.metadata.namespace.as_deref(), Some("default"));
        assert!(super::super::is_static(&pod));
        let container = &pod.spec.as_ref().expect("a spec").containers[0];
        assert_eq!(container.image_pull_policy.as_deref(), Some("Always"));
        let other = parse_text(&text.replace("busybox", "busybox:1")).expect("a pod");
        assert_ne!(pod.metadata.uid, other.metadata.uid);
    }

    #[test]
    fn api_objects_are_refused() {
        for bad in [
            "metadata: {name: x}\nspec: {containers: []}\n",
            "spec: {containers: [{name: a}]}\n",
            "metadata: {name: x}\nspec: {serviceAccountName: s, containers: [{name: a}]}\n",
            "metadata: {name: x}\nspec: {containers: [{name: a, envFrom: [{secretRef: {name: s}}]}]}\n",
            "][",
        ] {
            assert!(parse_text(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_folder_is_read_in_order_without_dotfiles() {
        let dir = tempfile::tempdir().expect("a folder");
        let pod = "metadata: {name: NAME}\nspec: {containers: [{name: a, image: x}]}\n";
        for name in ["b", "a", ".hidden"] {
            let text = pod.replace("NAME", name.trim_start_matches('.'));
            fs::write(dir.path().join(name), text).expect("a file");
        }
        fs::write(dir.path().join("bad"), "][").expect("a file");
        let mut files = files(dir.path());
        assert_eq!(names(&mut files), ["a-n", "b-n"]);
    }

    fn files(folder: &Path) -> Files {
        Files { folder: folder.to_owned(), node_name: "n".to_owned(), good: BTreeMap::new() }
    }

    fn names(files: &mut Files) -> Vec<String> {
        files.read().expect("a list").into_iter().filter_map(|p| p.metadata.name).collect()
    }

    #[test]
    fn what_cannot_be_read_now_is_not_gone() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut files = files(dir.path());
        let file = dir.path().join("a");
        fs::write(&file, "metadata: {name: a}\nspec: {containers: [{name: a, image: x}]}\n").expect("a file");
        assert_eq!(names(&mut files), ["a-n"]);
        for half_written in ["", "metadata: {name: a}\nspec: {cont"] {
            fs::write(&file, half_written).expect("a file");
            assert_eq!(names(&mut files), ["a-n"]);
        }
        fs::remove_file(&file).expect("the file");
        assert!(names(&mut files).is_empty());
        files.folder = dir.path().join("gone");
        assert!(names(&mut files).is_empty());
        fs::write(&file, "").expect("a file");
        files.folder = file;
        assert!(files.read().is_err());
    }
}

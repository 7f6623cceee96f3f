//! Results of ADD on disk, in libcni's layout: `<dir>/results/<network>-<container id>-<interface>`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::attachment::{Attachment, AttachmentId};
use crate::config::NetworkConfigList;
use crate::error::Error;

const KIND: &str = "cniCacheV1";

#[derive(Clone, Debug)]
pub(super) struct Cache {
    dir: PathBuf,
}

/// An attachment as it was when ADD was called.
#[derive(Debug)]
pub(super) struct CachedAttachment {
    pub(super) list: NetworkConfigList,
    pub(super) attachment: Attachment,
    /// Absent if ADD did not finish.
    pub(super) result: Option<Value>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    kind: String,
    container_id: String,
    /// The list's JSON, in base64.
    config: String,
    if_name: String,
    network_name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    netns: Option<PathBuf>,
    #[serde(default)]
    cni_args: Vec<(String, String)>,
    #[serde(default)]
    capability_args: Map<String, Value>,
    #[serde(default)]
    result: Value,
}

impl Cache {
    pub(super) fn new(dir: PathBuf) -> Cache {
        Cache { dir: dir.join("results") }
    }

    fn path(&self, network: &str, id: &AttachmentId) -> PathBuf {
        self.dir.join(format!("{network}-{}-{}", id.container_id, id.ifname))
    }

    /// Replaces the record, by rename.
    pub(super) fn write(
        &self,
        list: &NetworkConfigList,
        attachment: &Attachment,
        result: Option<&Value>,
    ) -> Result<(), Error> {
        let path = self.path(&list.name, &attachment.id());
        let file = File {
            kind: KIND.to_owned(),
            container_id: attachment.container_id.clone(),
            config: BASE64.encode(list_json(list).to_string()),
            if_name: attachment.ifname.clone(),
            network_name: list.name.clone(),
            netns: attachment.netns.clone(),
            cni_args: attachment.args.clone(),
            capability_args: attachment.capabilities.clone(),
            result: result.cloned().unwrap_or_default(),
        };
        // A dot first: list() leaves such files alone, and ids cannot begin with one.
        let temporary = self.dir.join(format!(".{}-{}", attachment.container_id, attachment.ifname));
        let write = || {
            if let Err(e) = fs::write(&temporary, json!(file).to_string()) {
                if e.kind() != io::ErrorKind::NotFound {
                    return Err(e);
                }
                fs::create_dir_all(&self.dir)?;
                fs::write(&temporary, json!(file).to_string())?;
            }
            fs::rename(&temporary, &path)
        };
        write().map_err(cache_error("write", &path))
    }

    /// The record, if there is one that can be read. A torn one (power loss) is as good as none: plugins' DEL
    /// needs no record.
    pub(super) fn read(&self, network: &str, id: &AttachmentId) -> Result<Option<CachedAttachment>, Error> {
        read_file(&self.path(network, id))
    }

    /// Whether there is a record, readable or not.
    pub(super) fn exists(&self, network: &str, id: &AttachmentId) -> bool {
        self.path(network, id).exists()
    }

    /// Removes the record; that it is gone already is success.
    pub(super) fn remove(&self, network: &str, id: &AttachmentId) -> Result<(), Error> {
        let path = self.path(network, id);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(cache_error("remove", &path)(e)),
            _ => Ok(()),
        }
    }

    /// The records of an attachment, on whatever network: one that was renamed meanwhile counts too.
    pub(super) fn find(&self, id: &AttachmentId) -> Result<Vec<CachedAttachment>, Error> {
        let end = format!("-{}-{}", id.container_id, id.ifname);
        let mut found = self.read_all(|name| name.ends_with(&end))?;
        found.retain(|record| record.attachment.id() == *id);
        Ok(found)
    }

    /// Every record.
    pub(super) fn list(&self) -> Result<Vec<CachedAttachment>, Error> {
        self.read_all(|_| true)
    }

    fn read_all(&self, wanted: impl Fn(&str) -> bool) -> Result<Vec<CachedAttachment>, Error> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(cache_error("list", &self.dir)(e)),
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(cache_error("list", &self.dir))?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if !name.starts_with('.') && wanted(&name) {
                found.extend(read_file(&entry.path())?);
            }
        }
        Ok(found)
    }
}

fn read_file(path: &Path) -> Result<Option<CachedAttachment>, Error> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(cache_error("read", path)(e)),
    };
    let record = parse(&bytes);
    if record.is_none() {
        tracing::warn!(path = %path.display(), "the cached CNI result is damaged; going on without it");
    }
    Ok(record)
}

fn parse(bytes: &[u8]) -> Option<CachedAttachment> {
    let file: File = serde_json::from_slice(bytes).ok()?;
    if file.kind != KIND {
        return None;
    }
    let list = NetworkConfigList::parse(&BASE64.decode(&file.config).ok()?).ok()?;
    Some(CachedAttachment {
        list,
        attachment: Attachment {
            container_id: file.container_id,
            netns: file.netns,
            ifname: file.if_name,
            args: file.cni_args,
            capabilities: file.capability_args,
            netns_going_away: false,
        },
        result: (!file.result.is_null()).then_some(file.result),
    })
}

fn list_json(list: &NetworkConfigList) -> Value {
    let plugins: Vec<Value> = list.plugins.iter().map(|p| Value::Object(p.raw.clone())).collect();
    json!({
        "cniVersion": list.version.as_str(),
        "name": list.name,
        "disableCheck": list.disable_check,
        "disableGC": list.disable_gc,
        "plugins": plugins,
    })
}

fn cache_error(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Cache { step, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list() -> NetworkConfigList {
        NetworkConfigList::parse(br#"{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"a","x":1},{"type":"b"}]}"#)
            .unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path().to_owned());
        let mut attachment = Attachment::new("c1", Some("/run/netns/x".into()), "eth0");
        attachment.args.push(("K".into(), "V".into()));
        attachment.capabilities.insert("mac".into(), "00:00:00:00:00:01".into());
        assert!(cache.read("net", &attachment.id()).unwrap().is_none());
        cache.write(&list(), &attachment, None).unwrap();
        assert_eq!(cache.list().unwrap().len(), 1);
        assert!(cache.read("net", &attachment.id()).unwrap().unwrap().result.is_none());
        cache.write(&list(), &attachment, Some(&json!({"ips": []}))).unwrap();
        let read = cache.read("net", &attachment.id()).unwrap().unwrap();
        assert_eq!(read.result, Some(json!({"ips": []})));
        assert_eq!(read.attachment.args, attachment.args);
        assert_eq!(read.attachment.capabilities, attachment.capabilities);
        assert_eq!(read.attachment.netns, attachment.netns);
        assert_eq!(read.list.plugins[0].raw["x"], 1);
        assert_eq!(cache.find(&attachment.id()).unwrap().len(), 1);
        let others = [("1", "eth0"), ("c1", "eth1"), ("net-c1", "eth0")];
        for (id, ifname) in others {
            assert!(cache.find(&Attachment::new(id, None, ifname).id()).unwrap().is_empty(), "{id} {ifname}");
        }
        cache.remove("net", &attachment.id()).unwrap();
        cache.remove("net", &attachment.id()).unwrap();
        assert!(cache.list().unwrap().is_empty());
    }

    #[test]
    fn a_torn_record_is_as_good_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path().to_owned());
        let id = Attachment::new("c1", None, "eth0").id();
        fs::create_dir_all(&cache.dir).unwrap();
        fs::write(cache.path("net", &id), b"{\"kind\":\"cniCa").unwrap();
        assert!(cache.read("net", &id).unwrap().is_none());
    }
}

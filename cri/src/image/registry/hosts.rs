//! Where a registry's content is fetched from: mirrors and the origin, from `hosts.toml` files in containerd's format
//! (containerd docs/hosts.md).

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{MapAccess, Visitor};

use super::super::credentials::Secret;
use super::super::error::Error;
use super::super::reference::Reference;

/// One place to ask, in the order of asking.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    /// Scheme and authority, e.g. `https://mirror.example:5000`.
    pub(crate) origin: String,
    /// `host[:port]`.
    pub(crate) host: String,
    /// What comes before `/<repository>/`: `/v2`, or a mirror's own.
    pub(crate) prefix: String,
    pub(crate) pull: bool,
    pub(crate) resolve: bool,
    pub(crate) headers: Vec<(String, Secret)>,
    pub(crate) tls: TlsSettings,
    /// Whether it stands in for another registry, which it must then be told.
    pub(crate) mirror: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct TlsSettings {
    pub(crate) skip_verify: bool,
    pub(crate) ca: Vec<PathBuf>,
    /// Certificate and key files.
    pub(crate) client: Vec<(PathBuf, Option<PathBuf>)>,
}

#[derive(Debug, Default, Deserialize)]
struct HostsFile {
    server: Option<String>,
    #[serde(default)]
    host: InOrder,
    #[serde(flatten)]
    own: HostTable,
}

#[derive(Debug, Default, Deserialize)]
struct HostTable {
    capabilities: Option<Vec<String>>,
    #[serde(default)]
    skip_verify: bool,
    #[serde(default)]
    override_path: bool,
    ca: Option<Many>,
    client: Option<Clients>,
    #[serde(default)]
    header: std::collections::BTreeMap<String, Many>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Many {
    One(String),
    Several(Vec<String>),
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Clients {
    One(String),
    Several(Vec<Many>),
}

/// The host tables in the order of the file, which is the order of asking.
#[derive(Debug, Default)]
struct InOrder(Vec<(String, HostTable)>);

impl<'de> Deserialize<'de> for InOrder {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<InOrder, D::Error> {
        struct Tables;
        impl<'de> Visitor<'de> for Tables {
            type Value = InOrder;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table of hosts")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<InOrder, A::Error> {
                let mut tables = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    tables.push(entry);
                }
                Ok(InOrder(tables))
            }
        }
        deserializer.deserialize_map(Tables)
    }
}

/// The endpoints for the registry of a reference.
pub(crate) fn endpoints(hosts_dir: Option<&Path>, reference: &Reference) -> Result<Vec<Endpoint>, Error> {
    let registry = reference.registry();
    let file = hosts_dir.and_then(|dir| find(dir, registry));
    let Some(path) = file else { return Ok(vec![origin(registry)]) };
    let text = std::fs::read_to_string(&path).map_err(Error::io("read", &path))?;
    parse(&text, &path, registry)
}

/// The first folder of the registry's candidates that has a hosts.toml.
fn find(dir: &Path, registry: &str) -> Option<PathBuf> {
    let escaped = registry.split_once(':').map(|(host, port)| format!("{host}_{port}_"));
    let host = registry.split(':').next().unwrap_or(registry);
    let names = escaped.iter().map(String::as_str).chain([registry, host, "_default"]);
    names.map(|name| dir.join(name).join("hosts.toml")).find(|path| path.is_file())
}

fn parse(text: &str, path: &Path, registry: &str) -> Result<Vec<Endpoint>, Error> {
    let bad = |reason: String| Error::HostsFile { path: path.to_owned(), reason };
    let file: HostsFile = toml::from_str(text).map_err(|error| bad(error.to_string()))?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    let mut endpoints = Vec::new();
    for (url, table) in file.host.0 {
        endpoints.push(endpoint(&url, table, folder, true).map_err(bad)?);
    }
    let last = match file.server {
        Some(url) => {
            let mut server = endpoint(&url, file.own, folder, false).map_err(bad)?;
            server.mirror = server.host != origin(registry).host;
            server
        }
        None => apply(origin(registry), file.own, folder),
    };
    endpoints.push(last);
    Ok(endpoints)
}

fn endpoint(url: &str, table: HostTable, folder: &Path, mirror: bool) -> Result<Endpoint, String> {
    let url = if url.contains("://") { url.to_owned() } else { format!("https://{url}") };
    let uri: http::Uri = url.parse().map_err(|error| format!("{url}: {error}"))?;
    let (Some(scheme @ ("http" | "https")), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(format!("{url} is no http or https URL"));
    };
    let path = uri.path().trim_end_matches('/');
    let prefix = if table.override_path || path.ends_with("/v2") { path.to_owned() } else { format!("{path}/v2") };
    let endpoint = Endpoint {
        origin: format!("{scheme}://{authority}"),
        host: authority.to_string(),
        prefix,
        pull: true,
        resolve: true,
        headers: Vec::new(),
        tls: TlsSettings::default(),
        mirror,
    };
    Ok(apply(endpoint, table, folder))
}

fn apply(mut endpoint: Endpoint, table: HostTable, folder: &Path) -> Endpoint {
    if let Some(capabilities) = &table.capabilities {
        let has = |name: &str| capabilities.iter().any(|c| c == name);
        (endpoint.pull, endpoint.resolve) = (has("pull"), has("resolve"));
    }
    endpoint.tls = TlsSettings {
        skip_verify: table.skip_verify,
        ca: table.ca.map(Many::list).unwrap_or_default().into_iter().map(|path| folder.join(path)).collect(),
        client: table.client.map(|clients| clients.pairs(folder)).unwrap_or_default(),
    };
    for (name, values) in table.header {
        endpoint.headers.extend(values.list().into_iter().map(|value| (name.clone(), Secret::new(value))));
    }
    endpoint
}

/// The registry itself. As containerd does, the loopback is spoken to in plain HTTP.
fn origin(registry: &str) -> Endpoint {
    let host = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
    let scheme = if is_loopback(host) && !host.ends_with(":443") { "http" } else { "https" };
    Endpoint {
        origin: format!("{scheme}://{host}"),
        host: host.to_owned(),
        prefix: "/v2".to_owned(),
        pull: true,
        resolve: true,
        headers: Vec::new(),
        tls: TlsSettings::default(),
        mirror: false,
    }
}

fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => host.split(':').next().unwrap_or(host),
    };
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

impl Many {
    fn list(self) -> Vec<String> {
        match self {
            Many::One(text) => vec![text],
            Many::Several(list) => list,
        }
    }
}

impl Clients {
    fn pairs(self, folder: &Path) -> Vec<(PathBuf, Option<PathBuf>)> {
        let entries = match self {
            Clients::One(cert) => vec![Many::One(cert)],
            Clients::Several(entries) => entries,
        };
        let pair = |entry: Many| {
            let mut files = entry.list().into_iter().map(|path| folder.join(path));
            Some((files.next()?, files.next()))
        };
        entries.into_iter().filter_map(pair).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_of_containerd_is_read_in_order() {
        let text = r#"
            server = "https://upstream.example"
            [host."https://z.example:5000"]
              capabilities = ["pull"]
              ca = "z.crt"
              client = [["c.crt", "c.key"]]
              [host."https://z.example:5000".header]
                Authorization = "Bearer s3cret"
            [host."http://a.example/base"]
              skip_verify = true
            [host."a.example/whole"]
              override_path = true
        "#;
        let list = parse(text, Path::new("/certs/x/hosts.toml"), "docker.io").unwrap();
        let urls: Vec<String> = list.iter().map(|e| format!("{}{}", e.origin, e.prefix)).collect();
        let wanted = [
            "https://z.example:5000/v2",
            "http://a.example/base/v2",
            "https://a.example/whole",
            "https://upstream.example/v2",
        ];
        assert_eq!(urls, wanted);
        assert!(list[0].pull && !list[0].resolve && list[0].mirror);
        assert_eq!(list[0].tls.ca, [PathBuf::from("/certs/x/z.crt")]);
        assert_eq!(list[0].tls.client, [(PathBuf::from("/certs/x/c.crt"), Some(PathBuf::from("/certs/x/c.key")))]);
        assert!(list[1].tls.skip_verify);
        assert!(!format!("{list:?}").contains("s3cret"));
        assert!(parse("server = 5", Path::new("/x"), "a").is_err());
        assert!(parse("[host.\"ftp://x\"]", Path::new("/x"), "a").is_err());
    }

    #[test]
    fn only_the_loopback_is_plain_http() {
        for (registry, url) in [
            ("docker.io", "https://registry-1.docker.io"),
            ("localhost:5000", "http://localhost:5000"),
            ("127.0.3.4:80", "http://127.0.3.4:80"),
            ("[::1]:5000", "http://[::1]:5000"),
            ("localhost.example", "https://localhost.example"),
            ("10.0.0.1:5000", "https://10.0.0.1:5000"),
        ] {
            assert_eq!(origin(registry).origin, url);
        }
    }
}

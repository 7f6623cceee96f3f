//! Services, as the variables every container gets.

use std::collections::BTreeMap;
use std::sync::Mutex;

use futures::{StreamExt, pin_mut};
use k8s_openapi::api::core::v1::Service;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{Config, DefaultBackoff, Event, watcher};
use kube::{Api, Client};
use tokio::sync::watch;

use crate::sync::lock;

/// Namespace, name.
type Key = (String, String);

/// The cluster's services, followed by a watch.
#[derive(Debug)]
pub(crate) struct Services {
    known: Mutex<BTreeMap<Key, Service>>,
    listed: watch::Sender<bool>,
}

impl Services {
    /// Without an API server there are none, and nothing to wait for.
    pub(crate) fn new(has_api: bool) -> Self {
        Self { known: Mutex::default(), listed: watch::Sender::new(!has_api) }
    }

    /// Whether services have been read once, without which no container may start.
    pub(crate) fn subscribe(&self) -> watch::Receiver<bool> {
        self.listed.subscribe()
    }

    /// Follows the API for ever.
    pub(crate) async fn run(&self, client: Client) {
        let api: Api<Service> = Api::all(client);
        let stream = watcher(api, Config::default()).backoff(DefaultBackoff::default());
        pin_mut!(stream);
        let mut fresh = BTreeMap::new();
        while let Some(event) = stream.next().await {
            match event {
                Ok(Event::Init) => fresh = BTreeMap::new(),
                Ok(Event::InitApply(service)) => {
                    fresh.insert(key(&service), service);
                }
                Ok(Event::InitDone) => {
                    *lock(&self.known) = std::mem::take(&mut fresh);
                    self.listed.send_replace(true);
                }
                Ok(Event::Apply(service)) => {
                    lock(&self.known).insert(key(&service), service);
                }
                Ok(Event::Delete(service)) => {
                    lock(&self.known).remove(&key(&service));
                }
                Err(error) => tracing::debug!(%error, "watching services"),
            }
        }
    }

    /// The variables for a pod of this namespace; `links` is its `enableServiceLinks`.
    pub(crate) fn environment(&self, namespace: &str, links: bool) -> BTreeMap<String, String> {
        let mut env = BTreeMap::new();
        for ((ns, name), service) in lock(&self.known).iter() {
            let is_master = ns == "default" && name == "kubernetes";
            if is_master || (links && ns == namespace) {
                variables(name, service, &mut env);
            }
        }
        env
    }
}

fn key(service: &Service) -> Key {
    let meta = &service.metadata;
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

fn variables(name: &str, service: &Service, env: &mut BTreeMap<String, String>) {
    let Some(spec) = &service.spec else { return };
    let ip = spec.cluster_ip.as_deref().unwrap_or_default();
    let ports = spec.ports.as_deref().unwrap_or_default();
    let Some(first) = ports.first() else { return };
    if ip.is_empty() || ip == "None" {
        return;
    }
    let upper = |text: &str| text.to_uppercase().replace('-', "_");
    let prefix = upper(name);
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    env.insert(format!("{prefix}_SERVICE_HOST"), ip.to_owned());
    env.insert(format!("{prefix}_SERVICE_PORT"), first.port.to_string());
    let protocol_of = |p: Option<&str>| p.unwrap_or("TCP").to_owned();
    let url = |protocol: &str, port: i32| format!("{}://{host}:{port}", protocol.to_lowercase());
    let protocol = protocol_of(first.protocol.as_deref());
    env.insert(format!("{prefix}_PORT"), url(&protocol, first.port));
    for port in ports {
        if let Some(name) = port.name.as_deref().filter(|n| !n.is_empty()) {
            let key = format!("{prefix}_SERVICE_PORT_{}", upper(name));
            env.insert(key, port.port.to_string());
        }
        let protocol = protocol_of(port.protocol.as_deref());
        let base = format!("{prefix}_PORT_{}_{}", port.port, protocol.to_uppercase());
        env.insert(base.clone(), url(&protocol, port.port));
        env.insert(format!("{base}_PROTO"), protocol.to_lowercase());
        env.insert(format!("{base}_PORT"), port.port.to_string());
        env.insert(format!("{base}_ADDR"), ip.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_services() {
        let services = Services::new(true);
        for (ns, name, ip) in
            [("default", "kubernetes", "10.0.0.1"), ("ns", "my-db", "10.0.0.2"), ("ns", "bare", "None")]
        {
            let service: Service = serde_json::from_value(serde_json::json!({
                "metadata": {"name": name, "namespace": ns},
                "spec": {"clusterIP": ip, "ports": [{"name": "sql", "port": 5432}]}}))
            .expect("a service");
            lock(&services.known).insert(key(&service), service);
        }
        let env = services.environment("ns", true);
        assert_eq!(env["KUBERNETES_SERVICE_HOST"], "10.0.0.1");
        assert_eq!(env["MY_DB_SERVICE_PORT_SQL"], "5432");
        assert_eq!(env["MY_DB_PORT_5432_TCP"], "tcp://10.0.0.2:5432");
        assert!(!env.keys().any(|k| k.starts_with("BARE")));
        assert!(!services.environment("ns", false).contains_key("MY_DB_PORT"));
    }
}

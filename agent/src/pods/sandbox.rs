//! A pod's sandbox, and the files of the pod that its containers share.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use k8s_openapi::api::node::v1::RuntimeClass;
use kube::Api;
use orlop_proto::v1;

use super::worker::{SyncError, Worker};
use crate::container;
use crate::container::config::hosts_file;
use crate::dns::{ClusterDns, Resolver, pod_dns};
use crate::events::pod_reference;
use crate::hosts;
use crate::resources::Qos;

pub(super) fn file_error(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> SyncError {
    let path = path.to_owned();
    move |source| SyncError::File { action, path, source }
}

impl Worker {
    /// What RunPodSandbox is given, and each container of it.
    pub(super) fn sandbox_config(&self, attempt: u32) -> Result<v1::PodSandboxConfig, SyncError> {
        let config = &self.ctx.config;
        let meta = &self.pod.metadata;
        let name = meta.name.as_deref().unwrap_or_default();
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let hostname =
            hosts::sandbox_hostname(name, namespace, &self.spec, &config.cluster_domain).map_err(SyncError::Sandbox)?;
        let host = fs::read_to_string(&config.resolv_conf).unwrap_or_default();
        let cluster = ClusterDns { servers: &config.cluster_dns, domain: &config.cluster_domain };
        let dns = pod_dns(name, namespace, &self.spec, cluster, &Resolver::parse(&host));
        if let Some((reason, message)) = dns.warning.filter(|_| self.runtime.is_empty()) {
            self.ctx.events.warning(pod_reference(&self.pod), reason, message);
        }
        Ok(container::sandbox_config(container::SandboxInput {
            pod: &self.pod,
            spec: &self.spec,
            attempt,
            hostname,
            dns: dns.config,
            log_dir: self.log_dir.clone(),
            cgroup_parent: self.ctx.cgroups.pod_path(&self.uid, Qos::of(&self.spec)),
        }))
    }

    /// Makes the pod's log folder and a sandbox; tells by an event when it fails.
    pub(super) async fn create_sandbox(&mut self, attempt: u32) -> Result<(), SyncError> {
        let fail = |text: String| {
            let message = format!("Failed to create pod sandbox: {text}");
            self.ctx.events.warning(pod_reference(&self.pod), "FailedCreatePodSandBox", message);
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&self.log_dir)
            .map_err(file_error("make", &self.log_dir))?;
        let config = self.sandbox_config(attempt).inspect_err(|e| fail(e.to_string()))?;
        let runtime_handler = self.runtime_handler().await.inspect_err(|e| fail(e.to_string()))?;
        let request = v1::RunPodSandboxRequest { config: Some(config), runtime_handler };
        let made = self.ctx.cri.run_pod_sandbox(request).await;
        made.inspect_err(|e| fail(e.to_string()))?;
        Ok(())
    }

    async fn runtime_handler(&self) -> Result<String, SyncError> {
        let Some(class) = self.spec.runtime_class_name.as_deref().filter(|c| !c.is_empty()) else {
            return Ok(String::new());
        };
        let missing = || SyncError::Sandbox(format!("runtimeclass.node.k8s.io \"{class}\" not found"));
        let client = self.ctx.api().ok_or_else(missing)?;
        let api: Api<RuntimeClass> = Api::all(client.clone());
        match api.get_opt(class).await {
            Ok(Some(found)) => Ok(found.handler),
            Ok(None) => Err(missing()),
            Err(e) => Err(SyncError::Sandbox(e.to_string())),
        }
    }

    /// Writes the file that containers have as `/etc/hosts`.
    pub(super) fn write_hosts(&self) -> Result<(), SyncError> {
        let path = hosts_file(&self.pod_dir);
        let aliases = self.spec.host_aliases.as_deref().unwrap_or_default();
        let text = if self.spec.host_network == Some(true) {
            hosts::host_network_hosts(&fs::read_to_string("/etc/hosts").unwrap_or_default(), aliases)
        } else {
            let meta = &self.pod.metadata;
            let name = hosts::hostname(meta.name.as_deref().unwrap_or_default(), &self.spec);
            let namespace = meta.namespace.as_deref().unwrap_or_default();
            let domain = &self.ctx.config.cluster_domain;
            let fqdn = hosts::fqdn(&name, namespace, &self.spec, domain);
            hosts::pod_hosts(&self.pod_ips(), &name, fqdn.as_deref(), aliases)
        };
        // In place: running containers have this very file mounted.
        fs::write(&path, text).map_err(file_error("write", &path))
    }
}

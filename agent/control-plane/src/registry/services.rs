//! Addresses and ports of services.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::OwnedMutexGuard;

use super::resource::SERVICES;
use super::{Registry, name_of, namespace_of};
use crate::status::{Cause, Status};

/// Node ports are taken from here.
const NODE_PORTS: std::ops::RangeInclusive<i64> = 30_000..=32_767;
/// The first so many are left to those who ask for a certain port.
const NODE_PORTS_EXPLICIT: i64 = 86;

/// Whether a service has an address of the cluster, or says that it wants none.
fn has_address(service: &Value) -> bool {
    service["spec"]["type"] != "ExternalName"
}

fn has_node_ports(service: &Value) -> bool {
    service["spec"]["type"] == "NodePort" || service["spec"]["type"] == "LoadBalancer"
}

/// What an update leaves open stays as it was; what the new type has no use for, and the client did not touch, goes.
pub(super) fn carry_over(service: &mut Value, old: &Value) {
    if has_address(old) && !has_address(service) && service["spec"]["clusterIP"] == old["spec"]["clusterIP"] {
        for field in ["clusterIP", "clusterIPs"] {
            service["spec"].as_object_mut().map(|spec| spec.remove(field));
        }
    }
    let (had, has) = (has_node_ports(old), has_node_ports(service));
    let sent: HashSet<i64> = node_ports(service).collect();
    let dropped = had && !has && sent == node_ports(old).collect();
    for port in service.pointer_mut("/spec/ports").and_then(Value::as_array_mut).into_iter().flatten() {
        if dropped {
            port.as_object_mut().map(|port| port.remove("nodePort"));
        } else if had && has && port["nodePort"].as_i64().unwrap_or(0) == 0 {
            let same = |other: &&Value| other["port"] == port["port"] && other["protocol"] == port["protocol"];
            let before = old["spec"]["ports"].as_array().into_iter().flatten().find(same);
            if let Some(number) = before.and_then(|p| p["nodePort"].as_i64()).filter(|n| !sent.contains(n)) {
                port["nodePort"] = json!(number);
            }
        }
    }
}

impl Registry {
    /// Gives a service what it needs and `old`, if there is one, does not have. Nobody else is given anything until
    /// the lock goes, which must be after the service is stored.
    pub(super) async fn allocate_service(
        &self,
        service: &mut Value,
        old: &Value,
    ) -> Result<OwnedMutexGuard<()>, Status> {
        let lock = Arc::clone(&self.allocation).lock_owned().await;
        let is_self = |other: &Value| name_of(other) == name_of(old) && namespace_of(other) == namespace_of(old);
        let mut others = self.list(&SERVICES, None);
        others.retain(|other| !is_self(other));
        if has_address(service) {
            self.allocate_address(service, old, &others)?;
        }
        if has_node_ports(service) {
            allocate_ports(service, old, &others)?;
        }
        Ok(lock)
    }

    fn allocate_address(&self, service: &mut Value, old: &Value, others: &[Arc<Value>]) -> Result<(), Status> {
        let wanted = service["spec"]["clusterIP"].as_str().unwrap_or_default();
        let taken = addresses(others);
        let invalid = |why: &str| {
            let message = format!("Invalid value: [{wanted:?}]: failed to allocate IP {wanted}: {why}");
            Err(invalid(service, "spec.clusterIPs", message))
        };
        let range = self.service_cidr;
        let address = match wanted {
            "" => self.free_address(&taken).ok_or_else(|| Status::internal("no service IPs available"))?.to_string(),
            wanted if wanted == "None" || old["spec"]["clusterIP"] == *wanted => wanted.to_owned(),
            wanted => match wanted.parse::<Ipv4Addr>() {
                Ok(a) if range.contains(&a) && a != range.network() && a != range.broadcast() => {
                    if taken.contains(&a) {
                        return invalid("provided IP is already allocated");
                    }
                    wanted.to_owned()
                }
                _ => {
                    let why = format!(
                        "the provided network does not match the current range or IP is not in the valid range {range}"
                    );
                    return invalid(&why);
                }
            },
        };
        service["spec"]["clusterIPs"] = json!([address]);
        service["spec"]["clusterIP"] = json!(address);
        Ok(())
    }

    /// The lowest free address above the band that is left to those who ask for a certain one.
    fn free_address(&self, taken: &HashSet<Ipv4Addr>) -> Option<Ipv4Addr> {
        let size = 1u64 << (32 - self.service_cidr.prefix_len());
        let band = (size / 16).clamp(16, 256).min(size / 2);
        let base = u64::from(u32::from(self.service_cidr.network()));
        let address = |offset: u64| u32::try_from(base + offset).ok().map(Ipv4Addr::from);
        (band..size.saturating_sub(1))
            .chain(1..band)
            .filter_map(address)
            .find(|candidate| !taken.contains(candidate) && u64::from(u32::from(*candidate)) != base + 1)
    }
}

fn allocate_ports(service: &mut Value, old: &Value, others: &[Arc<Value>]) -> Result<(), Status> {
    let own: HashSet<i64> = node_ports(old).collect();
    let mut taken: HashSet<i64> = others.iter().flat_map(|s| node_ports(s)).collect();
    let count = service["spec"]["ports"].as_array().map_or(0, Vec::len);
    // Those that are asked for come before those that are chosen.
    for index in 0..count {
        let wanted = service["spec"]["ports"][index]["nodePort"].as_i64().unwrap_or(0);
        let field = format!("spec.ports[{index}].nodePort");
        if wanted != 0 && !own.contains(&wanted) && !NODE_PORTS.contains(&wanted) {
            let why = format!(
                "Invalid value: {wanted}: provided port is not in the valid range. The range of valid ports is 30000-32767"
            );
            return Err(invalid(service, &field, why));
        }
        if wanted != 0 && !taken.insert(wanted) {
            return Err(invalid(
                service,
                &field,
                format!("Invalid value: {wanted}: provided port is already allocated"),
            ));
        }
    }
    for port in service.pointer_mut("/spec/ports").and_then(Value::as_array_mut).into_iter().flatten() {
        if port["nodePort"].as_i64().unwrap_or(0) == 0 {
            let mut above = NODE_PORTS.skip(usize::try_from(NODE_PORTS_EXPLICIT).unwrap_or(0));
            let free = above.find(|p| !taken.contains(p)).ok_or_else(|| Status::internal("no node ports available"))?;
            taken.insert(free);
            port["nodePort"] = json!(free);
        }
    }
    Ok(())
}

fn invalid(service: &Value, field: &str, message: String) -> Status {
    let cause = Cause { reason: "FieldValueInvalid", message, field: field.to_owned() };
    Status::invalid("", "Service", name_of(service), vec![cause])
}

fn addresses(services: &[Arc<Value>]) -> HashSet<Ipv4Addr> {
    services.iter().filter_map(|s| s["spec"]["clusterIP"].as_str()?.parse().ok()).collect()
}

fn node_ports(service: &Value) -> impl Iterator<Item = i64> + '_ {
    let ports = service["spec"]["ports"].as_array().into_iter().flatten();
    ports.filter_map(|p| p["nodePort"].as_i64()).filter(|number| *number != 0)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;
    use crate::registry::Context;
    use crate::registry::resource::NAMESPACES;
    use crate::store::Store;

    #[tokio::test]
    async fn a_client_that_hangs_up_takes_no_address_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("test.db"), &[SERVICES.storage, NAMESPACES.storage]).unwrap();
        let registry = Registry::new(store, "10.96.0.0/16".parse().unwrap());
        let ctx = Context::component("test");
        registry.create(&ctx, &NAMESPACES, "", json!({"metadata": {"name": "n"}})).await.unwrap();
        let service =
            |name: &str| json!({"metadata": {"name": name}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}});
        let hung_up = registry.create(&ctx, &SERVICES, "n", service("a")).now_or_never();
        assert!(hung_up.is_none(), "its write was on the way");
        registry.create(&ctx, &SERVICES, "n", service("b")).await.unwrap();
        let present = registry.list(&SERVICES, None);
        assert_eq!(present.len(), 2);
        assert_eq!(addresses(&present).len(), 2, "{present:?}");
        assert_eq!(present.iter().flat_map(|s| node_ports(s)).collect::<HashSet<i64>>().len(), 2, "{present:?}");
    }
}

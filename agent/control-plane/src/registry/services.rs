//! Addresses and ports of services.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::Registry;
use super::resource::SERVICES;
use crate::status::{Cause, Status};

/// Node ports are taken from here.
const NODE_PORTS: std::ops::RangeInclusive<i64> = 30_000..=32_767;
/// The first so many are left to those who ask for a certain port.
const NODE_PORTS_EXPLICIT: i64 = 86;

impl Registry {
    /// Gives a new service what it needs; the caller holds the allocation lock until it is stored.
    pub(super) fn allocate_service(&self, service: &mut Value) -> Result<(), Status> {
        let name = service["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let invalid = |field: &str, message: String| {
            let cause = Cause { reason: "FieldValueInvalid", message, field: field.to_owned() };
            Status::invalid("", "Service", &name, vec![cause])
        };
        let present = self.list(&SERVICES, None);
        let kind = service["spec"]["type"].as_str().unwrap_or_default().to_owned();
        if kind != "ExternalName" {
            let address = match service["spec"]["clusterIP"].as_str().unwrap_or_default() {
                "None" => "None".to_owned(),
                "" => {
                    let taken = addresses(&present);
                    let free = self.free_address(&taken).ok_or_else(|| Status::internal("no service IPs available"))?;
                    free.to_string()
                }
                wanted => {
                    let field = "spec.clusterIPs";
                    let range = self.service_cidr;
                    let address: Ipv4Addr = wanted
                        .parse()
                        .ok()
                        .filter(|a| range.contains(a) && *a != range.network() && *a != range.broadcast())
                        .ok_or_else(|| {
                            let why = format!("Invalid value: [{wanted:?}]: failed to allocate IP {wanted}: the provided network does not match the current range or IP is not in the valid range {range}");
                            invalid(field, why)
                        })?;
                    if addresses(&present).contains(&address) {
                        let why = format!(
                            "Invalid value: [{wanted:?}]: failed to allocate IP {wanted}: provided IP is already allocated"
                        );
                        return Err(invalid(field, why));
                    }
                    wanted.to_owned()
                }
            };
            service["spec"]["clusterIPs"] = json!([address]);
            service["spec"]["clusterIP"] = json!(address);
        }
        if kind == "NodePort" || kind == "LoadBalancer" {
            let mut taken: HashSet<i64> = present.iter().flat_map(|s| node_ports(s)).collect();
            for (index, port) in
                service.pointer_mut("/spec/ports").and_then(Value::as_array_mut).into_iter().flatten().enumerate()
            {
                let wanted = port["nodePort"].as_i64().unwrap_or(0);
                let field = format!("spec.ports[{index}].nodePort");
                if wanted != 0 && taken.contains(&wanted) {
                    return Err(invalid(
                        &field,
                        format!("Invalid value: {wanted}: provided port is already allocated"),
                    ));
                }
                if wanted != 0 && !NODE_PORTS.contains(&wanted) {
                    let why = format!(
                        "Invalid value: {wanted}: provided port is not in the valid range. The range of valid ports is 30000-32767"
                    );
                    return Err(invalid(&field, why));
                }
                if wanted == 0 {
                    let from = NODE_PORTS.start() + NODE_PORTS_EXPLICIT;
                    let free = (from..=*NODE_PORTS.end()).find(|p| !taken.contains(p));
                    let free = free.ok_or_else(|| Status::internal("no node ports available"))?;
                    port["nodePort"] = json!(free);
                }
                taken.insert(port["nodePort"].as_i64().unwrap_or(0));
            }
        }
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

fn addresses(services: &[std::sync::Arc<Value>]) -> HashSet<Ipv4Addr> {
    services.iter().filter_map(|s| s["spec"]["clusterIP"].as_str()?.parse().ok()).collect()
}

fn node_ports(service: &Value) -> impl Iterator<Item = i64> + '_ {
    service["spec"]["ports"].as_array().into_iter().flatten().filter_map(|p| p["nodePort"].as_i64())
}

//! The resolver configuration of pods, by `dnsPolicy` and `dnsConfig`.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::PodSpec;
use orlop_proto::v1::DnsConfig;

const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARS: usize = 2048;

/// What a `resolv.conf` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Resolver {
    pub(crate) servers: Vec<String>,
    pub(crate) searches: Vec<String>,
    pub(crate) options: Vec<String>,
}

impl Resolver {
    /// Reads a `resolv.conf` (resolv.conf(5)): the last `search` line counts.
    pub(crate) fn parse(text: &str) -> Self {
        let mut this = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => this.servers.extend(words.next().map(str::to_owned)),
                Some("search" | "domain") => {
                    this.searches = words.map(str::to_owned).collect();
                }
                Some("options") => this.options.extend(words.map(str::to_owned)),
                _ => {}
            }
        }
        this
    }
}

/// What the cluster says about DNS.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClusterDns<'a> {
    pub(crate) servers: &'a [IpAddr],
    pub(crate) domain: &'a str,
}

/// A pod's configuration, and what was worth a warning event: reason and message.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct PodDns {
    pub(crate) config: DnsConfig,
    pub(crate) warning: Option<(&'static str, String)>,
}

/// Works out the pod's resolver configuration.
pub(crate) fn pod_dns(
    pod_name: &str,
    namespace: &str,
    spec: &PodSpec,
    cluster: ClusterDns<'_>,
    host: &Resolver,
) -> PodDns {
    let host_network = spec.host_network == Some(true);
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let mut warning = None;
    let mut resolver = match policy {
        "None" => Resolver::default(),
        "ClusterFirstWithHostNet" => cluster_first(namespace, cluster, host),
        "ClusterFirst" if !host_network => cluster_first(namespace, cluster, host),
        _ => host.clone(),
    };
    let wants_cluster = policy == "ClusterFirstWithHostNet" || (policy == "ClusterFirst" && !host_network);
    if wants_cluster && cluster.servers.is_empty() {
        resolver = host.clone();
        warning = Some((
            "MissingClusterDNS",
            format!(
                "pod: \"{pod_name}_{namespace}\". kubelet does not have ClusterDNS IP configured and cannot create Pod using \"{policy}\" policy. Falling back to \"Default\" policy."
            ),
        ));
    }
    if let Some(own) = &spec.dns_config {
        append_new(&mut resolver.servers, own.nameservers.iter().flatten());
        append_new(&mut resolver.searches, own.searches.iter().flatten());
        for option in own.options.iter().flatten() {
            let Some(name) = &option.name else { continue };
            resolver.options.retain(|o| o.split(':').next() != Some(name));
            resolver.options.push(match &option.value {
                Some(value) => format!("{name}:{value}"),
                None => name.clone(),
            });
        }
    }
    if let Some(message) = enforce_limits(&mut resolver) {
        warning = Some(("DNSConfigForming", message));
    }
    PodDns {
        config: DnsConfig { servers: resolver.servers, searches: resolver.searches, options: resolver.options },
        warning,
    }
}

fn cluster_first(namespace: &str, cluster: ClusterDns<'_>, host: &Resolver) -> Resolver {
    let domain = cluster.domain;
    let mut searches = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()];
    append_new(&mut searches, host.searches.iter());
    Resolver {
        servers: cluster.servers.iter().map(IpAddr::to_string).collect(),
        searches,
        options: vec!["ndots:5".to_owned()],
    }
}

fn append_new<'a>(list: &mut Vec<String>, more: impl Iterator<Item = &'a String>) {
    for item in more {
        if !list.contains(item) {
            list.push(item.clone());
        }
    }
}

fn enforce_limits(resolver: &mut Resolver) -> Option<String> {
    let mut message = None;
    if resolver.servers.len() > MAX_NAMESERVERS {
        resolver.servers.truncate(MAX_NAMESERVERS);
        message = Some(format!(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {}",
            resolver.servers.join(" ")
        ));
    }
    let mut length = 0;
    let fitting = resolver
        .searches
        .iter()
        .take(MAX_SEARCHES)
        .take_while(|s| {
            length += s.len() + 1;
            length <= MAX_SEARCH_CHARS + 1
        })
        .count();
    if fitting < resolver.searches.len() {
        resolver.searches.truncate(fitting);
        message = Some(format!(
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {}",
            resolver.searches.join(" ")
        ));
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    const DNS: [IpAddr; 1] = [IpAddr::V4(std::net::Ipv4Addr::new(10, 43, 0, 10))];

    fn dns(spec: serde_json::Value, servers: &[IpAddr]) -> PodDns {
        let spec: PodSpec = serde_json::from_value(spec).expect("a spec");
        let host = Resolver::parse("# x\nnameserver 1.1.1.1\nsearch lan corp\noptions edns0\n");
        let cluster = ClusterDns { servers, domain: "cluster.local" };
        pod_dns("p", "ns", &spec, cluster, &host)
    }

    #[test]
    fn cluster_first() {
        let got = dns(serde_json::json!({"containers": []}), &DNS);
        assert_eq!(got.config.servers, ["10.43.0.10"]);
        assert_eq!(got.config.searches, ["ns.svc.cluster.local", "svc.cluster.local", "cluster.local", "lan", "corp"]);
        assert_eq!(got.config.options, ["ndots:5"]);
    }

    #[test]
    fn host_network_takes_the_hosts() {
        let got = dns(serde_json::json!({"containers": [], "hostNetwork": true}), &DNS);
        assert_eq!(got.config.servers, ["1.1.1.1"]);
        assert_eq!(got.warning, None);
    }

    #[test]
    fn without_a_cluster_server_the_default_and_a_warning() {
        let got = dns(serde_json::json!({"containers": []}), &[]);
        assert_eq!(got.config.servers, ["1.1.1.1"]);
        assert_eq!(got.warning.map(|w| w.0), Some("MissingClusterDNS"));
    }

    #[test]
    fn own_config_is_appended_and_options_override() {
        let got = dns(
            serde_json::json!({"containers": [], "dnsConfig": {
                "nameservers": ["9.9.9.9", "10.43.0.10", "8.8.8.8", "8.8.4.4"],
                "searches": ["lan", "x"],
                "options": [{"name": "ndots", "value": "2"}, {"name": "rotate"}],
            }}),
            &DNS,
        );
        assert_eq!(got.config.servers, ["10.43.0.10", "9.9.9.9", "8.8.8.8"]);
        assert_eq!(got.config.searches.last().map(String::as_str), Some("x"));
        assert_eq!(got.config.options, ["ndots:2", "rotate"]);
        assert_eq!(got.warning.map(|w| w.0), Some("DNSConfigForming"));
    }
}

//! The `/etc/hosts` and host name of pods.

use std::fmt::Write;

use k8s_openapi::api::core::v1::{HostAlias, PodSpec};

/// The longest host name Linux takes.
const MAX_HOSTNAME: usize = 64;

/// The short host name of a pod on its own network.
pub(crate) fn hostname(pod_name: &str, spec: &PodSpec) -> String {
    let name = spec.hostname.as_deref().filter(|h| !h.is_empty());
    let name = name.unwrap_or(pod_name);
    let cut = &name[..name.floor_char_boundary(63)];
    cut.trim_end_matches(['-', '.']).to_owned()
}

/// `hostname.subdomain.namespace.svc.domain`, for a pod that has a subdomain.
pub(crate) fn fqdn(hostname: &str, namespace: &str, spec: &PodSpec, domain: &str) -> Option<String> {
    let subdomain = spec.subdomain.as_deref().filter(|s| !s.is_empty())?;
    Some(format!("{hostname}.{subdomain}.{namespace}.svc.{domain}"))
}

/// The host name the sandbox gets.
///
/// # Errors
/// `setHostnameAsFQDN` with a name the kernel does not take.
pub(crate) fn sandbox_hostname(
    pod_name: &str,
    namespace: &str,
    spec: &PodSpec,
    domain: &str,
) -> Result<String, String> {
    if let Some(name) = spec.hostname_override.as_deref().filter(|h| !h.is_empty()) {
        return Ok(name.to_owned());
    }
    let short = hostname(pod_name, spec);
    if spec.set_hostname_as_fqdn != Some(true) {
        return Ok(short);
    }
    let Some(full) = fqdn(&short, namespace, spec, domain) else {
        return Ok(short);
    };
    if full.len() > MAX_HOSTNAME {
        return Err(format!(
            "failed to construct FQDN from pod hostname and cluster domain, FQDN {full} is too long ({} characters is the max, {} characters requested)",
            MAX_HOSTNAME,
            full.len()
        ));
    }
    Ok(full)
}

/// The managed hosts file of a pod with these addresses.
pub(crate) fn pod_hosts(ips: &[String], hostname: &str, fqdn: Option<&str>, aliases: &[HostAlias]) -> String {
    let mut text = String::from(
        "# Kubernetes-managed hosts file.\n\
         127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\n\
         fe00::0\tip6-mcastprefix\n\
         fe00::1\tip6-allnodes\n\
         fe00::2\tip6-allrouters\n",
    );
    for ip in ips {
        let _ = match fqdn {
            Some(fqdn) => writeln!(text, "{ip}\t{fqdn}\t{hostname}"),
            None => writeln!(text, "{ip}\t{hostname}"),
        };
    }
    text + &alias_lines(aliases)
}

/// The hosts file of a pod on the host's network: the host's own, and the aliases.
pub(crate) fn host_network_hosts(host: &str, aliases: &[HostAlias]) -> String {
    format!("# Kubernetes-managed hosts file (host network).\n{host}{}", alias_lines(aliases))
}

fn alias_lines(aliases: &[HostAlias]) -> String {
    if aliases.is_empty() {
        return String::new();
    }
    let mut text = String::from("\n# Entries added by HostAliases.\n");
    for alias in aliases {
        let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
        let _ = writeln!(text, "{}\t{names}", alias.ip);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cut_to_a_label() {
        let spec = PodSpec::default();
        let long = format!("{}-{}", "a".repeat(62), "b".repeat(20));
        assert_eq!(hostname(&long, &spec), "a".repeat(62));
        // The file of a static pod may name it as it likes.
        assert_eq!(hostname(&"ä".repeat(40), &spec), "ä".repeat(31));
        let named = PodSpec {
            hostname: Some("db".to_owned()),
            subdomain: Some("set".to_owned()),
            set_hostname_as_fqdn: Some(true),
            ..PodSpec::default()
        };
        assert_eq!(sandbox_hostname("p", "ns", &named, "cluster.local"), Ok("db.set.ns.svc.cluster.local".to_owned()));
        assert!(sandbox_hostname("p", &"n".repeat(60), &named, "cluster.local").is_err());
    }

    #[test]
    fn file_has_addresses_and_aliases() {
        let alias = HostAlias { ip: "1.2.3.4".to_owned(), hostnames: Some(vec!["x".to_owned(), "y".to_owned()]) };
        let text = pod_hosts(&["10.0.0.5".to_owned()], "web", None, &[alias]);
        assert!(text.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"));
        assert!(text.ends_with("10.0.0.5\tweb\n\n# Entries added by HostAliases.\n1.2.3.4\tx\ty\n"));
    }
}

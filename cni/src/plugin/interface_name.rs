//! Names of the host's ends of veth pairs.

use std::fmt::Write;

use sha2::{Digest, Sha256};

/// The host's interface for a container's interface on a network. It follows from the arguments alone, so a
/// repeated ADD finds what a failed one left, and DEL needs no record.
pub fn host_interface_name(network: &str, container_id: &str, ifname: &str) -> String {
    let mut hash = Sha256::new();
    for part in [network, container_id, ifname] {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    let mut name = "veth".to_owned();
    for byte in hash.finalize().iter().take(6) {
        // Writing to a String cannot fail.
        let _ = write!(name, "{byte:02x}");
    }
    // IFNAMSIZ is 16 with the closing zero.
    name.truncate(15);
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_stable_distinct_and_fit() {
        let name = host_interface_name("net", "id", "eth0");
        assert_eq!(name, host_interface_name("net", "id", "eth0"));
        assert_eq!(name.len(), 15);
        for (network, id, ifname) in [("net", "id", "eth1"), ("net", "i", "deth0"), ("ne", "tid", "eth0")] {
            assert_ne!(name, host_interface_name(network, id, ifname));
        }
    }
}

//! What belongs to the node and not to any container, and who removes it: the node's own uninstall or the
//! shut-down of a private instance.

use crate::config::NetworkConfigList;
use crate::error::Error;
use crate::nftables;
use crate::plugin::{self, bridge};

/// Removes the nftables table `table` with every masquerade and hostPort rule in it. That it is gone already
/// is success.
pub fn remove_node_rules(table: &str) -> Result<(), Error> {
    nftables::Table::new(table)?.remove()?;
    Ok(())
}

/// Removes what our plugins of `list` keep on the node when no container is left: the bridges and the
/// nftables tables. A bridge that still has a port is left alone, and that is an error.
pub fn remove_network(list: &NetworkConfigList) -> Result<(), Error> {
    let mut errors = Vec::new();
    for plugin in &list.plugins {
        if plugin.kind == "bridge" {
            errors.extend(bridge::remove_bridge(&plugin.raw).err().map(Error::Node));
        }
        if matches!(plugin.kind.as_str(), "bridge" | "portmap") {
            let removed = plugin::nft_table(&plugin.raw).and_then(|table| table.remove());
            errors.extend(removed.err().map(Error::Node));
        }
    }
    Error::gather(errors)
}

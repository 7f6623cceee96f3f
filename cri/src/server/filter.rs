//! Which objects a list call means.

use std::collections::BTreeMap;

use orlop_proto::v1;

use crate::status;
use crate::store::{Container, Sandbox, SandboxState};

/// Every pair of the selector is among the labels.
fn selects(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

pub(super) fn sandbox(filter: Option<&v1::PodSandboxFilter>, sandbox: &Sandbox) -> bool {
    if sandbox.state() == SandboxState::Creating {
        return false;
    }
    filter.is_none_or(|filter| {
        sandbox.id.starts_with(&filter.id)
            && filter.state.as_ref().is_none_or(|wanted| wanted.state == status::sandbox_state(sandbox) as i32)
            && selects(&filter.label_selector, &sandbox.config.labels)
    })
}

pub(super) fn container(filter: Option<&v1::ContainerFilter>, container: &Container) -> bool {
    status::is_visible(container)
        && filter.is_none_or(|filter| {
            container.id.starts_with(&filter.id)
                && container.sandbox.starts_with(&filter.pod_sandbox_id)
                && filter.state.as_ref().is_none_or(|wanted| wanted.state == status::container_state(container) as i32)
                && selects(&filter.label_selector, &container.config().labels)
        })
}

pub(super) fn container_stats(filter: Option<&v1::ContainerStatsFilter>, each: &Container) -> bool {
    let filter = filter.map(|filter| v1::ContainerFilter {
        id: filter.id.clone(),
        state: None,
        pod_sandbox_id: filter.pod_sandbox_id.clone(),
        label_selector: filter.label_selector.clone(),
    });
    container(filter.as_ref(), each)
}

pub(super) fn pod_stats(filter: Option<&v1::PodSandboxStatsFilter>, each: &Sandbox) -> bool {
    let filter = filter.map(|filter| v1::PodSandboxFilter {
        id: filter.id.clone(),
        state: None,
        label_selector: filter.label_selector.clone(),
    });
    sandbox(filter.as_ref(), each)
}

#[cfg(test)]
mod tests {
    use super::selects;

    #[test]
    fn all_of_a_selector_must_match() {
        let map = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|&(key, value)| (key.to_owned(), value.to_owned()))
                .collect::<std::collections::BTreeMap<_, _>>()
        };
        let labels = map(&[("a", "1"), ("b", "2")]);
        assert!(selects(&map(&[]), &labels) && selects(&map(&[("a", "1")]), &labels));
        assert!(!selects(&map(&[("a", "2")]), &labels) && !selects(&map(&[("a", "1"), ("c", "")]), &labels));
    }
}

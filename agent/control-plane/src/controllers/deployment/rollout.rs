//! From old replica sets to the new one.

use std::sync::Arc;

use serde_json::{Value, json};

use super::Deployments;
use super::sets::Sets;
use crate::status::Status;

pub(super) fn replicas(object: &Value) -> i64 {
    object["spec"]["replicas"].as_i64().unwrap_or(0)
}

pub(super) fn available(set: &Value) -> i64 {
    set["status"]["availableReplicas"].as_i64().unwrap_or(0)
}

/// Available pods that the set is to keep: right after it was made smaller, its status still tells of more.
fn lasting(set: &Value) -> i64 {
    available(set).min(replicas(set))
}

/// How many pods more than wanted there may be, and how many fewer.
pub(super) fn bounds(deployment: &Value) -> (i64, i64) {
    let strategy = &deployment["spec"]["strategy"];
    if strategy["type"] == "Recreate" {
        return (0, 0);
    }
    let wanted = replicas(deployment);
    let amount = |value: &Value, round_up: bool| match value {
        Value::String(text) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            let product = percent * wanted;
            if round_up { (product + 99) / 100 } else { product / 100 }
        }
        other => other.as_i64().unwrap_or(0),
    };
    let surge = amount(&strategy["rollingUpdate"]["maxSurge"], true);
    let unavailable = amount(&strategy["rollingUpdate"]["maxUnavailable"], false).min(wanted);
    // Both zero would never get anywhere.
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
}

/// Notes on a set how large its deployment is to be.
pub(super) fn annotate_size(set: &mut Value, deployment: &Value) {
    let wanted = replicas(deployment);
    let (surge, _) = bounds(deployment);
    set["metadata"]["annotations"]["deployment.kubernetes.io/desired-replicas"] = json!(wanted.to_string());
    set["metadata"]["annotations"]["deployment.kubernetes.io/max-replicas"] = json!((wanted + surge).to_string());
}

/// The size that the new set may have now.
fn new_size(deployment: &Value, sets: &Sets) -> i64 {
    let wanted = replicas(deployment);
    let present = sets.new.as_deref().map_or(0, replicas);
    if present >= wanted {
        return wanted;
    }
    if deployment["spec"]["strategy"]["type"] == "Recreate" {
        return wanted;
    }
    let (surge, _) = bounds(deployment);
    let total: i64 = sets.all().map(|set| replicas(set)).sum();
    let room = wanted + surge - total;
    present + room.clamp(0, wanted - present)
}

/// The sizes that old sets may have now that the new one is to have `size`.
fn old_sizes(deployment: &Value, new: &Value, size: i64, old: &[Arc<Value>]) -> Vec<i64> {
    let (_, unavailable) = bounds(deployment);
    let least = replicas(deployment) - unavailable;
    let mut sizes: Vec<i64> = old.iter().map(|set| replicas(set)).collect();
    let total = size + sizes.iter().sum::<i64>();
    let mut removable = (total - least - (size - lasting(new)).max(0)).max(0);
    // Pods that do not work anyway go first.
    for (size, set) in sizes.iter_mut().zip(old) {
        let broken = (*size - lasting(set)).clamp(0, removable);
        *size -= broken;
        removable -= broken;
    }
    let working = lasting(new) + old.iter().map(|set| lasting(set)).sum::<i64>();
    let mut surplus = (working - least).clamp(0, removable);
    for (size, set) in sizes.iter_mut().zip(old) {
        let step = (*size).min(lasting(set)).clamp(0, surplus);
        *size -= step;
        surplus -= step;
    }
    sizes
}

impl Deployments {
    /// The size that a set is created with.
    pub(super) fn size_of_new(&self, deployment: &Value, sets: &Sets) -> i64 {
        let recreate = deployment["spec"]["strategy"]["type"] == "Recreate";
        let old_left = sets.old.iter().any(|set| replicas(set) > 0) || self.old_pods_exist(deployment, sets);
        if recreate && old_left { 0 } else { new_size(deployment, sets) }
    }

    /// RollingUpdate: the new set grows as far as the surge allows, old ones shrink as far as enough pods are available.
    pub(super) async fn roll(&self, deployment: &Value, sets: &Sets) -> Result<(), Status> {
        let Some(new) = &sets.new else { return Ok(()) };
        let size = new_size(deployment, sets);
        self.scale(deployment, new, size).await?;
        let sizes = old_sizes(deployment, new, size, &sets.old);
        for (size, set) in sizes.into_iter().zip(&sets.old) {
            self.scale(deployment, set, size).await?;
        }
        Ok(())
    }

    /// Recreate: all old pods are gone before the first new one is made.
    pub(super) async fn recreate(&self, deployment: &Value, sets: &Sets) -> Result<(), Status> {
        for set in &sets.old {
            self.scale(deployment, set, 0).await?;
        }
        match &sets.new {
            Some(new) if !self.old_pods_exist(deployment, sets) => {
                self.scale(deployment, new, replicas(deployment)).await
            }
            _ => Ok(()),
        }
    }

    /// A paused deployment keeps its templates as they are and only follows its size, in the newest set.
    pub(super) async fn resize_paused(&self, deployment: &Value, sets: &Sets) -> Result<(), Status> {
        let active: Vec<_> = sets.all().filter(|set| replicas(set) > 0).collect();
        let only = match active.as_slice() {
            [] => sets.new.as_ref().or(sets.old.last()),
            [one] => Some(*one),
            _ => None,
        };
        match only {
            Some(set) => self.scale(deployment, set, replicas(deployment)).await,
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(replicas: i64, surge: Value, unavailable: Value) -> Value {
        json!({"spec": {"replicas": replicas, "strategy": {"type": "RollingUpdate",
            "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}}})
    }

    #[test]
    fn surge_is_rounded_up_and_unavailable_down() {
        assert_eq!(bounds(&deployment(3, json!("25%"), json!("25%"))), (1, 0));
        assert_eq!(bounds(&deployment(10, json!(2), json!("15%"))), (2, 1));
        assert_eq!(bounds(&deployment(1, json!(0), json!("25%"))), (0, 1));
    }

    #[test]
    fn the_new_set_grows_as_far_as_the_surge_allows() {
        let set = |replicas: i64| Arc::new(json!({"spec": {"replicas": replicas}}));
        let wanted = deployment(10, json!(3), json!(0));
        assert_eq!(new_size(&wanted, &Sets { new: None, old: vec![set(10)] }), 3);
        assert_eq!(new_size(&wanted, &Sets { new: Some(set(3)), old: vec![set(7)] }), 6);
        assert_eq!(new_size(&wanted, &Sets { new: Some(set(12)), old: vec![] }), 10);
        assert_eq!(new_size(&wanted, &Sets::default()), 10);
    }

    #[test]
    fn old_sets_shrink_only_as_far_as_enough_pods_are_available() {
        let set = |replicas: i64, available: i64| {
            Arc::new(json!({"spec": {"replicas": replicas}, "status": {"availableReplicas": available}}))
        };
        let wanted = deployment(4, json!("25%"), json!("25%"));
        let sizes = |new: &Arc<Value>, old: &[Arc<Value>]| old_sizes(&wanted, new, replicas(new), old);
        assert_eq!(sizes(&set(1, 0), &[set(4, 4)]), [3]);
        assert_eq!(sizes(&set(1, 0), &[set(3, 4)]), [3], "the status tells of the pod that is just going");
        assert_eq!(sizes(&set(2, 1), &[set(3, 3)]), [2]);
        assert_eq!(sizes(&set(1, 0), &[set(2, 0), set(2, 2)]), [1, 2], "broken pods first");
        assert_eq!(sizes(&set(4, 4), &[set(1, 1)]), [0]);
    }
}

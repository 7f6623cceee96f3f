//! Defaults of deployments and replica sets.

use serde_json::{Value, json};

use super::{pod, set};

pub(super) fn deployment(object: &mut Value) {
    let spec = &mut object["spec"];
    set(spec, "replicas", json!(1));
    set(spec, "revisionHistoryLimit", json!(10));
    set(spec, "progressDeadlineSeconds", json!(600));
    set(&mut spec["strategy"], "type", json!("RollingUpdate"));
    if spec["strategy"]["type"] == "RollingUpdate" {
        set(&mut spec["strategy"]["rollingUpdate"], "maxUnavailable", json!("25%"));
        set(&mut spec["strategy"]["rollingUpdate"], "maxSurge", json!("25%"));
    }
    template(spec);
}

pub(super) fn replica_set(object: &mut Value) {
    let spec = &mut object["spec"];
    set(spec, "replicas", json!(1));
    template(spec);
}

fn template(spec: &mut Value) {
    if let Some(inner) = spec.pointer_mut("/template/spec") {
        pod::spec(inner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deployment_rolls_by_a_quarter() {
        let mut object = json!({"spec": {"template": {"spec": {"containers": []}}}});
        deployment(&mut object);
        let expected = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}});
        assert_eq!(object["spec"]["strategy"], expected);
        assert_eq!(object["spec"]["replicas"], 1);
        assert_eq!(object["spec"]["template"]["spec"]["restartPolicy"], "Always");
    }
}

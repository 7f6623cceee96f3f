use serde_json::json;

use super::*;
use crate::registry::defaults;
use crate::registry::resource::{CONFIG_MAPS, DEPLOYMENTS, PODS, SERVICES};

fn fields(causes: &[Cause]) -> Vec<(&str, &str)> {
    causes.iter().map(|c| (c.field.as_str(), c.reason)).collect()
}

fn pod() -> Value {
    let mut pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    defaults::apply(&PODS, &mut pod);
    pod
}

#[test]
fn a_good_pod_has_no_faults() {
    assert_eq!(create(&PODS, &pod()), []);
}

#[test]
fn every_fault_of_a_pod_is_told() {
    let mut bad = pod();
    bad["metadata"]["name"] = json!("Not_Valid");
    bad["metadata"]["labels"] = json!({"a": "no spaces"});
    bad["spec"]["restartPolicy"] = json!("Sometimes");
    bad["spec"]["containers"] = json!([
        {"name": "c", "ports": [{"containerPort": 70000}], "volumeMounts": [{"name": "none", "mountPath": "/x"}],
         "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}},
        {"name": "c", "image": "i"}]);
    let found = create(&PODS, &bad);
    let expected = [
        ("metadata.name", "FieldValueInvalid"),
        ("metadata.labels", "FieldValueInvalid"),
        ("spec.restartPolicy", "FieldValueNotSupported"),
        ("spec.containers[0].image", "FieldValueRequired"),
        ("spec.containers[0].ports[0].containerPort", "FieldValueInvalid"),
        ("spec.containers[0].resources.requests", "FieldValueInvalid"),
        ("spec.containers[0].volumeMounts[0].name", "FieldValueNotFound"),
        ("spec.containers[1].name", "FieldValueDuplicate"),
    ];
    assert_eq!(fields(&found), expected);
}

#[test]
fn a_running_pod_may_change_its_image_and_little_else() {
    let old = pod();
    let mut image = pod();
    image["spec"]["containers"][0]["image"] = json!("j");
    image["spec"]["tolerations"] = json!([{"operator": "Exists"}]);
    assert_eq!(update(&PODS, &image, &old), []);
    let mut command = pod();
    command["spec"]["containers"][0]["command"] = json!(["x"]);
    assert_eq!(fields(&update(&PODS, &command, &old)), [("spec", "FieldValueForbidden")]);
}

#[test]
fn a_selector_must_match_its_template_and_stay() {
    let mut deployment = json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "1"}},
        "template": {"metadata": {"labels": {"a": "2"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    defaults::apply(&DEPLOYMENTS, &mut deployment);
    let found = create(&DEPLOYMENTS, &deployment);
    assert_eq!(fields(&found), [("spec.template.metadata.labels", "FieldValueInvalid")]);
    let mut other = deployment.clone();
    other["spec"]["selector"]["matchLabels"]["a"] = json!("2");
    assert_eq!(create(&DEPLOYMENTS, &other), []);
    assert!(fields(&update(&DEPLOYMENTS, &other, &deployment)).contains(&("spec.selector", "FieldValueInvalid")));
}

#[test]
fn an_immutable_config_map_stays_as_it_is() {
    let old = json!({"metadata": {"name": "c"}, "immutable": true, "data": {"a": "1"}});
    let mut new = old.clone();
    new["data"]["a"] = json!("2");
    assert_eq!(fields(&update(&CONFIG_MAPS, &new, &old)), [("data", "FieldValueForbidden")]);
}

#[test]
fn services_need_names_for_several_ports() {
    let mut service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}, {"port": 81, "name": "x"}]}});
    defaults::apply(&SERVICES, &mut service);
    assert_eq!(fields(&create(&SERVICES, &service)), [("spec.ports[0].name", "FieldValueRequired")]);
}

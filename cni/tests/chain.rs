//! Chains with plugins of others, and our plugins as programs.

mod common;

use std::fs;
use std::io::{ErrorKind, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Pod, list_of, on_a_host};
use orlop_cni::{CniResult, Error, NetworkConfigList, VersionInfo};
use serde_json::{Value, json};

const SUBNETS: &[&str] = &["10.88.0.0/24", "fd88::/64"];

/// What differs from run to run by nature.
fn without_addresses_of_hardware(mut result: CniResult) -> CniResult {
    for interface in &mut result.interfaces {
        interface.mac.clear();
        interface.sandbox = interface.sandbox.is_empty().to_string();
    }
    result
}

#[test]
fn executed_and_called_plugins_answer_the_same() {
    for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        on_a_host(move |host| {
            let network = list_of(version, "pods", &[host.bridge("cni0", SUBNETS), host.portmap()]);
            let results = [host.runner(), host.executing_runner()].map(|runner| {
                let pod = Pod::new();
                let mut attachment = pod.attachment("a");
                attachment.args = vec![("IgnoreUnknown".into(), "1".into()), ("K8S_POD_NAME".into(), "p".into())];
                let result = runner.add(&network, &attachment).unwrap();
                match runner.check(&network, &attachment) {
                    Ok(()) => assert_ne!(version, "0.3.1"),
                    Err(e) => assert!(version == "0.3.1" && matches!(e, Error::NotChecked { .. }), "{e}"),
                }
                runner.status(&network).unwrap();
                let cached = runner.cached_result("pods", &attachment.id()).unwrap().unwrap();
                assert_eq!(cached, result);
                runner.del(&network, &attachment).unwrap();
                fs::remove_dir_all(host.data_dir()).unwrap();
                without_addresses_of_hardware(result)
            });
            assert_eq!(results[0], results[1]);
            assert_eq!(results[0].cni_version, version);
            assert_eq!(results[0].ips.len(), 2);
        });
    }
}

#[test]
fn a_plugin_of_somebody_else_in_the_middle() {
    on_a_host(|host| {
        let log = host.dir.path().join("log");
        // Its own result, as a plugin may that changes what came before.
        let own = json!({
            "cniVersion": "1.0.0",
            "ips": [{ "address": "10.88.0.2/24" }, { "address": "fd88::2/64" }],
            "dns": { "domain": "witness.example" },
        });
        host.install_script(
            "witness",
            &format!(
                "#!/bin/sh\ninput=$(cat)\n\
                 echo \"$CNI_COMMAND|$CNI_CONTAINERID|$CNI_IFNAME|$CNI_ARGS|$CNI_NETNS|$input\" >> {}\n\
                 [ $CNI_COMMAND = ADD ] && echo '{own}'\nexit 0\n",
                log.display()
            ),
        );
        let witness = json!({ "type": "witness", "capabilities": { "bandwidth": true } });
        let network = list_of("1.0.0", "pods", &[host.bridge("cni0", SUBNETS), witness, host.portmap()]);
        let pod = Pod::new();
        let mut attachment = pod.attachment("a");
        attachment.args = vec![("K8S_POD_NAME".into(), "p".into())];
        attachment.capabilities.insert("bandwidth".into(), json!({ "ingressRate": 1 }));
        let runner = host.runner();
        let result = runner.add(&network, &attachment).unwrap();
        assert_eq!(result.dns.domain, "witness.example", "the later plugin passes it on");
        assert_eq!(result.ips.len(), 2);
        runner.check(&network, &attachment).unwrap();
        runner.del(&network, &attachment).unwrap();

        let text = fs::read_to_string(log).unwrap();
        let lines: Vec<Vec<&str>> = text.lines().map(|l| l.splitn(6, '|').collect()).collect();
        let commands: Vec<&str> = lines.iter().map(|l| l[0]).collect();
        assert_eq!(commands, ["ADD", "CHECK", "DEL"]);
        for line in &lines {
            assert_eq!(line[1..4], ["a", "eth0", "K8S_POD_NAME=p"]);
            assert_eq!(line[4], pod.path().display().to_string());
            let input: Value = serde_json::from_str(line[5]).unwrap();
            assert_eq!(input["name"], "pods");
            assert_eq!(input["cniVersion"], "1.0.0");
            assert_eq!(input["runtimeConfig"], json!({ "bandwidth": { "ingressRate": 1 } }));
            assert_eq!(input["prevResult"]["ips"].as_array().unwrap().len(), 2);
        }
    });
}

#[test]
fn del_goes_on_after_errors_in_reverse_order() {
    on_a_host(|host| {
        let log = host.dir.path().join("log");
        for name in ["one", "two", "three"] {
            let script = format!(
                "#!/bin/sh\ncat > /dev/null\necho {name} $CNI_COMMAND >> {}\n\
                 [ $CNI_COMMAND = ADD ] && {{ echo '{{\"cniVersion\":\"1.0.0\"}}'; exit 0; }}\n\
                 [ {name} = two ] && [ -e {}/fail ] && {{ echo oops >&2; exit 3; }}\nexit 0\n",
                log.display(),
                host.dir.path().display()
            );
            host.install_script(name, &script);
        }
        let plugins: Vec<Value> = ["one", "two", "three"].iter().map(|n| json!({ "type": n })).collect();
        let network = list_of("1.0.0", "x", &plugins);
        let attachment = Pod::new().attachment("a");
        let runner = host.runner();
        runner.add(&network, &attachment).unwrap();
        fs::write(host.dir.path().join("fail"), "").unwrap();
        let error = runner.del(&network, &attachment).unwrap_err();
        assert!(matches!(&error, Error::BadAnswer { output, .. } if output.contains("oops")), "{error}");
        assert_eq!(host.cached_results(), 1, "kept for the next attempt");
        fs::remove_file(host.dir.path().join("fail")).unwrap();
        runner.del(&network, &attachment).unwrap();
        assert_eq!(host.cached_results(), 0);
        let text = fs::read_to_string(log).unwrap();
        let dels: Vec<&str> = text.lines().filter_map(|l| l.strip_suffix(" DEL")).collect();
        assert_eq!(dels, ["three", "two", "one", "three", "two", "one"]);
    });
}

/// ADD must have ended, with all that it started, when DEL begins.
#[test]
fn a_plugin_that_hangs_is_killed_and_undone() {
    on_a_host(|host| {
        let dir = host.dir.path().display();
        let script = format!(
            "#!/bin/sh\necho $CNI_COMMAND >> {dir}/log\n[ $CNI_COMMAND = ADD ] || exit 0\n\
             sleep 1000 &\necho $! > {dir}/pid\nwait\necho late >> {dir}/log\n"
        );
        host.install_script("hangs", &script);
        let runner = host.runner().with_deadline(Duration::from_secs(1));
        let pod = Pod::new();
        let pid = || fs::read_to_string(host.dir.path().join("pid")).unwrap();
        let is_gone = || {
            let stat = fs::read_to_string(format!("/proc/{}/stat", pid().trim())).unwrap_or_default();
            stat.is_empty() || stat.contains(") Z ")
        };
        let chain =
            list_of("1.0.0", "pods", &[host.bridge("cni0", SUBNETS), json!({ "type": "hangs" }), host.portmap()]);
        let error = runner.add(&chain, &pod.attachment("a")).unwrap_err();
        assert!(matches!(&error, Error::Exec { source, .. } if source.kind() == ErrorKind::TimedOut), "{error}");
        common::wait_until(is_gone);
        assert_eq!(fs::read_to_string(host.dir.path().join("log")).unwrap(), "ADD\nDEL\n");
        assert_eq!((host.links().len(), host.addresses("pods").len(), host.cached_results()), (2, 0, 0));

        // One that another plugin delegates to.
        let mut bridge = host.bridge("cni0", SUBNETS);
        bridge["ipam"] = json!({ "type": "hangs" });
        let error = runner.add(&list_of("1.0.0", "pods", &[bridge]), &pod.attachment("a")).unwrap_err();
        assert!(error.to_string().contains("not done in time"), "{error}");
        common::wait_until(is_gone);
        assert_eq!(host.cached_results(), 0);
    });
}

#[test]
fn what_a_plugin_leaves_running_is_not_waited_for() {
    on_a_host(|host| {
        let dir = host.dir.path().display();
        let script = format!(
            "#!/bin/sh\n[ $CNI_COMMAND = ADD ] || exit 0\nsleep 1000 &\necho $! > {dir}/pid\n\
             head -c 3000000 /dev/zero >&2\necho '{{\"cniVersion\":\"1.0.0\"}}'\n"
        );
        host.install_script("daemon", &script);
        let mut plugin = json!({ "type": "daemon" });
        plugin["big"] = json!("x".repeat(300_000));
        let network = list_of("1.0.0", "x", &[plugin]);
        let attachment = Pod::new().attachment("a");
        host.runner().add(&network, &attachment).unwrap();
        host.runner().del(&network, &attachment).unwrap();
        let pid = fs::read_to_string(host.dir.path().join("pid")).unwrap();
        let pid = nix::unistd::Pid::from_raw(pid.trim().parse().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("it still runs");
    });
}

#[test]
fn a_missing_plugin_and_a_silent_one() {
    on_a_host(|host| {
        let attachment = Pod::new().attachment("a");
        let missing = list_of("1.0.0", "x", &[json!({ "type": "no-such-plugin" })]);
        assert!(matches!(host.runner().status(&missing), Err(Error::PluginNotFound { .. })));
        assert!(host.runner().add(&missing, &attachment).is_err());
        host.install_script("silent", "#!/bin/sh\nexit 0\n");
        let silent = list_of("1.0.0", "x", &[json!({ "type": "silent" })]);
        let error = host.runner().add(&silent, &attachment).unwrap_err();
        assert!(error.to_string().contains("there is no result"), "{error}");
        assert_eq!(host.cached_results(), 0);
    });
}

/// CVE-2021-20206, for what reads files and for what has a configuration already.
#[test]
fn a_type_with_a_path_runs_nothing() {
    on_a_host(|host| {
        let marker = host.dir.path().join("marker");
        host.install_script("evil", &format!("#!/bin/sh\ntouch {}\n", marker.display()));
        let text = r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"../bin/evil"}]}"#;
        fs::create_dir_all(host.dir.path().join("net.d")).unwrap();
        fs::write(host.dir.path().join("net.d/10-evil.conflist"), text).unwrap();
        let loaded = NetworkConfigList::load(&host.dir.path().join("net.d"));
        assert!(matches!(loaded, Err(Error::Config { .. })));
        let mut network = list_of("1.0.0", "n", &[json!({ "type": "evil" })]);
        network.plugins[0].kind = "../bin/evil".to_owned();
        network.plugins[0].raw.insert("type".to_owned(), json!("../bin/evil"));
        let refused = host.runner().add(&network, &Pod::new().attachment("a"));
        assert!(refused.is_err());
        assert!(!marker.exists());
        // The same by address management.
        let mut bridge = host.bridge("cni0", SUBNETS);
        bridge["ipam"] = json!({ "type": "../bin/evil" });
        let refused = host.runner().add(&common::list("pods", &[bridge]), &Pod::new().attachment("a"));
        assert!(refused.is_err());
        assert!(!marker.exists());
    });
}

#[test]
fn the_first_file_of_the_folder_counts() {
    let dir = tempfile::tempdir().unwrap();
    let load = || NetworkConfigList::load(dir.path());
    assert!(matches!(load(), Err(Error::NoConfig { .. })));
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    write("00-readme.txt", "x");
    write("20-b.conflist", r#"{"cniVersion":"1.0.0","name":"b","plugins":[{"type":"x"}]}"#);
    write("10-a.conf", r#"{"cniVersion":"1.0.0","name":"a","type":"x"}"#);
    assert_eq!(load().unwrap().name, "a");
    write("05-bad.conflist", "{");
    let error = load().unwrap_err();
    assert!(error.to_string().contains("05-bad.conflist"), "{error}");
    assert!(matches!(NetworkConfigList::load(&dir.path().join("none")), Err(Error::NoConfig { .. })));
}

fn run_program(host: &common::Host, plugin: &str, environment: &[(&str, &str)], input: &str) -> (bool, Value) {
    host.executing_runner();
    let mut child = Command::new(host.bin().join(plugin))
        .envs(environment.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let answer = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output.status.success(), answer)
}

#[test]
fn programs_say_their_versions_and_their_errors() {
    on_a_host(|host| {
        for plugin in orlop_cni::plugin::TYPES {
            let (success, answer) =
                run_program(host, plugin, &[("CNI_COMMAND", "VERSION")], "{\"cniVersion\":\"1.0.0\"}");
            assert!(success);
            let versions: VersionInfo = serde_json::from_value(answer).unwrap();
            assert!(versions.supported_versions.contains(&"1.0.0".to_owned()));
            assert_eq!(host.executing_runner().version(plugin).unwrap(), versions);

            let (success, answer) = run_program(host, plugin, &[("CNI_COMMAND", "JUMP")], "{}");
            assert!(!success);
            assert_eq!(answer["code"], 4);
            let (_, answer) = run_program(host, plugin, &[("CNI_COMMAND", "ADD")], "{\"cniVersion\":\"7.0.0\"}");
            assert_eq!(answer["code"], 1);
            let (_, answer) = run_program(host, plugin, &[("CNI_COMMAND", "ADD")], "no JSON");
            assert_eq!(answer["code"], 6);
            let environment = [("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", "a"), ("CNI_IFNAME", "eth0")];
            let (_, answer) = run_program(host, plugin, &environment, "{\"cniVersion\":\"1.0.0\",\"name\":\"n\"}");
            assert_eq!(answer["msg"], "CNI_NETNS is needed for ADD");
            assert_eq!(answer["cniVersion"], "1.0.0");
        }
    });
}

#[test]
fn loopback_brings_lo_up() {
    on_a_host(|host| {
        for runner in [host.runner(), host.executing_runner()] {
            let pod = Pod::new();
            let mut attachment = pod.attachment("a");
            attachment.ifname = "lo".to_owned();
            let network = NetworkConfigList::loopback();
            let result = runner.add(&network, &attachment).unwrap();
            assert_eq!(result.ips[0].address.to_string(), "127.0.0.1/8");
            runner.check(&network, &attachment).unwrap();
            pod.run(|| {
                common::serve_on_host("127.0.0.1:80");
                assert_eq!(common::ask(common::ip("127.0.0.1"), 80), "127.0.0.1");
            });
            runner.del(&network, &attachment).unwrap();
        }
    });
}

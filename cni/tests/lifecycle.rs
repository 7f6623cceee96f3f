//! ADD, DEL, CHECK and GC: what they leave, what they find, and what they do when half of it is missing.

mod common;

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{Pod, address, on_a_host, wait_until};
use orlop_cni::netlink::Route;
use orlop_cni::nftables::HostPort;
use orlop_cni::plugin::host_interface_name;
use orlop_cni::{Error, NetworkConfigList, PortMapping, Protocol, remove_network};
use serde_json::json;

const SUBNETS: &[&str] = &["10.88.0.0/24", "fd88::/64"];
const PORT: PortMapping = PortMapping { host_port: 8080, container_port: 80, protocol: Protocol::Tcp, host_ip: None };

fn has_eth0(pod: &Pod) -> bool {
    pod.run(|| Route::open().unwrap().link("eth0").unwrap().is_some())
}

#[test]
fn del_leaves_nothing() {
    for executed in [false, true] {
        on_a_host(move |host| {
            let runner = if executed { host.executing_runner() } else { host.runner() };
            let network = host.pod_network(SUBNETS);
            let pod = Pod::new();
            let mut attachment = pod.attachment("a");
            attachment.set_port_mappings(&[PORT]);
            runner.add(&network, &attachment).unwrap();
            assert_eq!((host.links().len(), host.addresses("pods").len(), host.cached_results()), (3, 2, 1));
            for _ in 0..2 {
                runner.del(&network, &attachment).unwrap();
                assert_eq!(host.links(), ["cni0", "lo"]);
                assert!(host.addresses("pods").is_empty());
                assert_eq!(host.cached_results(), 0);
                assert!(!has_eth0(&pod));
                let table = orlop_cni::nftables::Table::new(&host.table).unwrap();
                assert!(table.ports("pods/a/eth0").unwrap().is_empty());
            }
            remove_network(&network).unwrap();
            remove_network(&network).unwrap();
            assert_eq!(host.links(), ["lo"]);
        });
    }
}

#[test]
fn del_without_namespace_and_cache() {
    on_a_host(|host| {
        let runner = host.runner();
        let network = host.pod_network(SUBNETS);
        let pod = Pod::new();
        let mut attachment = pod.attachment("a");
        attachment.set_port_mappings(&[PORT]);
        runner.add(&network, &attachment).unwrap();
        fs::remove_dir_all(host.dir.path().join("cni")).unwrap();
        attachment.netns = Some("/proc/0/no-such-namespace".into());
        attachment.set_port_mappings(&[]);
        runner.del(&network, &attachment).unwrap();
        assert_eq!(host.links(), ["cni0", "lo"]);
        assert!(host.addresses("pods").is_empty());
        assert!(!has_eth0(&pod));
        let table = orlop_cni::nftables::Table::new(&host.table).unwrap();
        assert!(table.ports("pods/a/eth0").unwrap().is_empty());
        attachment.netns = None;
        runner.del(&network, &attachment).unwrap();
    });
}

#[test]
fn an_address_waits_until_its_namespace_is_gone() {
    on_a_host(|host| {
        let runner = host.runner();
        let network = host.pod_network(&["10.88.0.0/30"]);
        let pod = Pod::new();
        let mut attachment = pod.attachment("a");
        let first = runner.add(&network, &attachment).unwrap();
        attachment.netns_going_away = true;
        runner.del(&network, &attachment).unwrap();
        // The namespace is still there, and so is the interface.
        assert!(has_eth0(&pod));
        assert_eq!(runner.reap(&network).unwrap(), 1);
        let next = Pod::new();
        let refused = runner.add(&network, &next.attachment("b")).unwrap_err().to_string();
        assert!(refused.contains("no IP addresses available in range set: 10.88.0.1-10.88.0.2"), "{refused}");
        drop(pod);
        wait_until(|| runner.reap(&network).unwrap() == 0);
        assert!(host.addresses("pods").is_empty());
        let second = runner.add(&network, &next.attachment("b")).unwrap();
        assert_eq!(address(&first, 0), address(&second, 0));
        assert_eq!(host.links().len(), 3);
    });
}

#[test]
fn add_rolls_back_at_every_step() {
    on_a_host(|host| {
        let runner = host.runner();
        let untouched = |what: &str| {
            assert!(host.links().iter().all(|l| !l.starts_with("veth")), "{what}: {:?}", host.links());
            assert!(host.addresses("pods").is_empty(), "{what}");
            assert_eq!(host.cached_results(), 0, "{what}");
        };
        let pod = Pod::new();
        let mut attachment = pod.attachment("a");
        attachment.set_port_mappings(&[PORT]);

        // No namespace.
        let mut nowhere = attachment.clone();
        nowhere.netns = Some(host.dir.path().join("no-such"));
        let error = runner.add(&host.pod_network(SUBNETS), &nowhere).unwrap_err();
        assert!(error.to_string().contains("no-such: open it: No such file"), "{error}");
        untouched("no namespace");

        // The second range is exhausted.
        let tiny = host.pod_network(&["10.88.0.0/24", "10.99.0.0/30"]);
        let other = Pod::new();
        runner.add(&tiny, &other.attachment("other")).unwrap();
        assert!(runner.add(&tiny, &attachment).is_err());
        runner.del(&tiny, &other.attachment("other")).unwrap();
        untouched("no address");

        // A route that the kernel refuses, after the pair and the addresses were made.
        let mut bridge = host.bridge("cni0", SUBNETS);
        bridge["ipam"]["routes"] = json!([{ "dst": "203.0.113.0/24", "gw": "198.51.100.1" }]);
        let error = runner.add(&common::list("pods", &[bridge]), &attachment).unwrap_err();
        assert!(error.to_string().contains("add route to 203.0.113.0/24 to eth0"), "{error}");
        untouched("bad route");
        assert!(!has_eth0(&pod));

        // A later plugin of the chain.
        host.install_script(
            "fails",
            "#!/bin/sh\n[ $CNI_COMMAND = ADD ] || exit 0\necho '{\"code\":111,\"msg\":\"no\",\"details\":\"because\"}'\nexit 1\n",
        );
        let chain = common::list("pods", &[host.bridge("cni0", SUBNETS), host.portmap(), json!({ "type": "fails" })]);
        let error = runner.add(&chain, &attachment).unwrap_err();
        assert!(matches!(&error, Error::Plugin { code: 111, .. }), "{error}");
        assert_eq!(error.to_string(), "CNI plugin fails: ADD: no: because (code 111)");
        untouched("later plugin");
        assert!(!has_eth0(&pod));
        let table = orlop_cni::nftables::Table::new(&host.table).unwrap();
        assert!(table.ports("pods/a/eth0").unwrap().is_empty());

        // And then it works.
        runner.add(&host.pod_network(SUBNETS), &attachment).unwrap();
    });
}

#[test]
fn an_interface_of_somebody_else_is_left_alone() {
    on_a_host(|host| {
        let runner = host.runner();
        let pod = Pod::new();
        let other = common::list("other", &[host.bridge("other0", &["10.77.0.0/24"])]);
        runner.add(&other, &pod.attachment("a")).unwrap();
        let error = runner.add(&host.pod_network(SUBNETS), &pod.attachment("a")).unwrap_err();
        assert!(error.to_string().contains("exists already"), "{error}");
        assert!(has_eth0(&pod));
        runner.check(&other, &pod.attachment("a")).unwrap();
    });
}

#[test]
fn a_repeated_add_finds_what_the_first_left() {
    on_a_host(|host| {
        let runner = host.runner();
        let network = host.pod_network(SUBNETS);
        let pod = Pod::new();
        let attachment = pod.attachment("a");
        let first = runner.add(&network, &attachment).unwrap();
        let second = runner.add(&network, &attachment).unwrap();
        assert_eq!(first.ips, second.ips);
        assert_eq!(host.links().len(), 3);
        assert_eq!(host.addresses("pods").len(), 2);
        // In a new namespace too, while the host's end of the old one is still there.
        let fresh = Pod::new();
        let third = runner.add(&network, &fresh.attachment("a")).unwrap();
        assert_eq!(first.ips, third.ips);
        assert!(!has_eth0(&pod) && has_eth0(&fresh));
    });
}

#[test]
fn check_finds_what_is_missing() {
    on_a_host(|host| {
        let runner = host.runner();
        let network = host.pod_network(SUBNETS);
        let pod = Pod::new();
        let mut attachment = pod.attachment("a");
        attachment.set_port_mappings(&[PORT]);
        assert!(matches!(runner.check(&network, &attachment), Err(Error::NotChecked { .. })));
        let result = runner.add(&network, &attachment).unwrap();
        runner.check(&network, &attachment).unwrap();

        // An address.
        let gone = result.ips[0].address;
        let change = move |add: bool| {
            let mut route = Route::open().unwrap();
            let eth0 = route.link("eth0").unwrap().unwrap();
            if add {
                route.add_address(&eth0, gone).unwrap();
            } else {
                route.delete_address(&eth0, gone).unwrap();
            }
        };
        pod.run(move || change(false));
        let error = runner.check(&network, &attachment).unwrap_err().to_string();
        assert!(error.contains("it does not have 10.88.0.2/24"), "{error}");
        // The default route went with it.
        pod.run(move || change(true));
        let error = runner.check(&network, &attachment).unwrap_err().to_string();
        assert!(error.contains("the route to 0.0.0.0/0 is missing"), "{error}");

        // The reservation.
        runner.add(&network, &attachment).unwrap();
        fs::remove_file(host.data_dir().join("pods/10.88.0.2")).unwrap();
        let error = runner.check(&network, &attachment).unwrap_err().to_string();
        assert!(error.contains("the reservation of 10.88.0.2"), "{error}");

        // The interface.
        runner.add(&network, &attachment).unwrap();
        let name = host_interface_name("pods", "a", "eth0");
        Route::open().unwrap().delete_link(&name).unwrap();
        let error = runner.check(&network, &attachment).unwrap_err().to_string();
        assert!(error.contains(&format!("interface {name} is not as it was made")), "{error}");
    });
}

#[test]
fn gc_removes_what_no_attachment_claims() {
    on_a_host(|host| {
        let runner = host.runner();
        let network = host.pod_network(SUBNETS);
        let pods = [Pod::new(), Pod::new(), Pod::new()];
        let attachments: Vec<_> = pods
            .iter()
            .enumerate()
            .map(|(i, pod)| {
                let mut attachment = pod.attachment(&format!("c{i}"));
                attachment.set_port_mappings(&[PortMapping { host_port: 8080 + i as u16, ..PORT }]);
                runner.add(&network, &attachment).unwrap();
                attachment
            })
            .collect();
        // The record of one is lost, and its namespace lives.
        fs::remove_file(host.dir.path().join("cni/results/pods-c0-eth0")).unwrap();
        // On the same bridge, but not of this network.
        let other = Pod::new();
        let neighbours = common::list("other", &[host.bridge("cni0", &["10.77.0.0/24"])]);
        runner.add(&neighbours, &other.attachment("o")).unwrap();
        runner.gc(&network, &[attachments[2].id(), other.attachment("o").id()]).unwrap();
        assert_eq!(host.links().len(), 4);
        runner.check(&neighbours, &other.attachment("o")).unwrap();
        assert_eq!(host.addresses("pods").len(), 2);
        assert_eq!(host.cached_results(), 2);
        let table = orlop_cni::nftables::Table::new(&host.table).unwrap();
        assert!(table.ports("pods/c0/eth0").unwrap().is_empty());
        assert_eq!(table.ports("pods/c2/eth0").unwrap().len(), 2);
        runner.check(&network, &attachments[2]).unwrap();
    });
}

/// The configuration's name changes, or it goes away, while containers are attached.
#[test]
fn a_renamed_network_leaves_nothing() {
    on_a_host(|host| {
        let runner = host.runner();
        let list = |name: &str| common::list(name, &[host.bridge("cni0", SUBNETS), host.portmap()]);
        let (old, new) = (list("old"), list("new"));
        let pods = [Pod::new(), Pod::new(), Pod::new(), Pod::new()];
        let attachments: Vec<_> = pods
            .iter()
            .zip(["a", "b", "c", "d"])
            .map(|(pod, id)| {
                let mut attachment = pod.attachment(id);
                let host_port = 8080 + u16::from(id.as_bytes()[0]);
                attachment.set_port_mappings(&[PortMapping { host_port, ..PORT }]);
                runner.add(&old, &attachment).unwrap();
                attachment
            })
            .collect();
        let left = |id: &str| {
            let table = orlop_cni::nftables::Table::new(&host.table).unwrap();
            table.ports(&format!("old/{id}/eth0")).unwrap().len()
        };
        assert_eq!((host.addresses("old").len(), left("a")), (8, 2));
        runner.del(&new, &attachments[0]).unwrap();
        assert_eq!((host.addresses("old").len(), left("a")), (6, 0));
        runner.del(None, &attachments[1]).unwrap();
        assert_eq!((host.addresses("old").len(), left("b")), (4, 0));
        runner.gc(&new, &[attachments[3].id()]).unwrap();
        assert_eq!((host.addresses("old").len(), left("c"), left("d")), (2, 0, 2));
        runner.check(&old, &attachments[3]).unwrap();
        runner.gc(None, &[]).unwrap();
        assert_eq!((host.links(), host.addresses("old").len()), (vec!["cni0".to_owned(), "lo".to_owned()], 0));
        assert_eq!(host.cached_results(), 0);
    });
}

/// A batch is carried out as a whole or not at all.
#[test]
fn ports_are_removed_though_another_removal_comes_in_between() {
    on_a_host(|host| {
        let table = orlop_cni::nftables::Table::new(&host.table).unwrap();
        let port = |host_port| HostPort {
            host_ip: None,
            host_port,
            protocol: Protocol::Tcp,
            container_ip: common::ip("10.88.0.2"),
            container_port: 80,
        };
        let subnets = ["10.88.0.0/24".parse().unwrap()];
        table.map_ports("n/a/eth0", &[port(1)], &subnets).unwrap();
        table.map_ports("n/b/eth0", &[port(2)], &subnets).unwrap();
        let is_first = AtomicBool::new(true);
        let removed = table.unmap_ports_if(|_| {
            if is_first.swap(false, Ordering::Relaxed) {
                let unmap = || table.unmap_ports("n/a/eth0").unwrap();
                std::thread::scope(|scope| scope.spawn(unmap).join().unwrap());
            }
            true
        });
        assert_eq!(removed.unwrap(), [port(2)]);
        assert!(table.ports("n/b/eth0").unwrap().is_empty());
    });
}

#[test]
fn a_bridge_with_containers_is_not_removed() {
    on_a_host(|host| {
        let network = host.pod_network(SUBNETS);
        let pod = Pod::new();
        host.runner().add(&network, &pod.attachment("a")).unwrap();
        let error = remove_network(&network).unwrap_err().to_string();
        assert!(error.contains("1 ports are still on it"), "{error}");
        assert!(host.links().contains(&"cni0".to_owned()));
    });
}

#[test]
fn the_hosts_own_namespace_is_refused() {
    on_a_host(|host| {
        let mut attachment = Pod::new().attachment("a");
        attachment.netns = Some(format!("/proc/{}/task/{}/ns/net", std::process::id(), nix::unistd::gettid()).into());
        let error = host.runner().add(&host.pod_network(SUBNETS), &attachment).unwrap_err().to_string();
        assert!(error.contains("is the host's own namespace"), "{error}");
    });
}

#[test]
fn what_the_plugins_do_not_do_is_refused() {
    on_a_host(|host| {
        let pod = Pod::new();
        for (key, value) in [("vlan", json!(7)), ("macspoofchk", json!(true)), ("ipMasqBackend", json!("iptables"))] {
            let mut bridge = host.bridge("cni0", SUBNETS);
            bridge[key] = value;
            let error = host.runner().add(&common::list("pods", &[bridge]), &pod.attachment("a")).unwrap_err();
            assert!(matches!(&error, Error::Plugin { code: 2, msg, .. } if msg.contains(key)), "{error}");
        }
        let mut portmap = host.portmap();
        portmap["snat"] = json!(false);
        let chain: NetworkConfigList = common::list("pods", &[host.bridge("cni0", SUBNETS), portmap]);
        assert!(host.runner().add(&chain, &pod.attachment("a")).is_err());
        assert_eq!(host.links(), ["cni0", "lo"]);
    });
}

#[test]
fn many_at_once_on_a_fresh_host() {
    on_a_host(|host| {
        let network = host.pod_network(SUBNETS);
        let pods: Vec<Pod> = (0..16).map(|_| Pod::new()).collect();
        let results: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = pods
                .iter()
                .enumerate()
                .map(|(i, pod)| {
                    let (runner, network) = (host.runner(), &network);
                    scope.spawn(move || {
                        let mut attachment = pod.attachment(&format!("c{i}"));
                        attachment.set_port_mappings(&[PortMapping { host_port: 8080 + i as u16, ..PORT }]);
                        runner.add(network, &attachment).unwrap()
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        for (i, (pod, result)) in pods.iter().zip(&results).enumerate() {
            pod.serve(80);
            common::ask(common::ip("127.0.0.1"), 8080 + i as u16);
            let before = &results[(i + 1) % results.len()];
            assert_ne!(before.ips, result.ips);
        }
        std::thread::scope(|scope| {
            for (i, pod) in pods.iter().enumerate() {
                let (runner, network) = (host.runner(), &network);
                scope.spawn(move || runner.del(network, &pod.attachment(&format!("c{i}"))).unwrap());
            }
        });
        assert_eq!(host.links(), ["cni0", "lo"]);
        assert!(host.addresses("pods").is_empty());
        assert_eq!(host.cached_results(), 0);
    });
}

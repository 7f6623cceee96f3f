//! What the plugins are for: packets that arrive, and packets that must not.

mod common;

use common::{
    Pod, address, ask, ask_udp, can_connect, connect_and_count_resent, ip, on_a_host, serve_on_host, wait_until,
};
use orlop_cni::netlink::Route;
use orlop_cni::{PortMapping, Protocol, Runner, remove_node_rules};
use serde_json::json;

const DUAL: &[&str] = &["10.88.0.0/24", "fd88::/64"];

fn port(host_port: u16, container_port: u16) -> PortMapping {
    PortMapping { host_port, container_port, protocol: Protocol::Tcp, host_ip: None }
}

#[test]
fn pods_reach_each_other_and_their_gateway() {
    on_a_host(|host| {
        let (a, b) = (Pod::new(), Pod::new());
        let network = host.pod_network(DUAL);
        let runner = host.runner();
        let result_a = runner.add(&network, &a.attachment("a")).unwrap();
        let result_b = runner.add(&network, &b.attachment("b")).unwrap();
        b.serve(80);
        for family in [0, 1] {
            assert_eq!(a.ask(address(&result_b, family), 80), address(&result_a, family).to_string());
            assert_eq!(
                ask(address(&result_b, family), 80),
                result_b.ips[family].gateway.unwrap().to_string(),
                "from the host"
            );
        }
        serve_on_host("[::]:81");
        for family in [0, 1] {
            let gateway = result_a.ips[family].gateway.unwrap();
            assert_eq!(a.ask(gateway, 81), address(&result_a, family).to_string());
        }
    });
}

#[test]
fn one_family_or_both_in_either_order() {
    for subnets in [&["10.88.0.0/24"][..], &["fd88::/64"], &["fd88::/64", "10.88.0.0/24"]] {
        on_a_host(move |host| {
            let (neighbour, _) = host.neighbour();
            neighbour.serve(80);
            let pod = Pod::new();
            let mut attachment = pod.attachment("a");
            attachment.set_port_mappings(&[port(8080, 80)]);
            let network = host.pod_network(subnets);
            let result = host.runner().add(&network, &attachment).unwrap();
            pod.serve(80);
            assert_eq!(result.ips.len(), subnets.len());
            for ip_config in &result.ips {
                assert!(ip_config.address.addr().is_ipv4() == subnets[0].contains('.') || subnets.len() == 2);
                let (host_ip, outside) = if ip_config.address.addr().is_ipv4() {
                    ("192.0.2.1", "192.0.2.2")
                } else {
                    ("2001:db8::1", "2001:db8::2")
                };
                assert_eq!(pod.ask(ip(outside), 80), host_ip);
                assert_eq!(neighbour.ask(ip(host_ip), 8080), outside);
            }
            host.runner().check(&network, &attachment).unwrap();
        });
    }
}

#[test]
fn the_first_packet_of_every_pod_arrives_at_once() {
    on_a_host(|host| {
        let network = host.pod_network(DUAL);
        let runner = host.runner();
        serve_on_host("[::]:81");
        for i in 0..40 {
            let pod = Pod::new();
            let attachment = pod.attachment(&format!("c{i}"));
            let result = runner.add(&network, &attachment).unwrap();
            for ip_config in &result.ips {
                let gateway = ip_config.gateway.unwrap();
                assert_eq!(pod.run(move || connect_and_count_resent(gateway, 81)), 0, "container {i} to {gateway}");
            }
        }
    });
}

#[test]
fn what_leaves_the_pod_network_is_masqueraded() {
    on_a_host(|host| {
        let (neighbour, outside) = host.neighbour();
        neighbour.serve(80);
        let pod = Pod::new();
        host.runner().add(&host.pod_network(DUAL), &pod.attachment("a")).unwrap();
        assert_eq!(pod.ask(outside, 80), "192.0.2.1");
        assert_eq!(pod.ask(ip("2001:db8::2"), 80), "2001:db8::1");
    });
}

#[test]
fn host_ports_work_from_everywhere() {
    on_a_host(|host| {
        let (neighbour, _) = host.neighbour();
        let (pod, other) = (Pod::new(), Pod::new());
        let network = host.pod_network(DUAL);
        let runner = host.runner();
        let mut attachment = pod.attachment("a");
        let udp = PortMapping { protocol: Protocol::Udp, ..port(5353, 53) };
        attachment.set_port_mappings(&[port(8080, 80), udp]);
        let result = runner.add(&network, &attachment).unwrap();
        let result_other = runner.add(&network, &other.attachment("b")).unwrap();
        pod.serve(80);
        pod.serve_udp(53);

        assert_eq!(neighbour.ask(ip("192.0.2.1"), 8080), "192.0.2.2", "the client's address is kept");
        assert_eq!(neighbour.ask(ip("2001:db8::1"), 8080), "2001:db8::2");
        assert_eq!(neighbour.run(|| ask_udp(ip("192.0.2.1"), 5353)), "192.0.2.2");
        // From the host itself, by its address and by localhost.
        ask(ip("192.0.2.1"), 8080);
        assert_eq!(ask(ip("127.0.0.1"), 8080), "10.88.0.1");
        ask(ip("2001:db8::1"), 8080);
        // From the pod itself, and from one beside it.
        assert_eq!(pod.ask(ip("192.0.2.1"), 8080), "10.88.0.1");
        assert_eq!(other.ask(ip("192.0.2.1"), 8080), "10.88.0.1");
        assert_eq!(other.ask(ip("2001:db8::1"), 8080), "fd88::1");
        // The pods' own connections are not touched.
        assert_eq!(other.ask(address(&result, 0), 80), address(&result_other, 0).to_string());

        runner.del(&network, &attachment).unwrap();
        assert!(!can_connect(ip("127.0.0.1"), 8080));
    });
}

/// A datagram flow that goes on from the same port is a connection to the kernel, which keeps leading to where
/// it led first.
#[test]
fn a_udp_flow_follows_its_host_port_to_the_next_pod() {
    on_a_host(|host| {
        let (neighbour, _) = host.neighbour();
        let client = neighbour.run(|| {
            let socket = std::net::UdpSocket::bind("0.0.0.0:4000").unwrap();
            socket.set_read_timeout(Some(common::REFUSED_AFTER)).unwrap();
            socket
        });
        let answered = || {
            client.send_to(b"?", ("192.0.2.1", 5353)).unwrap();
            client.recv(&mut [0; 64]).is_ok()
        };
        let network = host.pod_network(DUAL);
        let runner = host.runner();
        assert!(!answered(), "nobody is there, and yet it is a flow");
        for id in ["a", "b"] {
            let pod = Pod::new();
            let mut attachment = pod.attachment(id);
            attachment.set_port_mappings(&[PortMapping { protocol: Protocol::Udp, ..port(5353, 53) }]);
            runner.add(&network, &attachment).unwrap();
            pod.serve_udp(53);
            wait_until(answered);
            runner.del(&network, &attachment).unwrap();
            assert!(!answered(), "{id} is gone");
        }
    });
}

/// CVE-2025-67499.
#[test]
fn a_host_port_does_not_catch_what_is_for_other_hosts() {
    on_a_host(|host| {
        let (neighbour, outside) = host.neighbour();
        neighbour.serve(53);
        let pod = Pod::new();
        let mut attachment = pod.attachment("a");
        attachment.set_port_mappings(&[port(53, 53)]);
        let network = host.pod_network(DUAL);
        host.runner().add(&network, &attachment).unwrap();
        // The pod does not listen: only the neighbour can answer.
        assert_eq!(pod.ask(outside, 53), "192.0.2.1");
        assert_eq!(ask(outside, 53), "192.0.2.1");
    });
}

#[test]
fn a_host_port_with_an_address_listens_on_it_alone() {
    on_a_host(|host| {
        let (neighbour, _) = host.neighbour();
        let pod = Pod::new();
        let mut attachment = pod.attachment("a");
        attachment.set_port_mappings(&[PortMapping { host_ip: Some(ip("192.0.2.1")), ..port(8080, 80) }]);
        host.runner().add(&host.pod_network(DUAL), &attachment).unwrap();
        pod.serve(80);
        assert_eq!(neighbour.ask(ip("192.0.2.1"), 8080), "192.0.2.2");
        assert_eq!(pod.ask(ip("192.0.2.1"), 8080), "10.88.0.1", "hairpin");
        assert!(!can_connect(ip("127.0.0.1"), 8080));
        assert!(!neighbour.run(|| can_connect(ip("2001:db8::1"), 8080)));
    });
}

#[test]
fn a_taken_host_port_is_refused_and_nothing_is_left() {
    on_a_host(|host| {
        let (a, b) = (Pod::new(), Pod::new());
        let network = host.pod_network(DUAL);
        let runner = host.runner();
        let mut first = a.attachment("a");
        first.set_port_mappings(&[port(8080, 80)]);
        runner.add(&network, &first).unwrap();
        let before = (host.links(), host.addresses("pods"));
        let mut second = b.attachment("b");
        second.set_port_mappings(&[port(8081, 80), port(8080, 80)]);
        let error = runner.add(&network, &second).unwrap_err().to_string();
        assert!(error.contains("host port 8080/tcp is mapped already, for pods/a/eth0"), "{error}");
        assert_eq!((host.links(), host.addresses("pods")), before);
        b.run(|| assert!(Route::open().unwrap().link("eth0").unwrap().is_none()));
        // A repeated ADD of the owner is no conflict.
        first.set_port_mappings(&[port(8080, 80), port(8082, 80)]);
        runner.add(&network, &first).unwrap();
        a.serve(80);
        ask(ip("127.0.0.1"), 8082);
        assert!(!can_connect(ip("127.0.0.1"), 8081));
    });
}

/// CVE-2020-8558: route_localnet is set for the hostPorts, and yet what listens on the host's 127.0.0.1 is
/// out of the pods' reach.
#[test]
fn localhost_of_the_host_stays_out_of_reach() {
    on_a_host(|host| {
        serve_on_host("127.0.0.1:10248");
        let pod = Pod::new();
        let mut attachment = pod.attachment("a");
        attachment.set_port_mappings(&[port(8080, 80)]);
        host.runner().add(&host.pod_network(DUAL), &attachment).unwrap();
        // A pod with CAP_NET_ADMIN sends to 127.0.0.1 over its interface.
        pod.run(|| {
            std::fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1").unwrap();
            let mut route = Route::open().unwrap();
            let eth0 = route.link("eth0").unwrap().unwrap();
            let loopback = orlop_cni::Route {
                dst: "127.0.0.0/8".parse().unwrap(),
                gw: Some(ip("10.88.0.1")),
                mtu: None,
                priority: None,
            };
            route.configure(eth0.index, "eth0", &[], &[loopback]).unwrap();
        });
        let reach = || can_connect(ip("127.0.0.1"), 10248);
        assert!(!pod.run(reach));
        // Without the guard it would arrive: the test can fail.
        remove_node_rules(&host.table).unwrap();
        assert!(pod.run(reach));
    });
}

#[test]
fn rules_that_somebody_flushed_come_back() {
    on_a_host(|host| {
        let (neighbour, outside) = host.neighbour();
        neighbour.serve(80);
        let (a, b) = (Pod::new(), Pod::new());
        let network = host.pod_network(DUAL);
        let runner: Runner = host.runner();
        let mut attachment = a.attachment("a");
        attachment.set_port_mappings(&[port(8080, 80)]);
        runner.add(&network, &attachment).unwrap();
        runner.check(&network, &attachment).unwrap();
        remove_node_rules(&host.table).unwrap();
        assert!(runner.check(&network, &attachment).is_err());
        runner.add(&network, &b.attachment("b")).unwrap();
        assert_eq!(a.ask(outside, 80), "192.0.2.1");
        // DEL after the flush has nothing to remove.
        remove_node_rules(&host.table).unwrap();
        runner.del(&network, &attachment).unwrap();
    });
}

#[test]
fn a_pod_cannot_announce_itself_as_a_router() {
    on_a_host(|host| {
        let pod = Pod::new();
        host.runner().add(&host.pod_network(DUAL), &pod.attachment("a")).unwrap();
        let accepts = |name: &str| {
            let path = format!("/proc/sys/net/ipv6/conf/{name}/accept_ra");
            std::fs::read_to_string(path).unwrap().trim().to_owned()
        };
        assert_eq!(accepts("cni0"), "0");
        assert_eq!(pod.run(move || accepts("eth0")), "0");
    });
}

#[test]
fn mac_mtu_and_requested_address() {
    on_a_host(|host| {
        let pod = Pod::new();
        let mut bridge = host.bridge("cni0", &["10.88.0.0/24"]);
        bridge["mtu"] = json!(1400);
        bridge["hairpinMode"] = json!(true);
        bridge["capabilities"] = json!({ "mac": true, "ips": true });
        let network = common::list_of("1.1.0", "pods", &[bridge]);
        let mut attachment = pod.attachment("a");
        attachment.capabilities.insert("mac".into(), json!("02:11:22:33:44:55"));
        attachment.capabilities.insert("ips".into(), json!(["10.88.0.77/24"]));
        let result = host.runner().add(&network, &attachment).unwrap();
        assert_eq!(result.ips[0].address.to_string(), "10.88.0.77/24");
        assert_eq!(result.interfaces[2].mac, "02:11:22:33:44:55");
        assert_eq!(result.interfaces[2].mtu, Some(1400));
        host.runner().check(&network, &attachment).unwrap();
        let port = Route::open().unwrap().link(&result.interfaces[1].name).unwrap().unwrap();
        assert!(port.hairpin());
    });
}

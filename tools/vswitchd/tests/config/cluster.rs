//! What `[cluster]` comes to.

use vswitchd::config::{Cluster, MAX_ENDPOINTS, Mode, Network, NetworkOptions, diff};

use super::{first_lines, valid};

const TUNNEL: &str = "[vxlan]\nlocal = \"198.18.1.1\"\n";

#[test]
fn end_points_are_enough() {
    let config = valid(&format!("{TUNNEL}[cluster]\netcd = [\"http://127.0.0.1:2379/\"]\n"));
    let cluster = config.cluster.unwrap();
    assert_eq!(cluster, Cluster::new(vec!["http://127.0.0.1:2379".into()]));
    assert_eq!((cluster.prefix.as_str(), cluster.ttl, cluster.name), ("/vswitch", 10, None));
    assert_eq!(valid(TUNNEL).cluster, None);
}

#[test]
fn all_that_can_be_said_is_kept_and_shown() {
    let text = format!(
        "{TUNNEL}[cluster]\netcd = [\"https://etcd-1.lab:2379\", \"https://[fd00::2]:2379\"]\nprefix = \"/lab/one\"\n\
         ca = \"/etc/ca.pem\"\ncert = \"/etc/cert.pem\"\nkey = \"/etc/key.pem\"\nuser = \"switch\"\n\
         password_file = \"/etc/password\"\nttl = 30\nname = \"host-1\"\n"
    );
    let config = valid(&text);
    let wanted = Cluster {
        mode: Mode::Native,
        etcd: vec!["https://etcd-1.lab:2379".into(), "https://[fd00::2]:2379".into()],
        prefix: "/lab/one".into(),
        ca: Some("/etc/ca.pem".into()),
        cert: Some("/etc/cert.pem".into()),
        key: Some("/etc/key.pem".into()),
        user: Some("switch".into()),
        password_file: Some("/etc/password".into()),
        ttl: 30,
        name: Some("host-1".into()),
    };
    assert_eq!(config.cluster.as_ref(), Some(&wanted));
    let shown = serde_json::to_value(&config).unwrap();
    assert_eq!(
        (&shown["cluster"]["etcd"][1], &shown["cluster"]["ca"]),
        (&"https://[fd00::2]:2379".into(), &"/etc/ca.pem".into())
    );

    let other = valid(&text.replace("ttl = 30", "ttl = 31"));
    assert!(diff(&config, &other).cluster && !diff(&config, &config).cluster);
    assert!(diff(&config, &valid(TUNNEL)).cluster);
}

#[test]
fn there_is_a_limit_of_end_points() {
    let text = |count: usize| {
        let all: Vec<String> = (1..=count).map(|n| format!("\"http://10.0.0.{n}:2379\"")).collect();
        format!("{TUNNEL}[cluster]\netcd = [{}]\n", all.join(", "))
    };
    assert_eq!(valid(&text(MAX_ENDPOINTS)).cluster.unwrap().etcd.len(), MAX_ENDPOINTS);
    let lines = first_lines(&text(MAX_ENDPOINTS + 3));
    assert_eq!(lines, ["lab.toml:4:400: error: more than 16 end points: one daemon serves at most 16"]);
}

#[test]
fn flannel_has_its_own_defaults() {
    let network = "[[network]]\nname = \"pods\"\nsubnet = \"10.5.20.0/24\"\nvni = 1\n";
    let text =
        format!("{TUNNEL}[cluster]\netcd = [\"http://127.0.0.1:2379\"]\nmode = \"flannel\"\n{network}");
    let config = valid(&text);
    let cluster = config.cluster.as_ref().unwrap();
    assert_eq!(*cluster, Cluster::of(Mode::Flannel, vec!["http://127.0.0.1:2379".into()]));
    assert_eq!((cluster.prefix.as_str(), cluster.ttl), ("/coreos.com/network", 86_400));
    let vxlan = config.vxlan.as_ref().unwrap();
    assert_eq!((vxlan.port, vxlan.learning), (8472, false));
    let part = config.flannel().unwrap();
    assert_eq!(
        (part.vni, part.subnet.to_string(), part.mac.to_string()),
        (1, "10.5.20.0/24".into(), "02:42:0a:05:14:01".into())
    );
    let named = valid(&text.replace("[cluster]", "port = 4789\n[cluster]"));
    assert_eq!(named.vxlan.unwrap().port, 4789);
    // No second one at run time, either.
    let mut config = config;
    let options = NetworkOptions { vni: Some(2), ..NetworkOptions::default() };
    let refused = config.add_network(Network::new_checked("more", &options).unwrap()).unwrap_err();
    assert!(refused.to_string().contains("flannel has one network"), "{refused}");
    assert_eq!(valid(TUNNEL).flannel().map(|part| part.vni), None);
}

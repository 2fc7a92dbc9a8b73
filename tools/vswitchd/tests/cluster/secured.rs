//! etcd that asks who one is.

use std::fs;

use etcd_client::{Permission, PermissionType};
use vswitchd::cluster::State;

use super::etcd::{Etcd, random};
use super::host::{Host, connected, says, settings};
use super::tls;

#[tokio::test]
async fn with_a_user_and_a_password() {
    let Some(mut etcd) = Etcd::start().await else { return };
    let mut client = etcd.client().await;
    client.role_add("root").await.unwrap();
    client.user_add("root", "rootpw", None).await.unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    client.role_add("vswitch").await.unwrap();
    let permission = Permission::new(PermissionType::Readwrite, "/vswitch/").with_prefix();
    client.role_grant_permission("vswitch", permission).await.unwrap();
    client.user_add("switch", "s3cret word", None).await.unwrap();
    client.user_grant_role("switch", "vswitch").await.unwrap();
    client.auth_enable().await.unwrap();

    let file = etcd.folder().join("password");
    fs::write(&file, "wrong\n").unwrap();
    let settings = |n: u8| {
        let mut settings = settings(&etcd.endpoint(), &format!("h{n}"));
        settings.user = Some("switch".into());
        settings.password_file = Some(file.clone());
        settings
    };
    let mut one = Host::with(settings(1), says(1, 3));
    let refused = |view: &vswitchd::cluster::View| matches!(&view.state, State::Never { why } if why.contains("authentication failed"));
    one.sees("a refusal", |view| refused(view)).await;
    // The file is read again at each attempt.
    fs::write(&file, "s3cret word\n").unwrap();
    one.sees("etcd", |view| connected(view)).await;
    let mut two = Host::with(settings(2), says(2, 5));
    one.sees_members(5).await;
    two.sees_members(3).await;

    // What etcd gave out for the password is nothing to it after a restart.
    etcd.kill();
    one.sees("the loss", |view| !connected(view)).await;
    etcd.spawn();
    etcd.client_with(Some(("root", "rootpw")), None).await;
    one.sees("etcd", |view| connected(view)).await;
    let ip = "10.1.0.9".parse().unwrap();
    assert_eq!(one.claim(ip, "web").await, vswitchd::cluster::Claimed::Granted);
    two.sees("the claim", |view| view.addresses.len() == 1).await;
    assert!(!format!("{:?}", one.view.borrow()).contains("s3cret"));
}

#[tokio::test]
async fn with_certificates() {
    let folder = std::env::temp_dir().join(format!("vswitch-certs-{:08x}", random()));
    fs::create_dir(&folder).unwrap();
    let certs = tls::make(&folder);
    let Some(mut etcd) = Etcd::with_tls(&certs) else { return };
    etcd.spawn();
    let mut with = settings(&etcd.endpoint(), "h1");
    with.ca = Some(certs.ca.clone());
    (with.cert, with.key) = (Some(certs.client.0.clone()), Some(certs.client.1.clone()));
    let mut one = Host::with(with.clone(), says(1, 3));
    one.sees("etcd", |view| connected(view)).await;
    with.name = Some("h2".into());
    let mut two = Host::with(with, says(2, 5));
    one.sees_members(5).await;
    two.sees_members(3).await;

    // Who shows no certificate is not let in; whose CA is not known is not believed; a file that is not there is named.
    let mut without = settings(&etcd.endpoint(), "h3");
    without.ca = Some(certs.ca.clone());
    let why = refusal(without.clone()).await;
    // TLS 1.3: the refusal comes when our end believes to be through already.
    assert!(why.contains("closed") || why.to_lowercase().contains("certificate"), "{why}");
    without.ca = None;
    let why = refusal(without.clone()).await;
    assert!(why.contains("UnknownIssuer"), "{why}");
    without.ca = Some("/nowhere/ca.pem".into());
    let why = refusal(without).await;
    assert!(why.contains("/nowhere/ca.pem: No such file"), "{why}");
    fs::remove_dir_all(folder).unwrap();
}

async fn refusal(settings: vswitchd::cluster::Settings) -> String {
    let mut host = Host::with(settings, says(3, 0));
    let failed = |view: &std::sync::Arc<vswitchd::cluster::View>| view.counters.failed > 0;
    let view = host.sees("a failure", failed).await;
    let State::Never { why } = &view.state else { panic!("{view:?}") };
    why.clone()
}

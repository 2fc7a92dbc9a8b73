//! An etcd of a test's own: on loopback, in a folder of its own, gone with the test.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use etcd_client::{Client, ConnectOptions, TlsOptions};

/// How long anything is waited for.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct Etcd {
    folder: PathBuf,
    ports: (u16, u16),
    extra: Vec<String>,
    scheme: &'static str,
    child: Option<Child>,
}

/// A port that nobody has at this moment.
fn port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

pub fn random() -> u32 {
    let mut bytes = [0; 4];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).unwrap();
    u32::from_ne_bytes(bytes)
}

impl Etcd {
    /// Starts one; `None`: there is no etcd here, and it was said.
    pub async fn start() -> Option<Self> {
        let mut etcd = Self::prepare()?;
        etcd.run().await;
        Some(etcd)
    }

    /// One that speaks TLS only, to whom this CA has signed for; see [`super::tls`].
    pub fn with_tls(certs: &super::tls::Certs) -> Option<Self> {
        let mut etcd = Self::prepare()?;
        etcd.scheme = "https";
        let word = |name: &str, path: &Path| format!("--{name}={}", path.display());
        etcd.extra = vec![
            word("cert-file", &certs.server.0),
            word("key-file", &certs.server.1),
            word("trusted-ca-file", &certs.ca),
            "--client-cert-auth".into(),
        ];
        Some(etcd)
    }

    fn prepare() -> Option<Self> {
        if Command::new("etcd").arg("--version").stdout(Stdio::null()).status().is_err() {
            let why = "there is no etcd (Debian: etcd-server)";
            eprintln!("skipped: {why}");
            assert!(std::env::var_os("CI").is_none(), "skipped where it must run: {why}");
            return None;
        }
        let folder = std::env::temp_dir().join(format!("vswitch-etcd-{:08x}", random()));
        fs::create_dir(&folder).unwrap();
        Some(Self { folder, ports: (port(), port()), extra: Vec::new(), scheme: "http", child: None })
    }

    /// Where clients find it.
    pub fn endpoint(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.ports.0)
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Starts it, with the data that it has.
    pub async fn run(&mut self) {
        self.spawn();
        if self.scheme == "http" {
            self.client().await;
        }
    }

    pub fn spawn(&mut self) {
        let (client, peer) = (self.endpoint(), format!("http://127.0.0.1:{}", self.ports.1));
        let log = fs::File::options().create(true).append(true).open(self.folder.join("log")).unwrap();
        let words = [
            format!("--data-dir={}", self.folder.join("data").display()),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=default={peer}"),
            // Elections and leases as short as one machine allows.
            "--heartbeat-interval=50".into(),
            "--election-timeout=500".into(),
            "--logger=zap".into(),
        ];
        let child = Command::new("etcd")
            .args(words)
            .args(&self.extra)
            .env_remove("ETCD_UNSUPPORTED_ARCH")
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Everything it knew is gone; it must not run.
    pub fn empty(&self) {
        fs::remove_dir_all(self.folder.join("data")).unwrap();
    }

    /// A client for whatever a test does to the store.
    pub async fn client(&self) -> Client {
        self.client_with(None, None).await
    }

    pub async fn client_with(&self, user: Option<(&str, &str)>, tls: Option<TlsOptions>) -> Client {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut options = ConnectOptions::new();
            if let Some((user, password)) = user {
                options = options.with_user(user, password);
            }
            if let Some(tls) = &tls {
                options = options.with_tls(tls.clone());
            }
            let reached = async {
                let mut client = Client::connect([self.endpoint()], Some(options)).await?;
                client.get("/", None).await.map(|_| client)
            };
            let why = match tokio::time::timeout(Duration::from_secs(2), reached).await {
                Ok(Ok(client)) => return client,
                Ok(Err(why)) => why.to_string(),
                Err(why) => why.to_string(),
            };
            let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "etcd does not answer: {why}\n{log}");
            tokio::time::sleep(Duration::from_millis(20)).await; // the pace of looking
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

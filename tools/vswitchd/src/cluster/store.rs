//! etcd, as far as it is used here. Every call ends: with an answer, a failure, or after [`PATIENCE`].

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, Error as EtcdError, GetOptions, Identity,
    KeyValue, KvClient, LeaseKeepAliveStream, LeaseKeeper, PutOptions, TlsOptions, Txn, TxnOp, WatchOptions,
    WatchStream,
};
use tokio::time::timeout;

use super::Settings;
use super::known::Stamp;
use super::own::Step;
use super::records::Key;
use crate::config::Mode;

/// How long an answer is waited for.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// Keys of the first page of a reading, and of the largest: etcd looks at all that is left for each.
const PAGE: (i64, i64) = (1000, 16_000);
/// Bytes of an answer; what is longer is asked for in smaller pages.
const MAX_ANSWER: usize = 8 << 20;
/// Bytes of a certificate, key or password file.
const MAX_FILE: u64 = 1 << 20;
/// Writes of one transaction: etcd's own `--max-txn-ops` is 128.
pub(super) const CHUNK: usize = 100;
/// gRPC's code `OUT_OF_RANGE`: an answer is longer than we take.
const OUT_OF_RANGE: i32 = 11;

/// What went wrong with etcd.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    #[error("{}: {why}", path.display())]
    File { path: PathBuf, why: io::Error },
    #[error("{}: it is empty, or not one line of text", .0.display())]
    Password(PathBuf),
    #[error("{}", plain(.0))]
    Etcd(#[from] EtcdError),
    #[error("no answer to {0} within {PATIENCE:?}")]
    Silent(&'static str),
    #[error("our lease has expired")]
    Expired,
    #[error("the watch ended: {0}")]
    Watch(String),
}

/// What a failed call says, without the words that the client puts around it.
fn plain(error: &EtcdError) -> String {
    match error {
        EtcdError::GRpcStatus(status) => {
            let mut why = status.message().to_owned();
            let mut source = std::error::Error::source(status);
            while let Some(inner) = source {
                why = inner.to_string(); // the innermost says what happened
                source = inner.source();
            }
            why
        }
        EtcdError::TransportError(error) => {
            let mut why = error.to_string();
            let mut source = std::error::Error::source(error);
            while let Some(inner) = source {
                why = inner.to_string();
                source = inner.source();
            }
            why
        }
        other => other.to_string(),
    }
}

async fn within<T>(
    what: &'static str,
    call: impl Future<Output = Result<T, EtcdError>>,
) -> Result<T, StoreError> {
    match timeout(PATIENCE, call).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(StoreError::Silent(what)),
    }
}

/// A connection to one of the end points.
pub(super) struct Store {
    client: Client,
    kv: KvClient,
    /// What our keys begin with.
    root: String,
}

/// Where the store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub revision: i64,
    pub cluster: u64,
}

fn head(header: Option<&etcd_client::ResponseHeader>) -> Head {
    header.map_or(Head { revision: 0, cluster: 0 }, |header| Head {
        revision: header.revision(),
        cluster: header.cluster_id(),
    })
}

/// The stamp of a key in the store.
pub(super) const fn stamp(kv: &KeyValue) -> Stamp {
    Stamp { lease: kv.lease(), created: kv.create_revision(), modified: kv.mod_revision() }
}

impl Store {
    /// Reaches one end point, and is somebody there.
    pub async fn connect(settings: &Settings, endpoint: &str) -> Result<Self, StoreError> {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(PATIENCE)
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if endpoint.starts_with("https://") {
            options = options.with_tls(tls(settings)?);
        }
        if let (Some(user), Some(path)) = (&settings.user, &settings.password_file) {
            options = options.with_user(user, password(path)?);
        }
        let client = within("a connection", Client::connect([endpoint], Some(options))).await?;
        let kv = client.kv_client().max_decoding_message_size(MAX_ANSWER);
        let version = match settings.mode {
            Mode::Native => "/v1/",
            Mode::Flannel => "/",
        };
        Ok(Self { client, kv, root: format!("{}{version}", settings.prefix) })
    }

    /// The key in full.
    pub fn path(&self, key: &Key) -> String {
        format!("{}{key}", self.root)
    }

    /// The key below the root.
    pub fn below<'k>(&self, key: &'k [u8]) -> Option<&'k [u8]> {
        key.strip_prefix(self.root.as_bytes())
    }

    /// For claims, which are made beside everything else.
    pub fn kv(&self) -> KvClient {
        self.kv.clone()
    }

    /// Where the store is now.
    pub async fn head(&self) -> Result<Head, StoreError> {
        let options = GetOptions::new().with_limit(1).with_count_only();
        let answer = within("a read", self.kv().get(self.root.as_str(), Some(options))).await?;
        Ok(head(answer.header()))
    }

    /// Everything that changes from this revision on; `None`: that is forgotten already.
    pub async fn watch(&self, from: i64) -> Result<Option<WatchStream>, StoreError> {
        let options = WatchOptions::new().with_prefix().with_start_revision(from).with_fragment();
        let mut watch = self.client.watch_client();
        let mut stream = within("a watch", watch.watch(self.root.as_str(), Some(options))).await?;
        match within("a watch", stream.message()).await? {
            Some(first) if first.compact_revision() > 0 => Ok(None),
            Some(first) if first.canceled() => Err(StoreError::Watch(first.cancel_reason().to_owned())),
            Some(_) => Ok(Some(stream)),
            None => Err(StoreError::Watch("it did not begin".into())),
        }
    }

    /// Reads what is below `kind`, in pages, and gives each record to `take`; of more than `most` keys the rest is only
    /// counted, which is returned.
    pub async fn read(
        &self,
        kind: &str,
        most: usize,
        mut take: impl FnMut(&KeyValue),
    ) -> Result<u64, StoreError> {
        let mut from = format!("{}{kind}", self.root).into_bytes();
        let end = end_of(&from);
        let (mut page, mut seen) = (PAGE.0, 0usize);
        loop {
            let options = GetOptions::new().with_range(end.clone()).with_limit(page);
            let answer = match within("a read", self.kv().get(from.clone(), Some(options))).await {
                Err(StoreError::Etcd(error)) if too_long(&error) && page > 1 => {
                    page = (page / 10).max(1);
                    continue;
                }
                // Not even one fits: it is nothing of ours, and passed over.
                Err(StoreError::Etcd(error)) if too_long(&error) => {
                    let options = GetOptions::new().with_range(end.clone()).with_limit(1).with_keys_only();
                    within("a read", self.kv().get(from.clone(), Some(options))).await?
                }
                other => {
                    let answer = other?;
                    page = page.saturating_mul(2).min(PAGE.1);
                    answer
                }
            };
            answer.kvs().iter().for_each(&mut take);
            seen = seen.saturating_add(answer.kvs().len());
            let rest = answer.count().saturating_sub(i64::try_from(answer.kvs().len()).unwrap_or(i64::MAX));
            match answer.kvs().last() {
                Some(last) if answer.more() && seen < most => from = [last.key(), &[0]].concat(),
                _ => return Ok(u64::try_from(rest).unwrap_or(0)),
            }
        }
    }

    /// Makes a lease, or finds the one that there was. Whether it is that.
    pub async fn lease(&self, before: Option<i64>, ttl: u32) -> Result<(Lease, bool), StoreError> {
        let mut leases = self.client.lease_client();
        if let Some(id) = before {
            match within("a lease", leases.keep_alive(id)).await {
                Ok((keeper, answers)) => return Ok((Lease::new(id, ttl, keeper, answers), true)),
                Err(StoreError::Etcd(EtcdError::LeaseKeepAliveError(_))) => {}
                Err(error) => return Err(error),
            }
        }
        let id = within("a lease", leases.grant(ttl.into(), None)).await?.id();
        let (keeper, answers) = within("a lease", leases.keep_alive(id)).await?;
        Ok((Lease::new(id, ttl, keeper, answers), false))
    }

    /// Ends a lease, and all that is under it.
    pub async fn revoke(&self, lease: i64) -> Result<(), StoreError> {
        within("the end of a lease", self.client.lease_client().revoke(lease)).await.map(drop)
    }

    /// Does all of these steps or none; the revision, if they were done.
    pub async fn write(&self, steps: &[Step], lease: i64) -> Result<Option<i64>, StoreError> {
        let compares: Vec<_> = steps
            .iter()
            .map(|step| Compare::mod_revision(self.path(&step.key), CompareOp::Equal, step.over))
            .collect();
        let writes: Vec<_> = steps
            .iter()
            .map(|step| match &step.value {
                Some(value) => {
                    let options = step.leased.then(|| PutOptions::new().with_lease(lease));
                    TxnOp::put(self.path(&step.key), value.clone(), options)
                }
                None => TxnOp::delete(self.path(&step.key), None),
            })
            .collect();
        let txn = Txn::new().when(compares).and_then(writes);
        let answer = within("a write", self.kv().txn(txn)).await?;
        Ok(answer.succeeded().then(|| head(answer.header()).revision))
    }
}

fn too_long(error: &EtcdError) -> bool {
    matches!(error, EtcdError::GRpcStatus(status) if status.code() as i32 == OUT_OF_RANGE)
}

/// The first key after all that begin with this: its last byte is one of ASCII.
fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last = last.saturating_add(1);
    }
    end
}

/// A lease that is alive.
pub(super) struct Lease {
    pub id: i64,
    third: Duration,
    /// When it says next that we live.
    next: Instant,
    keeper: LeaseKeeper,
    answers: LeaseKeepAliveStream,
}

impl Lease {
    fn new(id: i64, ttl: u32, keeper: LeaseKeeper, answers: LeaseKeepAliveStream) -> Self {
        let third = Duration::from_secs(ttl.into()) / 3;
        Self { id, third, next: Instant::now() + third, keeper, answers }
    }

    /// Keeps it alive, until that fails. It may be stopped and begun again.
    pub async fn keep(&mut self) -> StoreError {
        let third = self.third;
        loop {
            tokio::time::sleep_until(self.next.into()).await;
            self.next = Instant::now() + third;
            let kept = async {
                self.keeper.keep_alive().await?;
                self.answers.message().await
            };
            match timeout(third, kept).await {
                Ok(Ok(Some(answer))) if answer.ttl() > 0 => {}
                Ok(Ok(Some(_))) => return StoreError::Expired,
                Ok(Ok(None)) => return StoreError::Silent("a sign of life"),
                Ok(Err(error)) => return error.into(),
                Err(_) => return StoreError::Silent("a sign of life"),
            }
        }
    }
}

fn tls(settings: &Settings) -> Result<TlsOptions, StoreError> {
    let mut tls = TlsOptions::new();
    if let Some(ca) = &settings.ca {
        tls = tls.ca_certificate(Certificate::from_pem(file(ca)?));
    }
    if let (Some(cert), Some(key)) = (&settings.cert, &settings.key) {
        tls = tls.identity(Identity::from_pem(file(cert)?, file(key)?));
    }
    Ok(tls)
}

fn file(path: &Path) -> Result<Vec<u8>, StoreError> {
    let read = || {
        let mut bytes = Vec::new();
        let mut limited = io::Read::take(std::fs::File::open(path)?, MAX_FILE);
        io::Read::read_to_end(&mut limited, &mut bytes)?;
        Ok(bytes)
    };
    read().map_err(|why| StoreError::File { path: path.to_owned(), why })
}

fn password(path: &Path) -> Result<String, StoreError> {
    let wrong = || StoreError::Password(path.to_owned());
    let text = String::from_utf8(file(path)?).map_err(|_| wrong())?;
    let line = text.trim_end_matches(['\r', '\n']);
    if line.is_empty() || line.contains('\n') { Err(wrong()) } else { Ok(line.to_owned()) }
}

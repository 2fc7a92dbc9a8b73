//! Claims of addresses: transactions that only make a key that is not there.

use etcd_client::{Compare, CompareOp, KeyValue, KvClient, PutOptions, Txn, TxnOp, TxnOpResponse};
use tokio::time::timeout;

use super::own;
use super::records::{self, Record};
use super::store::{PATIENCE, StoreError};
use super::{Claim, Claimed, Owner};

/// Writes that meet another's write before one gives up: each of them has seen another record.
const ATTEMPTS: usize = 5;

/// Who claims, and where.
pub(super) struct Claimant {
    pub kv: KvClient,
    pub lease: i64,
    pub me: String,
    /// The key in full.
    pub path: String,
}

/// What came of a claim, and the revision that granted it.
pub(super) type Outcome = (Claimed, Option<i64>);

impl Claimant {
    /// Takes the address, unless somebody else has it.
    pub async fn claim(self, claim: &Claim) -> Outcome {
        let unreachable = |error: StoreError| (Claimed::Unreachable { why: error.to_string() }, None);
        match timeout(PATIENCE, self.attempt(claim)).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => unreachable(error),
            Err(_) => unreachable(StoreError::Silent("a claim")),
        }
    }

    async fn attempt(mut self, claim: &Claim) -> Result<Outcome, StoreError> {
        let owner = own::owner(&self.me, claim);
        let value = records::owner(&owner);
        let mut over = 0; // nothing is there
        for _ in 0..ATTEMPTS {
            let put = TxnOp::put(
                self.path.as_str(),
                value.as_slice(),
                Some(PutOptions::new().with_lease(self.lease)),
            );
            let txn = Txn::new()
                .when([Compare::mod_revision(self.path.as_str(), CompareOp::Equal, over)])
                .and_then([put])
                .or_else([TxnOp::get(self.path.as_str(), None)]);
            let answer = self.kv.txn(txn).await?;
            if answer.succeeded() {
                return Ok((Claimed::Granted, answer.header().map(|header| header.revision())));
            }
            let responses = answer.op_responses();
            let there = responses.iter().find_map(|response| match response {
                TxnOpResponse::Get(answer) => answer.kvs().first(),
                _ => None,
            });
            over = match there.map(|kv| (kv, self.judge(claim, &owner, kv))) {
                // It went meanwhile.
                None => 0,
                // The watch has told of it already, or is about to: nothing is waited for.
                Some((_, Ours::Now)) => return Ok((Claimed::Granted, Some(0))),
                Some((kv, Ours::Before)) => kv.mod_revision(),
                Some((_, Ours::Not(by))) => return Ok((Claimed::Taken { by }, None)),
            };
        }
        Ok((Claimed::Unreachable { why: "others write the same key all the time".into() }, None))
    }

    fn judge(&self, claim: &Claim, owner: &Owner, kv: &KeyValue) -> Ours {
        // What cannot be read is somebody's all the same.
        let unknown = || Owner { host: "?".into(), container: "?".into(), interface: "?".into() };
        let by = match records::parse_value(&own::key(claim), kv.value()) {
            Ok(Record::Address(by)) => by,
            _ => unknown(),
        };
        match (by == *owner, by.host == self.me, kv.lease() == self.lease) {
            (true, _, true) => Ours::Now,
            // A host has one daemon: another lease is that of the one before this.
            (_, true, false) => Ours::Before,
            _ => Ours::Not(by),
        }
    }
}

/// Whose an address is.
enum Ours {
    Now,
    Before,
    Not(Owner),
}

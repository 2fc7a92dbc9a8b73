//! Hosts that tell each other through a real etcd what they have.
#![allow(missing_docs, clippy::panic, clippy::unwrap_used, clippy::print_stderr)]

mod claims;
mod etcd;
mod flannel;
mod host;
mod hostile;
mod outages;
mod proxy;
mod remembered;
mod secured;
mod tls;
mod together;

//! The task between the workers and what gateways offer beside routing: names and addresses.

use std::sync::Arc;
use std::time::Instant;

use switch::mailbox::{Mailbox, silence};
use switch::punt::{Parcel, Punt, Service};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use crate::names::server::{Server, Shared};

/// Packets that are looked at in one go, before anything else has its turn.
const TURN: usize = 64;

/// Serves until the task is dropped. Names are answered here; what asks for addresses goes to `dhcp`, who has the tables.
pub async fn serve(
    punt: Arc<Punt>,
    mailbox: Arc<Mailbox>,
    names: Arc<Shared>,
    dhcp: mpsc::Sender<Box<Parcel>>,
) {
    #[expect(
        deprecated,
        reason = "its heir is unsafe; this descriptor is borrowed from the queues, which live as long"
    )]
    let Ok(wake) = AsyncFd::new(punt.wake()) else {
        tracing::error!("no names and no addresses by DHCP: the queue from the workers cannot be watched");
        return;
    };
    let mut names = Server::new(names, Arc::clone(&punt));
    let mut more = false;
    loop {
        let due = names.next();
        tokio::select! {
            guard = wake.readable() => {
                if let Ok(mut guard) = guard {
                    silence(punt.wake());
                    guard.clear_ready();
                }
            }
            Some(done) = names.forwarded() => names.done(done, Instant::now()),
            () = at(due) => {}
            // Others of this thread have had their turn.
            () = tokio::task::yield_now(), if more => {}
        }
        let now = Instant::now();
        more = true;
        for _ in 0..TURN {
            let Some(parcel) = punt.next() else {
                more = false;
                break;
            };
            match parcel.service {
                Service::Dns => names.packet(parcel, now),
                // There is room for every slot there is, as long as somebody listens.
                Service::Dhcp => {
                    if let Err(error) = dhcp.try_send(parcel) {
                        punt.give_back(error.into_inner());
                    }
                }
            }
        }
        names.due(now);
        if punt.has_sent() {
            mailbox.wake();
        }
    }
}

async fn at(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

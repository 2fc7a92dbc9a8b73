//! The task between the workers and what gateways offer beside routing: addresses.

use std::sync::Arc;

use switch::mailbox::silence;
use switch::punt::{Parcel, Punt, Service};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

/// Packets that are looked at in one go, before anything else has its turn.
const TURN: usize = 64;

/// Serves until the task is dropped. What asks for addresses goes to `dhcp`, who has the tables.
pub async fn serve(punt: Arc<Punt>, dhcp: mpsc::Sender<Box<Parcel>>) {
    #[expect(
        deprecated,
        reason = "its heir is unsafe; this descriptor is borrowed from the queues, which live as long"
    )]
    let Ok(wake) = AsyncFd::new(punt.wake()) else {
        tracing::error!("no addresses by DHCP: the queue from the workers cannot be watched");
        return;
    };
    let mut more = false;
    loop {
        tokio::select! {
            guard = wake.readable() => {
                if let Ok(mut guard) = guard {
                    silence(punt.wake());
                    guard.clear_ready();
                }
            }
            // Others of this thread have had their turn.
            () = tokio::task::yield_now(), if more => {}
        }
        more = true;
        for _ in 0..TURN {
            let Some(parcel) = punt.next() else {
                more = false;
                break;
            };
            match parcel.service {
                // There is room for every slot there is, as long as somebody listens.
                Service::Dhcp => {
                    if let Err(error) = dhcp.try_send(parcel) {
                        punt.give_back(error.into_inner());
                    }
                }
                Service::Dns => punt.give_back(parcel),
            }
        }
    }
}

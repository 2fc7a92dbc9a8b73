//! Any bytes as a message between keeper and engine, or between a daemon and its heir: refused, or a message that is the
//! same when it is said again. The channel stays usable.

#![allow(clippy::panic, clippy::unwrap_used, reason = "the lints know `#[test]`, not what it calls")]

use std::fmt::Debug;

use rustix::net::{SendFlags, send};
use serde::Serialize;
use serde::de::DeserializeOwned;
use vswitchd::channel::{Channel, ChannelError};
use vswitchd::handover::{FromHeir, FromPredecessor};
use vswitchd::wire::{ToEngine, ToKeeper};

/// Reads `input` as a message of the kind that its first byte says. Whether it is one.
pub fn check(input: &[u8]) -> bool {
    let Some((kind, text)) = input.split_first().filter(|(_, text)| !text.is_empty()) else { return false };
    match kind % 4 {
        0 => said_again::<ToEngine>(text),
        1 => said_again::<ToKeeper>(text),
        2 => said_again::<FromHeir>(text),
        _ => said_again::<FromPredecessor>(text),
    }
}

fn said_again<T: Serialize + DeserializeOwned + PartialEq + Debug>(text: &[u8]) -> bool {
    let (one, other) = Channel::pair().unwrap();
    one.set_nonblocking(true).unwrap();
    other.set_nonblocking(true).unwrap();
    let sent = send(&one, text, SendFlags::empty()).is_ok();
    let heard = match other.recv::<T>() {
        Ok(message) => message.map(|(message, descriptors)| {
            assert!(descriptors.is_empty());
            message
        }),
        Err(error) => {
            assert!(sent || error.would_block(), "{error}");
            let said = error.to_string();
            assert!(said.len() < 4096, "{} bytes", said.len());
            None
        }
    };
    let Some(message) = heard else {
        // Whatever it was, what comes behind it is understood.
        one.send(&ToEngine::Reload, &[]).unwrap();
        assert_eq!(other.recv::<ToEngine>().unwrap().unwrap().0, ToEngine::Reload);
        return false;
    };
    match one.send(&message, &[]) {
        Ok(()) => assert_eq!(other.recv::<T>().unwrap().unwrap().0, message),
        Err(error) => assert!(matches!(error, ChannelError::TooLong), "{error}"),
    }
    true
}

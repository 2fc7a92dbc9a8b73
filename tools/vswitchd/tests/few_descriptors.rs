//! The conversation of keeper and engine where a process has no numbers for descriptors left. A file of its own, because the
//! limit is that of the whole process.
#![allow(missing_docs, clippy::unwrap_used)]

use std::os::fd::AsFd;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use vswitchd::channel::{Channel, ChannelError, Received};
use vswitchd::wire::ToEngine;

#[test]
fn a_message_is_one_though_there_are_no_numbers_for_its_descriptors() {
    let (one, other) = Channel::pair().unwrap();
    for _ in 0..2 {
        one.send(&ToEngine::Reload, &[one.as_fd(), one.as_fd()]).unwrap();
    }
    let before = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(0), maximum: before.maximum }).unwrap();
    let strict = other.recv::<ToEngine>();
    let some = other.recv_what_fits::<ToEngine>();
    setrlimit(Resource::Nofile, before).unwrap();
    assert!(matches!(strict, Err(ChannelError::Descriptors)), "{strict:?}");
    let Received { message, descriptors, lost } = some.unwrap().unwrap();
    assert!(message == ToEngine::Reload && lost && descriptors.is_empty());
}

//! Laws of the overlay's bytes: cutting and putting together, in and out. Frames are made by the RFCs and with sums of
//! their own, so that nothing is checked against itself.
#![allow(clippy::unwrap_used)] // helpers of tests are tests

#[path = "laws/coalesce.rs"]
mod coalesce;
#[path = "laws/decap.rs"]
mod decap;
#[path = "laws/encap.rs"]
mod encap;
#[path = "../../switch/tests/corpus/maker.rs"]
mod maker;
#[path = "laws/packets.rs"]
mod packets;
#[path = "laws/received.rs"]
mod received;
#[path = "laws/tunnel.rs"]
mod tunnel;

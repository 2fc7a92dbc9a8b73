//! A host's network device that others carry frames from and to.

use std::collections::VecDeque;

use smoltcp::phy::{self, DeviceCapabilities};
use smoltcp::time::Instant;

use super::device::{self, Rx};

/// smoltcp's device: what came, and what leaves.
pub struct Wire {
    pub mtu: usize,
    pub came: VecDeque<Vec<u8>>,
    pub leaves: VecDeque<Vec<u8>>,
}

pub struct Tx<'a>(&'a mut VecDeque<Vec<u8>>);

impl phy::TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let (frame, result) = device::filled(len, f);
        self.0.push_back(frame);
        result
    }
}

impl phy::Device for Wire {
    type RxToken<'a> = Rx;
    type TxToken<'a> = Tx<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Rx, Tx<'_>)> {
        Some((Rx(self.came.pop_front()?), Tx(&mut self.leaves)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Tx<'_>> {
        Some(Tx(&mut self.leaves))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        device::capabilities(self.mtu)
    }
}

//! What smoltcp's devices have in common: an Ethernet link, a frame that came, one that leaves.

use smoltcp::phy::{self, DeviceCapabilities, Medium};

/// A frame that came.
pub struct Rx(pub Vec<u8>);

impl phy::RxToken for Rx {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

/// A frame that is written.
pub fn filled<R>(len: usize, f: impl FnOnce(&mut [u8]) -> R) -> (Vec<u8>, R) {
    let mut frame = vec![0; len];
    let result = f(&mut frame);
    (frame, result)
}

/// Of a link with this MTU.
pub fn capabilities(mtu: usize) -> DeviceCapabilities {
    let mut capabilities = DeviceCapabilities::default();
    (capabilities.medium, capabilities.max_transmission_unit) = (Medium::Ethernet, 14 + mtu);
    capabilities
}

//! What is asked of the kernel: TUN ioctls, namespaces, capabilities. The only `unsafe` of the workspace is here.
#![allow(unsafe_code)]

pub mod bulk;
pub mod caps;
pub mod datagram;
pub mod fds;
pub mod interface;
pub mod mmsg;
pub mod netns;
pub mod packet;
pub mod path;
pub mod process;
mod returns;
pub mod ring;
pub mod shared;
pub mod signals;
pub mod slab;
pub mod socket;
pub mod tun;
pub mod wide;

pub use caps::drop_all_capabilities;

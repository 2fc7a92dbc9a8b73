//! What is asked of the kernel: TUN ioctls, namespaces, capabilities. The only `unsafe` of the workspace is here.
#![allow(unsafe_code)]

pub mod bulk;
pub mod caps;
pub mod fds;
pub mod netns;
mod returns;
pub mod signals;
pub mod socket;
pub mod tun;

pub use caps::drop_all_capabilities;

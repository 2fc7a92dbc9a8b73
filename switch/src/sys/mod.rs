//! What is asked of the kernel: TUN ioctls, namespaces, capabilities. The only `unsafe` of the workspace is here.
#![allow(unsafe_code)]

pub mod tun;

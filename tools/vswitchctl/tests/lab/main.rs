//! Labs on real namespaces with kernel stacks, as root and as an ordinary user that the test makes.
#![allow(missing_docs)]

mod harness;

mod basics;
mod hostile;
mod namespaces;
mod traffic;

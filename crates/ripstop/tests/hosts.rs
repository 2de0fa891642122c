//! Several hosts, each a network namespace with an address of its own on one switch, and the binary on each of them.
//!
//! Nothing of it touches the machine's own network. An ordinary user gets a user namespace around the whole test.

#[path = "hosts/bootstrap.rs"]
mod bootstrap;
#[path = "hosts/control.rs"]
mod control;
#[path = "hosts/identity.rs"]
mod identity;
#[path = "hosts/joining.rs"]
mod joining;
#[path = "hosts/lab.rs"]
mod lab;
#[path = "hosts/losses.rs"]
mod losses;

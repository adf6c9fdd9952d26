//! Shipping, by the real programs: a device, a distributor, a server that misbehaves, and everything killed.

mod backlog;
mod chaos;
mod containers;
mod delivery;
mod device;
mod disk;
mod encrypted;
mod faults;
mod kills;
mod proxied;
mod scene;
mod supervised;
#[cfg(target_arch = "x86_64")]
mod traced;

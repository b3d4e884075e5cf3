//! All integration tests of Doorward, one binary: a server is started once for all of them.

#[cfg(test)]
mod house;
#[cfg(test)]
mod servers;
#[cfg(test)]
mod stores;

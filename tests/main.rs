//! One test binary: the house that tests live in, then one module per thing under test.
#![cfg(test)]

mod browser_selftest;
mod house;
mod op_hostile_selftest;
mod op_selftest;

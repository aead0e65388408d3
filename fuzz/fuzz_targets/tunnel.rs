//! Any octets, as datagrams from strangers, as what a kernel hands over, as what came through a tunnel, and
//! as packets that are changed on their way: `godwit_net::tunnel::holds` says what holds.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| godwit_net::tunnel::holds::holds(bytes));

//! Bytes from a peer never panic, and change nothing unless they are what a member said.

use bytes::Bytes;
use godwit_core::record::{Key, Record};
use godwit_core::wire;
use godwit_sim::link::Profile;
use godwit_sim::world::World;
use proptest::prelude::*;

fn check(bytes: &[u8]) {
    let mut world = World::with_members(1, Profile::default(), 2);
    let before = world.member(0).view().fingerprint();
    world.inject(1, 0, Bytes::copy_from_slice(bytes));
    assert_eq!(world.member(0).view().fingerprint(), before);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn random_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        check(&bytes);
        let _ = wire::decode::<Record>(&bytes, wire::RECORD_LEN_MAX);
        let _ = wire::decode::<Key>(&bytes, wire::RECORD_LEN_MAX);
    }

    /// A message's tag and then anything, so that every branch of the decoder is entered.
    #[test]
    fn random_bytes_after_a_tag(tag in 0u8..8, kind in 0u8..8, bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let mut message = vec![tag, 1, kind];
        message.extend(&bytes);
        check(&message);
        let mut record = vec![kind];
        record.extend(&bytes);
        let _ = wire::decode::<Record>(&record, wire::RECORD_LEN_MAX);
    }

    /// A good record with one byte changed is refused, or is the same record.
    #[test]
    fn one_byte_changed(pick in any::<proptest::sample::Index>(), at in any::<proptest::sample::Index>(), flip in 1u8..=255) {
        let mut world = World::with_members(1, Profile::default(), 2);
        let version = world.keys.publish(world.time(), "www", 1, "");
        world.submit(0, version).unwrap();
        let records: Vec<Record> = world.member(0).view().records().cloned().collect();
        let record = pick.get(&records);
        let mut bytes = wire::encode(record);
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        if let Ok(changed) = wire::decode::<Record>(&bytes, wire::RECORD_LEN_MAX) {
            // As a push of one record with age 0, and nothing more to come.
            let mut push = vec![2, 1];
            push.extend(wire::encode(&changed));
            push.extend([0, 0]);
            let before = world.member(0).view().fingerprint();
            world.inject(1, 0, push.into());
            prop_assert_eq!(world.member(0).view().fingerprint(), before, "{:?}", changed);
        }
    }
}

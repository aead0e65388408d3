//! The fuzzer's messages about home addresses, in every run of the tests.

#[allow(unreachable_pub, reason = "the fuzzer's own module")]
#[path = "../../../fuzz/properties/mobility.rs"]
mod mobility;

use std::path::Path;

#[test]
fn machines_bear_the_corpus() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/mobility");
    let files: Vec<_> = std::fs::read_dir(corpus).unwrap().map(|file| file.unwrap().path()).collect();
    assert!(files.len() >= 10, "the corpus is there");
    files.iter().for_each(|file| mobility::holds(&std::fs::read(file).unwrap()));
}

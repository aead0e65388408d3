//! Blocks of addresses laid over runs: what is known of single prefixes over what is known of places.

use crate::range::{Bits, Ranges};

/// A block of addresses with its own answer.
pub(crate) struct Block<B> {
    low: B,
    high: B,
    answer: u32,
}

impl<B: Bits> Block<B> {
    pub(crate) fn new(address: B, len: u8, answer: u32) -> Block<B> {
        let (low, high) = address.block(len);
        Block { low, high, answer }
    }
}

/// Lays `blocks` (ascending, disjoint) over the runs of `base`.
pub(crate) fn overlay<B: Bits, V: Copy + PartialEq>(
    base: &Ranges<B, V>,
    value: impl Fn(V) -> u32,
    blocks: &[Block<B>],
) -> Ranges<B, u32> {
    let mut runs = base.runs().peekable();
    let mut out: Option<Ranges<B, u32>> = None;
    let mut blocks = blocks.iter().peekable();
    // Below `free` everything is laid; `None` when the highest address is.
    let mut free = Some(B::ZERO);
    let push = |start: B, value: u32, out: &mut Option<Ranges<B, u32>>| match out {
        Some(out) => out.push(start, value),
        None => *out = Some(Ranges::builder(value)),
    };
    let lowest = base.runs().next().map(|(_, lowest)| lowest);
    while let Some((start, at)) = runs.next() {
        let after = runs.peek().map(|(next, _)| *next);
        let answer = value(at);
        let Some(mut cursor) = free.map(|free| free.max(start)) else { break };
        let inside = |address: B| after.is_none_or(|after| address < after);
        while let Some(block) = blocks.next_if(|block| inside(block.low)) {
            if block.low > cursor {
                push(cursor, answer, &mut out);
            }
            push(block.low, block.answer, &mut out);
            free = block.high.next();
            match free {
                Some(next) => cursor = next,
                None => break,
            }
        }
        if free.is_some() && inside(cursor) {
            push(cursor, answer, &mut out);
        }
    }
    out.unwrap_or_else(|| Ranges::all(lowest.map_or(0, value)))
}

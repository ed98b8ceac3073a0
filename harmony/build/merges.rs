//! Finds, for every token, the two tokens that byte-pair encoding joins last to make it, and its longest prefix.

use std::collections::HashMap;

use crate::layout::{Merge, NO_PAIR, NO_TOKEN, PAIR_SLOT_BITS, pair_hash, pair_slot};

/// The merge of each token, by id.
pub(crate) fn merges(tokens: &[Vec<u8>]) -> Vec<Merge> {
    let ids: HashMap<&[u8], u32> =
        tokens.iter().enumerate().map(|(id, t)| (t.as_slice(), id as u32)).collect();
    tokens
        .iter()
        .enumerate()
        .map(|(id, token)| {
            let (left, right) = last_merge(&ids, token, id as u32);
            let prefix = (1..token.len())
                .rev()
                .find_map(|n| ids.get(&token[..n]))
                .copied()
                .unwrap_or(NO_TOKEN);
            Merge { left, right, prefix }
        })
        .collect()
}

/// Encodes the token's text with the tokens before it; the tokenizer relies on exactly two being left.
fn last_merge(ids: &HashMap<&[u8], u32>, token: &[u8], id: u32) -> (u32, u32) {
    if token.len() == 1 {
        return (id, id);
    }
    let mut cuts: Vec<usize> = (0..=token.len()).collect();
    while cuts.len() > 3 {
        let best = (0..cuts.len() - 2)
            .filter_map(|i| Some((*ids.get(&token[cuts[i]..cuts[i + 2]])?, i)))
            .filter(|&(rank, _)| rank < id)
            .min()
            .unwrap_or_else(|| panic!("token {id} cannot be reached by merging"));
        cuts.remove(best.1 + 1);
    }
    (ids[&token[..cuts[1]]], ids[&token[cuts[1]..]])
}

/// The open-addressed table from pairs to merged tokens.
pub(crate) fn pair_table(merges: &[Merge]) -> Vec<u32> {
    let slots = 1 << PAIR_SLOT_BITS;
    let mut table = vec![NO_PAIR; slots];
    for (id, merge) in
        merges.iter().enumerate().filter(|(_, m)| m.left != m.right || m.prefix != NO_TOKEN)
    {
        let (mut slot, tag) = pair_hash(merge.left, merge.right);
        while table[slot] != NO_PAIR {
            slot = (slot + 1) % slots;
        }
        table[slot] = pair_slot(tag, id as u32);
    }
    table
}

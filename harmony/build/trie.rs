//! Builds the double-array trie over all tokens (its layout: [`TrieNode`]).

use std::ops::Range;

use crate::layout::{NO_TOKEN, TrieNode};

const FREE: TrieNode = TrieNode { label: None, leaf: false, token: NO_TOKEN, base: 0 };

/// The packed nodes; entry 0 is the root.
pub(crate) fn trie(tokens: &[Vec<u8>]) -> Vec<u64> {
    let mut sorted: Vec<(&[u8], u32)> =
        tokens.iter().enumerate().map(|(id, t)| (t.as_slice(), id as u32)).collect();
    sorted.sort_unstable();

    let mut array = DoubleArray::new();
    let mut todo = std::collections::VecDeque::from([(0usize, 0usize, 0..sorted.len())]);
    while let Some((node, depth, range)) = todo.pop_front() {
        let children = children(&sorted, depth, range);
        let labels: Vec<u8> = children.iter().map(|c| c.label).collect();
        let base = array.place(&labels);
        array.nodes[node].base = base as u32;
        for child in children {
            let at = base ^ usize::from(child.label);
            array.nodes[at] = TrieNode {
                label: Some(child.label),
                leaf: child.leaf,
                token: child.token,
                base: 0,
            };
            if !child.leaf {
                todo.push_back((at, depth + 1, child.range));
            }
        }
    }
    array.nodes.into_iter().map(TrieNode::pack).collect()
}

struct Child {
    label: u8,
    leaf: bool,
    token: u32,
    /// The tokens that go on below this node.
    range: Range<usize>,
}

/// The children of the node that the tokens in `range` share their first `depth` bytes with.
fn children(sorted: &[(&[u8], u32)], depth: usize, range: Range<usize>) -> Vec<Child> {
    let mut children = Vec::new();
    let mut start = range.start;
    while start < range.end {
        let label = sorted[start].0[depth];
        let len = sorted[start..range.end].iter().take_while(|(t, _)| t[depth] == label).count();
        let (first, id) = sorted[start];
        let ends_here = first.len() == depth + 1;
        let leaf = len == 1;
        children.push(Child {
            label,
            leaf,
            token: if leaf || ends_here { id } else { NO_TOKEN },
            range: start + usize::from(ends_here)..start + len,
        });
        start += len;
    }
    children
}

struct DoubleArray {
    nodes: Vec<TrieNode>,
    /// Two nodes never share a base: the label alone then tells whose child an entry is.
    base_used: Vec<bool>,
    blocks: Vec<Block>,
}

/// 256 entries; a base and its children lie in the same block.
#[derive(Clone, Copy)]
struct Block {
    free: usize,
    /// How often no place was found in it; after a few times it is left alone.
    misses: usize,
}

impl DoubleArray {
    fn new() -> Self {
        let mut array = Self { nodes: Vec::new(), base_used: Vec::new(), blocks: Vec::new() };
        array.grow();
        array.nodes[0] = TrieNode { label: None, leaf: true, ..FREE }; // the root, marked as taken
        array.base_used[0] = true;
        array
    }

    fn grow(&mut self) {
        self.nodes.resize(self.nodes.len() + 256, FREE);
        self.base_used.resize(self.nodes.len(), false);
        self.blocks.push(Block { free: 256, misses: 0 });
    }

    /// A base where all labels are free; the entries are the caller's from then on.
    fn place(&mut self, labels: &[u8]) -> usize {
        for block in 0.. {
            if block == self.blocks.len() {
                self.grow();
            }
            let Block { free, misses } = self.blocks[block];
            if misses > 8 || free < labels.len() {
                continue;
            }
            let fits = |&base: &usize| {
                !self.base_used[base]
                    && labels.iter().all(|&l| self.nodes[base ^ usize::from(l)] == FREE)
            };
            if let Some(base) = (block * 256..block * 256 + 256).find(fits) {
                self.base_used[base] = true;
                self.blocks[block].free -= labels.len();
                return base;
            }
            self.blocks[block].misses += 1;
        }
        unreachable!("a new block always has room")
    }
}

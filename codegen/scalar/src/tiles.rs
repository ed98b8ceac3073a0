//! Index maps of the packed weight layouts (`ossmith_plan::WeightLayout`): which element of a 16 by 64 tile a lane
//! holds, and which checkpoint row stands in a packed row.
//!
//! Lane `4g + c` holds, for each k16 step, the registers a0..a3 of `mma.m16n8k16`'s A operand, two elements each:
//! a0 and a2 of row `g`, a1 and a3 of row `g + 8`. The sum over k runs in an order of our own, in which the lane's
//! elements of a row are the 16 consecutive ones from `16c`.

use ossmith_device_fn::device_fn;

/// Which k (0..64) of its tile is element `element` (0..8: twice the register, plus one for its high half) that
/// a lane (0..32) holds for k16 step `step` (0..4).
#[device_fn]
#[must_use]
pub fn tile_k(lane: u32, step: u32, element: u32) -> u32 {
    16 * (lane & 3) + 4 * step + 2 * (element >> 2) + (element & 1)
}

/// Which row (0..16) of its tile a lane's register belongs to; `a_register` is 0..4 for a0..a3.
#[device_fn]
#[must_use]
pub fn tile_row(lane: u32, a_register: u32) -> u32 {
    (lane >> 2) + 8 * (a_register & 1)
}

/// Where element `element` of a row stands in tile order, in which the elements that a k16 step multiplies follow one
/// another: first every lane's first two, then their last two.
#[device_fn]
#[must_use]
pub fn tile_position(element: u32) -> u32 {
    let lane = (element / 16) % 4;
    let step = (element / 4) % 4;
    let half = (element / 2) % 2;
    element - element % 64 + 16 * step + 8 * half + 2 * lane + element % 2
}

/// The checkpoint row in a packed row where rotary pairs share a thread: within each head, tile `j` holds
/// dimensions `8j + g` at rows `g` and their partners, `head_dim / 2` later, at rows `g + 8`.
#[device_fn]
#[must_use]
pub fn checkpoint_row_rope(packed_row: u32, head_dim: u32) -> u32 {
    let row = packed_row % head_dim;
    let dim = 8 * (row / 16) + row % 8;
    let partner = ((row / 8) & 1) * (head_dim / 2);
    packed_row - row + dim + partner
}

/// The checkpoint row in a packed row where gate and up share a thread: tile `j` holds gate `8j + g`
/// (checkpoint row `2(8j + g)`) at row `g` and its up (the next checkpoint row) at row `g + 8`.
#[device_fn]
#[must_use]
pub fn checkpoint_row_gate_up(packed_row: u32) -> u32 {
    let unit = 8 * (packed_row / 16) + packed_row % 8;
    2 * unit + ((packed_row / 8) & 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_cover_a_tile_once() {
        let mut seen = [false; 16 * 64];
        for (lane, step, element) in
            (0..32).flat_map(|l| (0..4).flat_map(move |s| (0..8).map(move |e| (l, s, e))))
        {
            let at = tile_row(lane, element / 2) * 64 + tile_k(lane, step, element);
            assert!(!std::mem::replace(&mut seen[at as usize], true), "element {at} twice");
        }
        assert!(seen.iter().all(|&s| s));
    }

    #[test]
    fn registers_lie_as_the_layout_says() {
        let (g, c) = (5, 3);
        for step in 0..4 {
            let lane = 4 * g + c;
            let first = 16 * c + 4 * step;
            for (register, row, k) in
                [(0, g, first), (1, g + 8, first), (2, g, first + 2), (3, g + 8, first + 2)]
            {
                assert_eq!(tile_row(lane, register), row);
                assert_eq!(tile_k(lane, step, 2 * register), k);
                assert_eq!(tile_k(lane, step, 2 * register + 1), k + 1);
            }
        }
    }

    #[test]
    fn tile_order_is_that_of_the_columns_of_mma() {
        for (lane, step, element) in
            (0..4).flat_map(|l| (0..4).flat_map(move |s| (0..8).map(move |e| (l, s, e))))
        {
            let place = 16 * step + 8 * (element / 4) + 2 * lane + element % 2;
            let k = tile_k(lane, step, element);
            assert_eq!(tile_position(k), place);
            assert_eq!(tile_position(64 + k), 64 + place);
        }
        assert!(is_permutation(tile_position, 192));
    }

    fn is_permutation(map: impl Fn(u32) -> u32, rows: u32) -> bool {
        let mut image: Vec<u32> = (0..rows).map(map).collect();
        image.sort_unstable();
        image.into_iter().eq(0..rows)
    }

    #[test]
    fn row_orders_pair_rows_g_and_g_plus_8() {
        for head_dim in [32, 64, 128] {
            assert!(is_permutation(|row| checkpoint_row_rope(row, head_dim), 5 * head_dim));
            for row in (0..5 * head_dim).filter(|row| row % 16 < 8) {
                let lo = checkpoint_row_rope(row, head_dim);
                assert_eq!(checkpoint_row_rope(row + 8, head_dim), lo + head_dim / 2);
                assert_eq!(lo / head_dim, row / head_dim, "row {row} leaves its head");
            }
        }
        assert_eq!(checkpoint_row_rope(64 + 16 + 3, 64), 64 + 8 + 3);
        assert!(is_permutation(checkpoint_row_gate_up, 5760));
        for row in (0..160).filter(|row| row % 16 < 8) {
            assert_eq!(checkpoint_row_gate_up(row), 2 * (8 * (row / 16) + row % 16));
            assert_eq!(checkpoint_row_gate_up(row + 8), checkpoint_row_gate_up(row) + 1);
        }
    }
}

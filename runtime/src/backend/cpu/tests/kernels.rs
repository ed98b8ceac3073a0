//! Each kernel in every instruction set against its formula in f64.

use ossmith_scalar::{bf16_to_f32, f32_to_bf16, mix_word, mxfp4_value};

use super::super::cache::TILE;
use super::super::floats::Floats;
use super::super::q8::Q8Matrix;
use super::super::view::AttentionView;
use super::super::weights::{Bf16Rows, Mxfp4Rows, Rows, finite_f16};
use super::super::{scalar, simd};
use super::*;

/// Numbers in -1..1 that depend on their index and `salt` only.
fn noise(count: usize, salt: u32) -> Vec<f32> {
    let unit = |i| mix_word(i ^ (salt << 20)) as i32 as f32 / 2f32.powi(31);
    (0..count as u32).map(unit).collect()
}

fn gemm(isa: Isa, rows: &Rows<'_>, xs: &[Vec<f32>]) -> Vec<f32> {
    let packed: Vec<Vec<f32>> = xs
        .iter()
        .map(|x| {
            let mut packed = vec![0.0; x.len()];
            simd::pack(isa, x, &mut packed);
            packed
        })
        .collect();
    let xs: Vec<&[f32]> = packed.iter().map(Vec::as_slice).collect();
    let mut out = vec![0.0; xs.len() * rows.rows()];
    simd::gemm(isa, rows, 0..rows.rows(), &xs, &mut out);
    out
}

#[test]
fn every_mxfp4_code_under_every_scale_is_decoded_exactly() {
    // Row `scale` holds each code twice, in an order of its own. The largest codes of scales 253 and 254 exceed f32's
    // range, and 255 is not a number.
    const SCALES: usize = 253;
    let code = |scale: usize, k: usize| (k * 5 + scale * 3) as u32 % 16;
    let (mut blocks, scales) = (Vec::new(), (0..SCALES as u8).collect::<Vec<u8>>());
    for scale in 0..SCALES {
        let byte = |b: usize| (code(scale, 2 * b) | code(scale, 2 * b + 1) << 4) as u8;
        blocks.extend((0..16).map(byte));
    }
    let rows = Rows::Mxfp4(Mxfp4Rows::new(&blocks, &scales, 32).expect("whole rows"));
    for isa in Isa::available() {
        for k in 0..32 {
            let mut x = vec![0.0; 32];
            x[k] = 1.0;
            for (scale, value) in gemm(isa, &rows, &[x]).into_iter().enumerate() {
                let exact = mxfp4_value(code(scale, k), scale as u32);
                assert!(value == exact, "{}: {value} is not {exact}", isa.name());
            }
        }
    }
}

#[test]
fn gemms_match_f64_and_do_not_depend_on_their_neighbours() {
    for (k, rows) in [(32, 1), (64, 3), (96, 8), (160, 13), (2880, 9)] {
        let dense: Vec<f32> =
            noise(k * rows, 1).iter().map(|&w| bf16_to_f32(f32_to_bf16(w))).collect();
        let bytes: Vec<u8> =
            dense.iter().flat_map(|&w| (f32_to_bf16(w) as u16).to_le_bytes()).collect();
        let codes: Vec<u8> = (0..k * rows / 2).map(|i| mix_word(i as u32) as u8).collect();
        let scales: Vec<u8> = (0..k * rows / 32).map(|i| 120 + (i * 7 % 9) as u8).collect();
        let element = |i: usize| {
            let code = u32::from(codes[i / 2] >> (4 * (i % 2))) % 16;
            mxfp4_value(code, u32::from(scales[i / 32]))
        };
        let decoded: Vec<f32> = (0..k * rows).map(element).collect();
        let forms = [
            (Rows::Bf16(Bf16Rows::new(&bytes, k).expect("whole rows")), dense),
            (Rows::Mxfp4(Mxfp4Rows::new(&codes, &scales, k).expect("whole rows")), decoded),
        ];
        let xs: Vec<Vec<f32>> = (0..9).map(|t| noise(k, 2 + t)).collect();
        for (weights, exact) in &forms {
            for isa in Isa::available() {
                let all = gemm(isa, weights, &xs);
                let f64_dot = |x: &[f32], row: usize| -> f32 {
                    let row = &exact[row * k..(row + 1) * k];
                    row.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum::<f64>()
                        as f32
                };
                let oracle: Vec<f32> = xs
                    .iter()
                    .flat_map(|x| (0..rows).map(move |row| (x, row)))
                    .map(|(x, row)| f64_dot(x, row))
                    .collect();
                let apart = distance(&all, &oracle);
                assert!(apart < 2e-6, "{} k {k} rows {rows}: {apart:e}", isa.name());
                for count in 1..9 {
                    let some = gemm(isa, weights, &xs[..count]);
                    assert_eq!(bits(&some), bits(&all[..count * rows]), "{} {count}", isa.name());
                }
            }
        }
    }
}

#[test]
fn attention_matches_its_formula() {
    // (head_dim, query heads, first key, last key); tiles are in no particular order.
    for (head_dim, gqa_ratio, first, last) in [
        (64, 8, 0, 0),
        (64, 3, 5, 132),
        (32, 1, 16, 47),
        (128, 2, 33, 200),
        (64, 5, 0, 130),
        (64, 8, 0, 400),
    ] {
        let count = last / TILE - first / TILE + 1;
        let storage = noise(2 * head_dim * TILE * count, 3);
        let tiles: Vec<usize> =
            (0..count).map(|tile| (count - 1 - tile) * 2 * head_dim * TILE).collect();
        let (queries, sinks) = (noise(gqa_ratio * head_dim, 4), noise(gqa_ratio, 5));
        let view = AttentionView {
            head_dim,
            queries: &queries.iter().map(|q| 8.0 * q).collect::<Vec<f32>>(),
            sinks: &sinks,
            scale: 1.0 / (head_dim as f32).sqrt(),
            first,
            last,
            storage: &storage,
            tiles: &tiles,
        };
        let exact = formula(&view);
        for isa in Isa::available() {
            let mut out = vec![f32::NAN; gqa_ratio * head_dim];
            simd::attend(isa, &[view], &mut Floats::default(), &mut [&mut out[..]]);
            let apart = distance(&out, &exact);
            assert!(apart < 2e-6, "{} {head_dim} {first}..={last}: {apart:e}", isa.name());
        }
    }
}

/// `Σ exp(s_j) v_j / (Σ exp(s_j) + exp(sink))` in f64.
fn formula(view: &AttentionView<'_>) -> Vec<f32> {
    let mut out = Vec::new();
    for (query, &sink) in view.queries.chunks(view.head_dim).zip(view.sinks) {
        let (mut sums, mut total) = (vec![0.0; view.head_dim], f64::from(sink).exp());
        for position in view.first..=view.last {
            let (keys, lane) = view.key_tile(position);
            let dot: f64 = (0..view.head_dim)
                .map(|d| f64::from(query[d]) * f64::from(keys[d * TILE + lane]))
                .sum();
            let weight = (dot / (view.head_dim as f64).sqrt()).exp();
            total += weight;
            for (sum, &value) in sums.iter_mut().zip(view.value(position)) {
                *sum += weight * f64::from(value);
            }
        }
        out.extend(sums.iter().map(|sum| (sum / total) as f32));
    }
    out
}

#[test]
fn norms_match_f64_with_eps_inside_the_root() {
    for (width, size) in [(32, 1e-3), (96, 1.0), (2880, 500.0)] {
        let x: Vec<f32> = noise(width, 1).iter().map(|x| x * size).collect();
        let scale = noise(width, 2);
        let square = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / width as f64;
        let inverse = 1.0 / (square + 1e-5).sqrt();
        let exact: Vec<f32> = x
            .iter()
            .zip(&scale)
            .map(|(&x, &scale)| (f64::from(x) * inverse * f64::from(scale)) as f32)
            .collect();
        for isa in Isa::available() {
            let mut out = vec![0.0; width];
            simd::rms_norm(isa, &x, &scale, 1e-5, &mut out);
            let apart = distance(&out, &exact);
            assert!(apart < 1e-6, "{} {width}: {apart:e}", isa.name());
        }
    }
}

#[test]
fn the_router_takes_the_lowest_of_equals_and_weighs_only_the_chosen() {
    let (mut ids, mut weights) = ([0; 3], [0.0; 3]);
    scalar::top_k(&[0.5, 2.0, 0.5, 2.0, 0.5], &mut ids, &mut weights);
    assert_eq!(ids, [1, 3, 0]);
    let total = 2.0 + (-1.5_f32).exp();
    for (weight, wanted) in weights.iter().zip([1.0, 1.0, (-1.5_f32).exp()]) {
        assert!((weight - wanted / total).abs() < 1e-6, "{weights:?}");
    }
}

#[test]
fn eight_bit_gemms_match_f64_and_do_not_depend_on_their_neighbours() {
    for (k, rows) in [(32, 1), (64, 3), (96, 8), (160, 13), (2880, 9)] {
        let bytes: Vec<u8> = noise(k * rows, 1)
            .iter()
            .flat_map(|&w| (f32_to_bf16(w) as u16).to_le_bytes())
            .collect();
        let stored = Bf16Rows::new(&bytes, k).expect("whole rows");
        let xs: Vec<Vec<f32>> = (0..9).map(|t| noise(k, 2 + t)).collect();
        let natural = Q8Matrix::quantised(&stored, Isa::SCALAR);
        let natural = natural.rows().expect("whole rows");
        let value = |row: usize, i: usize| {
            let scale = &natural.scales(row)[i / 32 * 2..][..2];
            let scale = half::f16::from_le_bytes([scale[0], scale[1]]);
            f64::from(natural.codes(row)[i] as i8) * scale.to_f64()
        };
        let dot = |x: &[f32], row| {
            x.iter().enumerate().map(|(i, &x)| value(row, i) * f64::from(x)).sum::<f64>() as f32
        };
        let oracle: Vec<f32> =
            xs.iter().flat_map(|x| (0..rows).map(move |row| dot(x, row))).collect();
        for isa in Isa::available() {
            let matrix = Q8Matrix::quantised(&stored, isa);
            let weights = Rows::Q8(matrix.rows().expect("whole rows"));
            let all = gemm(isa, &weights, &xs);
            let apart = distance(&all, &oracle);
            assert!(apart < 2e-6, "{} k {k} rows {rows}: {apart:e}", isa.name());
            for count in 1..9 {
                let some = gemm(isa, &weights, &xs[..count]);
                assert_eq!(bits(&some), bits(&all[..count * rows]), "{} {count}", isa.name());
            }
        }
    }
}

#[test]
fn sixteen_bit_scales_are_decoded_exactly() {
    for bits in (0..=u16::MAX).map(half::f16::from_bits).filter(|f| f.is_finite()) {
        let [low, high] = bits.to_le_bytes();
        assert_eq!(finite_f16(low, high).to_bits(), bits.to_f32().to_bits());
    }
}

//! Single operations against exact tables (`fixtures/unit_vectors.safetensors`, float64 maths stored as float32),
//! both as scalar functions and as nodes that the CPU executor runs on every instruction set of this machine.

use std::sync::Arc;

use ossmith::unstable::cpu::{Batch, Cache, Executor, Isa, Values};
use ossmith::unstable::{Input, LogitRows, Sequence};
use ossmith::{Checkpoint, Limits, PAGE_TOKENS};
use ossmith_plan::{DType, Model, Node, Op, SWIGLU_ALPHA, Value, Weight};
use ossmith_tests::fixture::Tables;
use ossmith_tests::root;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

/// Bound on an absolute error, relative to the largest expected value: a few roundings of float32.
const CLOSE: f32 = 2e-6;

fn tables() -> Tables {
    Tables::read(&root().join("tests/fixtures/unit_vectors.safetensors"))
}

#[track_caller]
fn expect_close(what: &str, expected: &[f32], actual: &[f32]) {
    assert_eq!(expected.len(), actual.len(), "{what}: sizes");
    let largest = expected.iter().fold(0.0, |m: f32, v| m.max(v.abs()));
    for (i, (e, a)) in expected.iter().zip(actual).enumerate() {
        assert!((e - a).abs() <= CLOSE * largest, "{what}[{i}]: {a}, not {e}");
    }
}

/// A model with one layer of each kind, whose dimensions are `dims` over small defaults, with made weights.
struct Bench {
    model: &'static Model,
    weights: Arc<Checkpoint>,
}

impl Bench {
    fn new(dims: &[(&str, usize)], set: &[(Weight, Vec<u8>, Vec<u8>)]) -> Bench {
        let mut config = serde_json::json!({
            "model_type": "gpt_oss", "num_hidden_layers": 2, "num_local_experts": 32, "num_experts_per_tok": 4,
            "vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "swiglu_limit": 7.0, "head_dim": 64,
            "num_attention_heads": 2, "num_key_value_heads": 2, "sliding_window": 128, "rms_norm_eps": 1e-5,
            "layer_types": ["sliding_attention", "full_attention"], "max_position_embeddings": 131_072,
            "rope_theta": 150_000.0, "eos_token_id": 1, "tie_word_embeddings": false, "attention_bias": true,
            "hidden_act": "silu", "quantization_config": {"quant_method": "mxfp4"},
            "rope_scaling": {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0,
                             "original_max_position_embeddings": 4096, "truncate": false},
        });
        for (name, value) in dims {
            config[*name] = (*value).into();
        }
        let spec = ossmith_codegen::spec::parse("bench", &config.to_string(), None);
        let model = ossmith_codegen::compile(spec.unwrap_or_else(|why| panic!("{why}")));
        let model = model.unwrap_or_else(|why| panic!("{why}"));
        Bench { model, weights: Arc::new(checkpoint(model, set)) }
    }

    /// Runs nodes of a layer on each instruction set: `inputs` are set, `output` is returned.
    fn run(
        &self,
        nodes: &[Node],
        layer: usize,
        batch: &Batch,
        inputs: &[(Value, Given<'_>)],
        output: Value,
        check: impl Fn(&str, &[f32], &Values),
    ) {
        for isa in Isa::available() {
            let executor = Executor::new(self.model, self.weights.clone(), isa, Some(2));
            let executor = executor.expect("executor");
            let pages =
                batch.sequences.iter().map(|sequence| sequence.pages.len()).max().unwrap_or(1);
            let tokens = batch.rows.len().max(1);
            let limits = Limits::default()
                .with_max_sequences(64)
                .with_max_step_tokens(tokens)
                .with_pages(pages);
            let mut cache = Cache::new(self.model, &limits).expect("cache");
            cache.place(batch).expect("pages");
            let mut values = Values::new(self.model, rows(self.model, inputs));
            for (value, given) in inputs {
                match given {
                    Given::F32(data) => values.set_f32(*value, data),
                    Given::Ids(data) => values.set_u32(*value, data),
                }
                .expect("an input of the right size");
            }
            executor.run(nodes, layer, &mut values, batch, &mut cache).expect("nodes run");
            check(isa.name(), values.f32(output).expect("an output"), &values);
        }
    }
}

/// A checkpoint in OpenAI's layout: zeros, but for the weights in `set`, as (weight, data, block scales).
fn checkpoint(model: &'static Model, set: &[(Weight, Vec<u8>, Vec<u8>)]) -> Checkpoint {
    let mut tensors = Vec::new();
    for (info, layer) in model.graph.all_weights() {
        let given = set.iter().find(|(weight, ..)| *weight == info.weight);
        let name = name(info.weight, layer);
        if info.dtype == DType::Mxfp4 {
            let mut shape = info.shape.to_vec();
            shape[2] /= 32;
            let scales =
                given.map_or(vec![127; info.elements() / 32], |(.., scales)| scales.clone());
            tensors.push((format!("{name}.scales"), Dtype::U8, shape.clone(), scales));
            shape.push(16);
            let blocks =
                given.map_or(vec![0; info.elements() / 2], |(_, blocks, _)| blocks.clone());
            tensors.push((format!("{name}.blocks"), Dtype::U8, shape, blocks));
        } else {
            let data = given.map_or(vec![0; info.bytes()], |(_, data, _)| data.clone());
            tensors.push((name, Dtype::BF16, info.shape.to_vec(), data));
        }
    }
    let views = tensors.iter().map(|(name, dtype, shape, data)| {
        (name, TensorView::new(*dtype, shape.clone(), data).expect("data of its shape"))
    });
    let folder = tempfile::tempdir().expect("temporary folder");
    let file = folder.path().join("model.safetensors");
    safetensors::serialize_to_file(views, None, &file).expect("a written checkpoint");
    // The map outlives the folder's name.
    Checkpoint::open(folder.path(), model).unwrap_or_else(|why| panic!("{why}"))
}

/// The name of a weight in OpenAI's layout.
fn name(weight: Weight, layer: usize) -> String {
    let name = match weight {
        Weight::Embedding => return "embedding.weight".into(),
        Weight::FinalNorm => return "norm.scale".into(),
        Weight::Unembedding => return "unembedding.weight".into(),
        Weight::AttnNorm => "attn.norm.scale",
        Weight::Qkv => "attn.qkv.weight",
        Weight::QkvBias => "attn.qkv.bias",
        Weight::Sinks => "attn.sinks",
        Weight::AttnOut => "attn.out.weight",
        Weight::AttnOutBias => "attn.out.bias",
        Weight::MoeNorm => "mlp.norm.scale",
        Weight::Router => "mlp.gate.weight",
        Weight::RouterBias => "mlp.gate.bias",
        Weight::GateUp => "mlp.mlp1_weight",
        Weight::GateUpBias => "mlp.mlp1_bias",
        Weight::Down => "mlp.mlp2_weight",
        Weight::DownBias => "mlp.mlp2_bias",
    };
    format!("block.{layer}.{name}")
}

/// An input of nodes.
enum Given<'a> {
    F32(&'a [f32]),
    Ids(&'a [u32]),
}

fn rows(model: &Model, inputs: &[(Value, Given<'_>)]) -> usize {
    let (value, given) = &inputs[0];
    let elements = match given {
        Given::F32(data) => data.len(),
        Given::Ids(data) => data.len(),
    };
    elements / model.graph.row_elements(*value, 0)
}

/// The layer's node of this operation and output.
fn node(model: &Model, op: Op, output: Option<Value>) -> Node {
    let nodes = model.graph.layer.iter().chain(model.graph.head);
    let mut nodes = nodes.filter(|n| n.op == op && output.is_none_or(|o| n.outputs.contains(&o)));
    *nodes.next().expect("the graph has such a node")
}

fn bf16_bytes(values: &[f32]) -> Vec<u8> {
    let bits = values.iter().map(|&v| ossmith_scalar::f32_to_bf16(v) as u16);
    bits.flat_map(u16::to_le_bytes).collect()
}

fn from_bf16(value: f32) -> f32 {
    ossmith_scalar::bf16_to_f32(ossmith_scalar::f32_to_bf16(value))
}

#[test]
fn mxfp4_decode() {
    let tables = tables();
    let bytes = |name| tables.ids(name).iter().map(|&byte| byte as u8).collect::<Vec<u8>>();
    let (blocks, scales) = (bytes("mxfp4.blocks"), bytes("mxfp4.scales"));
    let expected = tables.f32("mxfp4.f32");
    for (i, expected) in expected.iter().enumerate() {
        let byte = u32::from(blocks[i / 2]);
        let code = if i % 2 == 0 { byte & 15 } else { byte >> 4 };
        let value = ossmith_scalar::mxfp4_value(code, u32::from(scales[i / 32]));
        assert_eq!(value.to_bits(), expected.to_bits(), "element {i}: {value}, not {expected}");
    }
    // A matrix multiplication by one-hot rows in the executor reads single weights. The last scales overflow float32 and are
    // left out: zero times infinity is no weight.
    let rows = 253;
    let (mut blocks, mut scales) = (blocks[..16 * rows].to_vec(), scales[..rows].to_vec());
    blocks.resize(32 * 256 * 16, 0);
    scales.resize(32 * 256, 127);
    let bench = Bench::new(&[("intermediate_size", 128)], &[(Weight::GateUp, blocks, scales)]);
    let one_hot: Vec<f32> = (0..32 * 32).map(|i| if i % 33 == 0 { 1.0 } else { 0.0 }).collect();
    let inputs = [
        (Value::MoeInput, Given::F32(&one_hot)),
        (Value::ExpertIds, Given::Ids(&[0, 1, 2, 3].repeat(32))),
    ];
    let nodes = [node(bench.model, Op::ExpertLinear, Some(Value::GateUpOut))];
    bench.run(&nodes, 0, &Batch::default(), &inputs, Value::GateUpOut, |isa, out, _| {
        for row in 0..rows {
            for k in 0..32 {
                let (got, want) = (out[k * 4 * 256 + row], expected[row * 32 + k]);
                assert!(got == want, "{isa}: row {row}, element {k}: {got:e}, not {want:e}");
            }
        }
    });
}

#[test]
fn rope() {
    let tables = tables();
    let bench = Bench::new(&[], &[]);
    let spec = &bench.model.spec;
    let positions = tables.ids("rope.positions");
    let (x, y) = (tables.f32("rope.x"), tables.f32("rope.y"));
    for (i, (expected, got)) in
        tables.f32("rope.inv_freq").iter().zip(spec.rope.inv_freq(64)).enumerate()
    {
        let apart = expected.to_bits().abs_diff(got.to_bits());
        assert!(
            apart <= 1,
            "inv_freq[{i}]: {got}, {apart} units in the last place from {expected}"
        );
    }
    expect_close("concentration", tables.f32("rope.concentration"), &[spec.rope.concentration()]);

    // The device's functions, with the table's own frequencies.
    let inv_freq = tables.f32("rope.inv_freq");
    let mut device = Vec::new();
    for (row, &position) in positions.iter().enumerate() {
        for head in 0..2 {
            let x = &x[(2 * row + head) * 64..][..64];
            let pair = |i: usize| {
                let angle = ossmith_scalar::rope_angle(position, inv_freq[i]);
                let [cos, sin] =
                    ossmith_scalar::cos_sin(angle).map(|v| v * spec.rope.concentration());
                ossmith_scalar::rotate(x[i], x[i + 32], cos, sin)
            };
            let pairs: Vec<[f32; 2]> = (0..32).map(pair).collect();
            device.extend(pairs.iter().map(|p| p[0]));
            device.extend(pairs.iter().map(|p| p[1]));
        }
    }
    expect_close("scalar functions", y, &device);

    // The executor: queries and keys both hold x, values must stay as they are. A last-bit difference of a
    // frequency costs 1e-7 radians per position, so far positions are held to what that allows.
    let qkv: Vec<f32> = x.chunks(128).flat_map(|row| [row, row, row].concat()).collect();
    let batch = one_token_each(bench.model, &positions);
    let nodes = [node(bench.model, Op::Rope, None)];
    bench.run(&nodes, 0, &batch, &[(Value::Qkv, Given::F32(&qkv))], Value::Qkv, |isa, out, _| {
        for (row, &position) in positions.iter().enumerate() {
            let (got, want) = (&out[row * 384..][..384], &y[row * 128..][..128]);
            let bound = 2e-5 + 1.2e-7 * position as f32 * 6.0;
            for i in 0..128 {
                let off = (got[i] - want[i]).abs().max((got[128 + i] - want[i]).abs());
                assert!(off <= bound, "{isa}: position {position}, element {i}: off by {off}");
            }
            assert_eq!(got[256..], x[row * 128..][..128], "{isa}: values at {position}");
        }
    });
}

/// A batch of one-token sequences at these positions; nothing is in the cache.
fn one_token_each(model: &'static Model, positions: &[u32]) -> Batch {
    let pages: Vec<Vec<u32>> =
        positions.iter().map(|&p| vec![0; p as usize / PAGE_TOKENS + 1]).collect();
    let sequences: Vec<Sequence<'_>> = positions
        .iter()
        .enumerate()
        .map(|(slot, &position)| sequence(slot, position as usize, &[0], &pages[slot]))
        .collect();
    let limits = Limits::default().with_max_sequences(64).with_max_step_tokens(64).with_pages(1);
    Batch::new(model, &limits, &sequences, &[]).expect("a batch within its limits")
}

fn sequence<'a>(slot: usize, start: usize, tokens: &'a [u32], pages: &'a [u32]) -> Sequence<'a> {
    let input = Input::Tokens(tokens);
    Sequence {
        seq_slot: slot,
        start,
        input,
        pages,
        sample: None,
        prompt_report: None,
        logits: LogitRows::None,
    }
}

#[test]
fn swiglu() {
    let tables = tables();
    let (x, y) = (tables.f32("swiglu.x"), tables.f32("swiglu.y"));
    let scalar: Vec<f32> = x
        .chunks(2)
        .map(|pair| ossmith_scalar::swiglu(pair[0], pair[1], 7.0, SWIGLU_ALPHA))
        .collect();
    expect_close("scalar function", y, &scalar);

    let bench = Bench::new(&[], &[]);
    let nodes = [node(bench.model, Op::SwiGlu, None)];
    let inputs = [(Value::GateUpOut, Given::F32(x))];
    bench.run(&nodes, 0, &Batch::default(), &inputs, Value::ExpertAct, |isa, out, _| {
        expect_close(isa, y, out);
    });
}

#[test]
fn router() {
    let tables = tables();
    let bench = Bench::new(&[], &[]);
    let nodes = [node(bench.model, Op::TopK, None)];
    let inputs = [(Value::RouterLogits, Given::F32(tables.f32("router.logits")))];
    bench.run(&nodes, 0, &Batch::default(), &inputs, Value::ExpertWeights, |isa, out, values| {
        expect_close(isa, tables.f32("router.weights"), out);
        let ids = values.u32(Value::ExpertIds).expect("chosen experts");
        assert_eq!(ids, tables.ids("router.indices"), "{isa}");
    });
}

#[test]
fn router_takes_the_lowest_ids_of_equals() {
    let bench = Bench::new(&[], &[]);
    let nodes = [node(bench.model, Op::TopK, None)];
    let mut logits = [0.5; 32];
    (logits[9], logits[30]) = (1.0, 1.0);
    let inputs = [(Value::RouterLogits, Given::F32(&logits))];
    bench.run(&nodes, 0, &Batch::default(), &inputs, Value::ExpertWeights, |isa, _, values| {
        assert_eq!(values.u32(Value::ExpertIds).expect("experts"), [9, 30, 0, 1], "{isa}");
    });
}

#[test]
fn rms_norm() {
    let tables = tables();
    let scale = bf16_bytes(tables.f32("rmsnorm.scale"));
    let bench = Bench::new(&[("hidden_size", 2880)], &[(Weight::FinalNorm, scale, Vec::new())]);
    let nodes = [node(bench.model, Op::RmsNorm, Some(Value::HeadInput))];
    let inputs = [(Value::Residual, Given::F32(tables.f32("rmsnorm.x")))];
    let expected = tables.f32("rmsnorm.y");
    bench.run(&nodes, 0, &Batch::default(), &inputs, Value::HeadInput, |isa, out, _| {
        // Row by row: the first has a root mean square of 1e-3, where eps matters most.
        for (row, (expected, out)) in expected.chunks(2880).zip(out.chunks(2880)).enumerate() {
            expect_close(&format!("{isa}, row {row}"), expected, out);
        }
    });
}

#[test]
fn attention() {
    let tables = tables();
    let sinks = tables.f32("attn.sinks");
    // Checkpoints hold sinks in bf16, the table in float32: the formula is checked with the table's, and the
    // executor against the formula with rounded ones.
    let rounded: Vec<f32> = sinks.iter().map(|&sink| from_bf16(sink)).collect();
    let bench = Bench::new(
        &[("num_attention_heads", 8), ("num_key_value_heads", 1)],
        &[(Weight::Sinks, bf16_bytes(&rounded), Vec::new())],
    );
    let (q, k, v) = (tables.f32("attn.q"), tables.f32("attn.k"), tables.f32("attn.v"));
    // The table scales scores by 1/4, a head of 64 by 1/8: doubling the queries is exact.
    let doubled: Vec<f32> = q.iter().map(|x| 2.0 * x).collect();
    let keys = 200;
    let qkv: Vec<f32> = (0..keys)
        .flat_map(|j| [&doubled[..], &k[64 * j..][..64], &v[64 * j..][..64]].concat())
        .collect();
    let (tokens, pages) = (vec![0; keys], [2, 0, 3, 1]);
    let limits = Limits::default().with_max_sequences(1).with_max_step_tokens(keys).with_pages(4);
    let batch = Batch::new(bench.model, &limits, &[sequence(0, 0, &tokens, &pages)], &[]);
    let batch = batch.expect("a batch within its limits");
    let nodes = [node(bench.model, Op::CacheWrite, None), node(bench.model, Op::Attention, None)];
    for (layer, visible, stored) in [(0, 128, "attn.out_window128"), (1, 200, "attn.out_full")] {
        let first = keys - visible;
        let formula = |sinks| softmax_attention(q, &k[64 * first..], &v[64 * first..], sinks);
        expect_close(stored, tables.f32(stored), &formula(sinks));
        let expected = formula(&rounded);
        let inputs = [(Value::Qkv, Given::F32(&qkv))];
        bench.run(&nodes, layer, &batch, &inputs, Value::AttnHeads, |isa, out, _| {
            expect_close(&format!("{isa}, {stored}"), &expected, &out[(keys - 1) * 512..]);
        });
    }
}

/// Softmax attention with sinks in float64, scores scaled by 1/4; one key/value head of 64.
fn softmax_attention(q: &[f32], k: &[f32], v: &[f32], sinks: &[f32]) -> Vec<f32> {
    let mut out = Vec::new();
    for (q, &sink) in q.chunks(64).zip(sinks) {
        let dot =
            |k: &[f32]| q.iter().zip(k).map(|(&q, &k)| f64::from(q) * f64::from(k)).sum::<f64>();
        let scores: Vec<f64> = k.chunks(64).map(|k| (dot(k) / 4.0).exp()).collect();
        let sum = scores.iter().sum::<f64>() + f64::from(sink).exp();
        out.extend((0..64).map(|i| {
            let weighted = scores.iter().zip(v.chunks(64)).map(|(s, v)| s * f64::from(v[i]));
            (weighted.sum::<f64>() / sum) as f32
        }));
    }
    out
}

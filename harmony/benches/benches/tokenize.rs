//! Encoding text: ours, bpe-openai, tiktoken; ordinary and hostile text. The reference is left out where it panics or takes minutes.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use ossmith_harmony_benches::{CpuTime, hostile, texts};

fn contenders(group: &mut BenchmarkGroup<'_, CpuTime>, text: &str, with_all: bool) {
    group.throughput(Throughput::Bytes(text.len() as u64));
    let bpe = bpe_openai::o200k_base();
    assert_eq!(ossmith_harmony::encode(text), bpe.encode(text), "the ids have to be the same");
    group.bench_function("ossmith", |b| b.iter(|| ossmith_harmony::encode(black_box(text))));
    group.bench_function("bpe-openai", |b| b.iter(|| bpe.encode(black_box(text))));
    if with_all {
        let tiktoken = tiktoken::get_encoding("o200k_base").expect("o200k_base is built in");
        group.bench_function("tiktoken", |b| b.iter(|| tiktoken.encode(black_box(text))));
        #[cfg(feature = "reference")]
        let reference = ossmith_harmony_benches::reference().tokenizer();
        #[cfg(feature = "reference")]
        group.bench_function("openai-harmony", |b| {
            b.iter(|| reference.encode_ordinary(black_box(text)))
        });
    }
}

fn tokenize(c: &mut Criterion<CpuTime>) {
    for (name, text) in texts() {
        let mut group = c.benchmark_group(format!("encode/{name}"));
        group
            .sample_size(10)
            .warm_up_time(Duration::from_secs(1))
            .measurement_time(Duration::from_secs(3));
        contenders(&mut group, &text, true);
    }
    for (name, text) in hostile() {
        let mut group = c.benchmark_group(format!("hostile/{name}"));
        group
            .sample_size(10)
            .warm_up_time(Duration::from_secs(1))
            .measurement_time(Duration::from_secs(2));
        contenders(&mut group, &text, false);
    }
}

criterion_group!(name = benches; config = Criterion::default().with_measurement(CpuTime); targets = tokenize);
criterion_main!(benches);

//! Rendering a conversation and parsing a stream: ours and the reference library.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
#[cfg(feature = "reference")]
use openai_harmony::chat;
use ossmith_harmony::special::{CHANNEL, MESSAGE};
use ossmith_harmony::{
    DropAnalysis, LenientOptions, ReferenceParser, RenderOptions, Role, StreamParser, Strictness,
    render_for_completion_with,
};
#[cfg(feature = "reference")]
use ossmith_harmony_benches::reference;
use ossmith_harmony_benches::{CpuTime, conversation_json};

fn render(c: &mut Criterion<CpuTime>) {
    let ours: ossmith_harmony::Conversation =
        serde_json::from_str(&conversation_json()).expect("a conversation");
    #[cfg(feature = "reference")]
    let theirs: chat::Conversation =
        serde_json::from_str(&conversation_json()).expect("a conversation");
    // The reference's Rust interface has no public way to drop analysis, so neither drops it here.
    let options = RenderOptions { drop_analysis: DropAnalysis::Never, ..RenderOptions::default() };
    let ours = || {
        render_for_completion_with(black_box(&ours), Role::Assistant, &options).expect("it renders")
    };
    let tokens = ours();
    #[cfg(feature = "reference")]
    let expected = reference()
        .render_conversation_for_completion(&theirs, chat::Role::Assistant, None)
        .expect("it renders");
    #[cfg(feature = "reference")]
    assert_eq!(tokens, expected, "both have to render the same tokens");

    let mut group = c.benchmark_group("render");
    group.sample_size(20).measurement_time(Duration::from_secs(2));
    group.throughput(Throughput::Elements(tokens.len() as u64));
    group.bench_function("ossmith", |b| b.iter(ours));
    #[cfg(feature = "reference")]
    group.bench_function("openai-harmony", |b| {
        b.iter(|| {
            reference().render_conversation_for_completion(
                black_box(&theirs),
                chat::Role::Assistant,
                None,
            )
        })
    });
}

/// Token by token: a content of 1000 tokens, and a header.
fn stream(c: &mut Criterion<CpuTime>) {
    let text = "Memory bandwidth, not arithmetic, decides how quickly a language model writes its next word. ";
    let content: Vec<u32> =
        ossmith_harmony::encode(&text.repeat(60)).into_iter().take(1000).collect();
    let header: Vec<u32> =
        [vec![CHANNEL], ossmith_harmony::encode("final"), vec![MESSAGE]].concat();
    let lenient = || StreamParser::new(Some(Role::Assistant), LenientOptions::default());
    let parity = || ReferenceParser::new(Some(Role::Assistant), Strictness::Strict);
    #[cfg(feature = "reference")]
    let theirs = || {
        openai_harmony::StreamableParser::new(reference().clone(), Some(chat::Role::Assistant))
            .expect("a parser")
    };

    let mut group = c.benchmark_group("stream/content_1000_tokens");
    group.sample_size(20).measurement_time(Duration::from_secs(2));
    group.throughput(Throughput::Elements(content.len() as u64));
    let mut opened = lenient();
    opened.push_all(&header, |_| {});
    group.bench_function("ossmith", |b| {
        b.iter_batched(
            || opened.clone(),
            |mut p| {
                let mut bytes = 0;
                p.push_all(&content, |event| {
                    if let ossmith_harmony::Event::Text(delta) = event {
                        bytes += delta.len();
                    }
                });
                (p, bytes)
            },
            BatchSize::SmallInput,
        )
    });
    let mut opened = parity();
    header.iter().for_each(|&t| drop(opened.push(t)));
    group.bench_function("ossmith parity", |b| {
        b.iter_batched(
            || opened.clone(),
            |mut p| {
                let bytes: usize =
                    content.iter().map(|&t| p.push(t).ok().flatten().map_or(0, str::len)).sum();
                (p, bytes)
            },
            BatchSize::SmallInput,
        )
    });
    #[cfg(feature = "reference")]
    group.bench_function("openai-harmony", |b| {
        b.iter_batched(
            || {
                let mut opened = theirs();
                header.iter().for_each(|&t| drop(opened.process(t)));
                opened
            },
            |mut p| {
                let mut bytes = 0;
                for &token in &content {
                    p.process(token).expect("a content token");
                    bytes += p.last_content_delta().expect("a delta").map_or(0, |d| d.len());
                }
                (p, bytes)
            },
            BatchSize::SmallInput,
        )
    });
    group.finish();

    let mut group = c.benchmark_group("stream/header_of_3_tokens_and_a_new_parser");
    group.sample_size(20).measurement_time(Duration::from_secs(2));
    group.bench_function("ossmith", |b| {
        b.iter(|| {
            let mut p = lenient();
            p.push_all(black_box(&header), |_| {});
            p
        })
    });
    #[cfg(feature = "reference")]
    group.bench_function("openai-harmony", |b| {
        b.iter(|| {
            let mut p = theirs();
            header.iter().for_each(|&t| drop(p.process(black_box(t))));
            p
        })
    });
    group.finish();

    let mut group = c.benchmark_group("stream/new_parser");
    group.sample_size(20).measurement_time(Duration::from_secs(2));
    group.bench_function("ossmith", |b| b.iter(lenient));
    #[cfg(feature = "reference")]
    group.bench_function("openai-harmony", |b| b.iter(theirs));
}

criterion_group!(name = benches; config = Criterion::default().with_measurement(CpuTime); targets = render, stream);
criterion_main!(benches);

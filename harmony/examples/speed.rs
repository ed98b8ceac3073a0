//! Quick figures of this machine: `cargo run --release -p ossmith-harmony --example speed`. The comparison with other libraries is
//! in `benches/`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use ossmith_harmony::{Event, LenientOptions, Role, StreamParser, encode, special};

fn main() {
    let first = Instant::now();
    black_box(encode("Hello, world"));
    report("first use", first.elapsed(), 1, "call");

    let english =
        "Memory bandwidth, not arithmetic, decides how quickly it's writing; we'll measure. "
            .repeat(10_000);
    let code = "fn main() {\n    let total: u64 = values.iter().filter(|v| **v > 0).sum();\n}\n"
        .repeat(10_000);
    let chinese = "内存带宽而不是算术决定了语言模型写出下一个词的速度。".repeat(10_000);
    let spaces = " ".repeat(1_000_001);
    let letters = "a".repeat(1_000_001);
    for (name, text) in [
        ("English", &english),
        ("code", &code),
        ("Chinese", &chinese),
        ("spaces", &spaces),
        ("aaaa", &letters),
    ] {
        let start = Instant::now();
        black_box(encode(text));
        report(name, start.elapsed(), text.len(), "byte");
    }

    let content: Vec<u32> = encode(&english).into_iter().take(100_000).collect();
    let mut parser = StreamParser::new(Some(Role::Assistant), LenientOptions::default());
    parser.push_all(&[special::CHANNEL, 17196, special::MESSAGE], |_| {});
    let start = Instant::now();
    let mut bytes = 0;
    parser.push_all(&content, |event| {
        if let Event::Text(delta) = event {
            bytes += delta.len();
        }
    });
    report("content token", start.elapsed(), content.len(), "token");
    black_box(bytes);
}

#[allow(clippy::print_stdout)] // an example's output
fn report(what: &str, time: Duration, count: usize, unit: &str) {
    let nanoseconds = time.as_secs_f64() * 1e9 / count as f64;
    println!(
        "{what:14} {:10.3} ms {nanoseconds:10.1} ns a {unit} {:8.1} million a second",
        time.as_secs_f64() * 1e3,
        1e3 / nanoseconds
    );
}

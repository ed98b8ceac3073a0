//! Any token stream, in any chunking: no panic, the same messages, and the reference parser agrees with itself.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ossmith_harmony::{Collector, LenientOptions, ReferenceParser, Role, StreamParser, Strictness, parse, parse_lenient};

/// Small values are structure and words, so that a fuzzer finds headers soon; three bytes make any id.
fn token(bytes: &[u8]) -> u32 {
    const WORDS: [u32; 12] = [35644, 17196, 12606, 815, 173781, 316, 28, 44580, 5701, 1428, 220, 12083];
    match bytes {
        [kind @ 0..16, ..] => 199_998 + u32::from(*kind),
        [kind @ 16..28, ..] => WORDS[usize::from(kind - 16)],
        [kind, low, high, ..] if *kind >= 200 => u32::from(*kind - 200) << 16 | u32::from(*high) << 8 | u32::from(*low),
        [kind, ..] => u32::from(*kind),
        [] => 0,
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((&flags, rest)) = data.split_first() else { return };
    let tokens: Vec<u32> = rest.chunks(3).map(token).collect();
    let role = (flags & 1 == 1).then_some(Role::Assistant);

    let whole = parse_lenient(&tokens, role);
    let mut parser = StreamParser::new(role, LenientOptions::default());
    let mut collector = Collector::default();
    for chunk in tokens.chunks(usize::from(flags >> 4) + 1) {
        parser.push_all(chunk, |event| collector.add(event));
        parser = parser.clone();
    }
    parser.finish(|event| collector.add(event));
    assert_eq!(collector.finish(), whole);
    for message in &whole.messages {
        for name in [&message.name, &message.channel, &message.recipient].into_iter().flatten() {
            assert!(!name.contains("<|channel|>") && !name.contains("<|message|>"), "{name}");
        }
    }

    let strictness = if flags & 2 == 2 { Strictness::Strict } else { Strictness::KeepUnfinishedHeaders };
    let mut parser = ReferenceParser::new(role, strictness);
    let streamed = tokens
        .iter()
        .try_for_each(|&token| parser.push(token).map(drop))
        .and_then(|()| parser.finish())
        .map(|()| parser.messages().to_vec());
    assert_eq!(streamed, parse(&tokens, role, strictness));
});

//! What has to hold for any input; shared by the fuzz targets and by the test that replays their corpus.

use ossmith_harmony::{
    Collector, LenientOptions, ReferenceParser, Role, SpecialSet, StreamParser, Strictness,
    answer_line, decode, encode, encode_with_special, parse, parse_lenient, special,
};

/// Small values are structure and words, so that a fuzzer finds headers soon; three bytes make any id.
fn token(bytes: &[u8]) -> u32 {
    const WORDS: [u32; 12] =
        [35644, 17196, 12606, 815, 173781, 316, 28, 44580, 5701, 1428, 220, 12083];
    match bytes {
        [kind @ 0..16, ..] => 199_998 + u32::from(*kind),
        [kind @ 16..28, ..] => WORDS[usize::from(kind - 16)],
        [kind, low, high, ..] if *kind >= 200 => {
            u32::from(*kind - 200) << 16 | u32::from(*high) << 8 | u32::from(*low)
        }
        [kind, ..] => u32::from(*kind),
        [] => 0,
    }
}

/// Any token stream, in any chunking: no panic, the same messages; the reference parser agrees with itself.
pub(crate) fn tokens(data: &[u8]) {
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
            assert!(!name.contains(char::is_whitespace), "{name}");
        }
    }

    let strictness =
        if flags & 2 == 2 { Strictness::Strict } else { Strictness::KeepUnfinishedHeaders };
    let mut parser = ReferenceParser::new(role, strictness);
    let mut deltas = String::new();
    let streamed = tokens
        .iter()
        .try_for_each(|&token| {
            parser.push(token).map(|delta| deltas.push_str(delta.unwrap_or_default()))
        })
        .and_then(|()| parser.finish())
        .map(|()| parser.messages().to_vec());
    assert_eq!(streamed, parse(&tokens, role, strictness));
}

/// Any line for the command: an answer with an id.
pub(crate) fn lines(data: &[u8]) {
    assert!(answer_line(data).get("id").is_some());
}

/// Any text: the tokens give it back, and special tokens come only from names that are allowed.
pub(crate) fn text(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let tokens = encode(&text);
    assert!(!tokens.iter().any(|&token| special::is_special(token)));
    assert_eq!(decode(&tokens).as_deref(), Ok(&*text));
    let tokens = encode_with_special(&text, &SpecialSet::All, &SpecialSet::NONE)
        .expect("nothing is disallowed");
    assert_eq!(decode(&tokens).as_deref(), Ok(&*text));
}

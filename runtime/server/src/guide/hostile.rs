//! Schemas and grammars as somebody would write them who wants to take the server from everyone else: deep, wide,
//! recursive, ambiguous, numeric, and products of these, all from a seed. Each has to end in a grammar or in a refusal,
//! within its budget, and what compiles has to be followed on a small stack, one mask after another.

use ossmith_guide::Constraint;
use serde_json::{Map, Value, json};

/// Most bytes of a shape.
const MAX_BYTES: usize = 64 << 10;

/// Numbers from a seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    /// From 1 to about `end`, small numbers as often as large ones.
    fn size(&mut self, end: usize) -> usize {
        let bits = usize::BITS - end.leading_zeros();
        let most = 1_usize << (1 + self.below(bits as usize));
        1 + self.below(most.min(end))
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }
}

/// The fields of a request for chat that ask for the shape of this seed.
#[must_use]
pub fn hostile_request(seed: u64) -> Value {
    match shape(seed) {
        Constraint::Schema { schema, lenient } => {
            let schema = json!({"name": "x", "schema": schema, "strict": !lenient});
            json!({"response_format": {"type": "json_schema", "json_schema": schema}})
        }
        Constraint::Arguments { schema, lenient } => {
            let function = json!({"name": "x", "parameters": *schema, "strict": !lenient});
            json!({"tools": [{"type": "function", "function": function}]})
        }
        Constraint::Regex(text) => json!({"structured_outputs": {"regex": text}}),
        Constraint::Grammar(text) | Constraint::Input(text) => {
            json!({"structured_outputs": {"grammar": text}})
        }
        Constraint::Choice(texts) => json!({"structured_outputs": {"choice": texts}}),
    }
}

/// The shape of this seed.
fn shape(seed: u64) -> Constraint {
    let mut random = Random(seed);
    loop {
        let made = match random.below(8) {
            0..=3 => {
                let schema = root(&mut random);
                Constraint::Schema { schema, lenient: random.below(2) == 0 }
            }
            4 => Constraint::Regex(regex(&mut random, 4)),
            5 => Constraint::Grammar(lark(&mut random)),
            6 => Constraint::Input(lark(&mut random)),
            _ => {
                let (count, length) = (random.size(5000), random.size(40));
                let text = |n: usize| format!("{}{n}", "ab".repeat(length));
                Constraint::Choice((0..count).map(text).collect())
            }
        };
        if made.text_bytes() <= MAX_BYTES {
            return made;
        }
    }
}

fn root(random: &mut Random) -> Value {
    match random.below(7) {
        0 => chain(random),
        1 => wide(random),
        2 => product(random),
        3 => recursive(random),
        4 => numeric(random),
        _ => {
            let depth = random.size(6);
            schema(random, depth)
        }
    }
}

/// Definitions that refer to one another in a row, to themselves, or twice to the next.
fn chain(random: &mut Random) -> Value {
    let (length, kind) = (random.size(600), random.below(7));
    let link = |n: usize| {
        let next = json!({"$ref": format!("#/$defs/d{n}")});
        match kind {
            0 => next,
            1 => json!({"type": "object", "properties": {"a": next}, "required": ["a"]}),
            2 => json!({"anyOf": [next, {"type": "null"}]}),
            3 => json!({"allOf": [next, {"type": ["object", "array"]}]}),
            4 => json!({"type": "array", "items": next}),
            5 => json!({"type": "object", "properties": {"a": next, "b": next}}),
            _ => json!({"allOf": [next, next], "properties": {"a": next}}),
        }
    };
    let mut defs: Map<String, Value> =
        (0..length).map(|n| (format!("d{n}"), link(n + 1))).collect();
    let last = if random.below(3) == 0 { link(0) } else { json!({"type": "integer"}) };
    defs.insert(format!("d{length}"), last);
    json!({"$ref": "#/$defs/d0", "$defs": defs})
}

/// Many names, many values, many alternatives.
fn wide(random: &mut Random) -> Value {
    let count = random.size(4000);
    let leaf = numeric(random);
    let names: Map<String, Value> = (0..count).map(|n| (format!("p{n}"), leaf.clone())).collect();
    match random.below(6) {
        0 => json!({"type": "object", "properties": names}),
        1 => json!({"type": "object", "properties": names, "additionalProperties": false}),
        2 => {
            json!({"type": "object", "properties": names, "minProperties": 1, "additionalProperties": false})
        }
        3 => {
            json!({"type": "object", "properties": names, "patternProperties": {"^p.*1": leaf, "^q": {}}})
        }
        4 => json!({"enum": (0..count).map(|n| format!("v{n}")).collect::<Vec<_>>()}),
        _ => json!({"anyOf": names.values().collect::<Vec<_>>()}),
    }
}

/// Intersections of alternatives, and copies of copies.
fn product(random: &mut Random) -> Value {
    let (factors, options) = (random.size(6), random.size(30));
    let option = |random: &mut Random, n: usize| {
        let leaf = numeric(random);
        json!({"type": "object", "properties": {format!("k{n}"): leaf, "z": {"type": "string"}}})
    };
    let factor = |random: &mut Random| -> Value {
        let options: Vec<Value> = (0..options).map(|n| option(random, n)).collect();
        json!({"anyOf": options})
    };
    let all: Vec<Value> = (0..factors).map(|_| factor(random)).collect();
    if random.below(3) > 0 {
        return json!({"allOf": all});
    }
    let names: Map<String, Value> =
        (0..random.size(1000)).map(|n| (format!("p{n}"), json!(true))).collect();
    let others: Vec<Value> = vec![json!({"type": "null"}); random.size(2000)];
    json!({
        "anyOf": [{"allOf": [{"$ref": "#/$defs/big"}, {"anyOf": others}]}, {"type": "integer"}],
        "$defs": {"big": {"allOf": [
            {"type": "object", "properties": names},
            {"type": "object", "additionalProperties": {"allOf": all}}
        ]}}
    })
}

/// Definitions that need one another.
fn recursive(random: &mut Random) -> Value {
    let count = random.size(12);
    let defs: Map<String, Value> = (0..count)
        .map(|n| {
            let mut other = || json!({"$ref": format!("#/$defs/d{}", random.below(count))});
            let (a, b, c) = (other(), other(), other());
            let made = match n % 4 {
                0 => json!({"anyOf": [{"type": "array", "items": a}, b, {"type": "null"}]}),
                1 => json!({"type": "object", "properties": {"a": a, "b": b}, "additionalProperties": c}),
                2 => json!({"allOf": [a, {"properties": {"x": b}}], "minProperties": 1}),
                _ => json!({"oneOf": [a, {"type": "array", "items": b, "maxItems": 30}]}),
            };
            (format!("d{n}"), made)
        })
        .collect();
    json!({"$ref": "#/$defs/d0", "$defs": defs})
}

/// Counters and ranges.
fn numeric(random: &mut Random) -> Value {
    let many = [1_u64, 3, 17, 100, 9973, 65_536, 10_000_000, 1 << 40];
    let (a, b) = (random.pick(&many), random.pick(&many));
    match random.below(9) {
        0 => json!({"type": "integer", "multipleOf": a}),
        1 => {
            json!({"type": "integer", "minimum": -(a as i64), "maximum": b, "multipleOf": random.pick(&[7, 97, 997, 9973])})
        }
        2 => {
            json!({"allOf": [{"multipleOf": 9973}, {"multipleOf": random.pick(&[9967, 9949, 101])}]})
        }
        3 => json!({"type": "number", "minimum": -1e300, "maximum": 1e300, "multipleOf": 1e-6}),
        4 => json!({"type": "string", "minLength": a.min(b), "maxLength": a.max(b)}),
        5 => json!({"type": "string", "pattern": regex(random, 2), "maxLength": a}),
        6 => {
            json!({"type": "array", "minItems": a.min(b), "maxItems": a.max(b), "items": {"type": "array", "maxItems": b}})
        }
        7 => {
            json!({"type": "string", "format": random.pick(&["email", "uri", "ipv6"]), "minLength": a})
        }
        _ => json!({"type": ["integer", "string", "null"], "exclusiveMinimum": a}),
    }
}

fn schema(random: &mut Random, depth: usize) -> Value {
    if depth == 0 {
        return numeric(random);
    }
    let mut inner = || schema(random, depth - 1);
    let (a, b) = (inner(), inner());
    match random.below(7) {
        0 => json!({"anyOf": [a, b, {"type": "object", "properties": {"a": a}}]}),
        1 => json!({"allOf": [a, b]}),
        2 => json!({"oneOf": [a, b]}),
        3 => json!({"type": "object", "properties": {"a": a, "b": b}, "additionalProperties": b}),
        4 => json!({"type": "array", "prefixItems": [a, b], "items": a}),
        5 => json!({"type": "object", "patternProperties": {"^a.*b": a, "^[^a]": b}}),
        _ => {
            json!({"properties": {"a": a}, "required": ["a", "b"], "anyOf": [b, {"required": ["c"]}]})
        }
    }
}

fn regex(random: &mut Random, depth: usize) -> String {
    if depth == 0 {
        return random.pick(&["a", ".", "[ab]", r"\p{L}", "(a|ab)", "[^a]", r"\w", "é"]).to_owned();
    }
    let (a, b) = (regex(random, depth - 1), regex(random, depth - 1));
    let (low, high) = (random.size(1000), random.size(2000));
    match random.below(9) {
        0 => format!("({a}|{b})*"),
        1 => format!("({a}){{{low},{}}}", low + high),
        2 => format!("(.*{a}.{{{low}}}{b})"),
        3 => format!("({a}{b})+"),
        4 => format!("(({a})*({b})*)*c"),
        5 => a.repeat(low.min(40)) + &b,
        6 => (0..low.min(300)).map(|n| format!("x{n}.*y{n}|")).collect::<String>() + &a,
        7 => format!("(?i:{a})?{b}?"),
        _ => format!("({a}|{b}|{a}{b}){{1,{high}}}"),
    }
}

fn lark(random: &mut Random) -> String {
    let count = random.size(400);
    let quoted = |text: String| Value::from(text).to_string();
    let slashed = |random: &mut Random| format!("/{}/", regex(random, 2));
    match random.below(8) {
        0 => {
            let links: String =
                (0..count).map(|n| format!("a{n}: \"x\" a{} | \"y\"\n", n + 1)).collect();
            format!("start: a0\n{links}a{count}: \"z\"")
        }
        1 => format!("start: e\ne: e e | \"a\" | \"aa\" | e e e | {}", slashed(random)),
        2 => format!("start: s*\ns: e | t\ne: e e | {0}\nt: {0} t | e e", slashed(random)),
        3 => {
            let names: Vec<String> = (0..count).map(|n| format!("T{n}")).collect();
            let terminals: String =
                (0..count).map(|n| format!("T{n}: /[a-z ]*{n}[a-z ]*/\n")).collect();
            format!("start: ({})*\n{terminals}", names.join(" | "))
        }
        4 => {
            let optional: String = (0..count).map(|n| format!(" a{n}?")).collect();
            let rules: String =
                (0..count).map(|n| format!("a{n}: \"x\" | \"y\" a{}\n", (n + 1) % count)).collect();
            format!("start:{optional}\n{rules}")
        }
        5 => format!(
            "start: A & ~B\nA: {}\nB: {}{{{},}}",
            slashed(random),
            slashed(random),
            random.size(100)
        ),
        6 => format!("start: %json {}", root(random)),
        _ => {
            let pairs: Vec<String> = (0..count.min(60))
                .map(|n| format!("{} p {}", quoted(format!("{n}")), quoted(format!("{n}"))))
                .collect();
            format!("start: p\np: {} | \"x\" | a?\na: b*\nb: a | \"\"", pairs.join(" | "))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use ossmith_guide::mask_clock::MASK_CPU;

    use super::super::compiler::{Compiler, GrammarRequest};
    use super::super::fuzzing::follow;
    use super::*;
    use crate::tenant::Tenant;

    /// What came of some shapes.
    #[derive(Debug, Default)]
    struct Seen {
        compiled: usize,
        refused: usize,
        longest_compile: Duration,
        longest_mask: Duration,
    }

    async fn run(pool: &Compiler, seeds: impl Iterator<Item = u64>) -> Seen {
        let mut seen = Seen::default();
        for seed in seeds {
            let begin = Instant::now();
            let request = GrammarRequest::new(shape(seed), "x", "`x`".to_owned());
            let outcome = match request {
                Ok(request) => pool.compile(Tenant::ONLY, std::slice::from_ref(&request)).await,
                Err(refused) => Err(refused),
            };
            seen.longest_compile = seen.longest_compile.max(begin.elapsed());
            match outcome {
                Ok(grammars) => {
                    seen.compiled += 1;
                    seen.longest_mask = seen.longest_mask.max(follow(&grammars[0], seed));
                }
                Err(refused) => {
                    seen.refused += 1;
                    let fair = refused.status.as_u16() == 400 && refused.message.len() > 20;
                    assert!(fair, "seed {seed}: {refused:?}");
                }
            }
        }
        seen
    }

    #[tokio::test]
    async fn hostile_shapes_end_in_a_grammar_or_a_refusal() {
        let pool = super::super::compiler::tests::with_helper();
        let seen = run(&pool, 0..48).await;
        assert!(seen.compiled > 10 && seen.refused > 5, "one-sided shapes: {seen:?}");
        // Masks are looked at now and then, and a machine may be busy with other things than looking.
        assert!(seen.longest_mask < 10 * MASK_CPU, "{seen:?}");
    }

    #[tokio::test]
    #[ignore = "an hour of hostile shapes, or as long as it is left alone"]
    #[allow(clippy::print_stdout, reason = "it reports as it goes")]
    async fn an_hour_of_hostile_shapes() {
        let pool = super::super::compiler::tests::with_helper();
        let begin = Instant::now();
        let mut seed =
            begin.elapsed().subsec_nanos() as u64 + u64::from(std::process::id()) * 1_000_003;
        while begin.elapsed() < Duration::from_secs(3600) {
            let seen = run(&pool, seed..seed + 100).await;
            println!("{:?} seeds {seed}..{}: {seen:?}", begin.elapsed(), seed + 100);
            seed += 100;
        }
    }
}

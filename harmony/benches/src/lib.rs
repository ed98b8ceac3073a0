//! Inputs and the libraries compared against, shared by the benches.

#[cfg(feature = "reference")]
use std::sync::OnceLock;
use std::time::Duration;

use cpu_time::ThreadTime;
use criterion::measurement::{Measurement, ValueFormatter, WallTime};

/// Measures the time that the thread was on a processor, so that figures from a busy machine mean something.
pub struct CpuTime;

impl Measurement for CpuTime {
    type Intermediate = ThreadTime;
    type Value = Duration;

    fn start(&self) -> ThreadTime {
        ThreadTime::now()
    }

    fn end(&self, start: ThreadTime) -> Duration {
        start.elapsed()
    }

    fn add(&self, a: &Duration, b: &Duration) -> Duration {
        *a + *b
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        value.as_nanos() as f64
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}

/// The 20-message conversation with tools that rendering is measured on.
pub const CONVERSATION: &str = include_str!("../conversation.json");

/// The messages' JSON, in the official form.
pub fn conversation_json() -> String {
    let file: serde_json::Value =
        serde_json::from_str(CONVERSATION).expect("the committed file is JSON");
    file["conversation"].to_string()
}

/// The reference library. It downloads its vocabulary unless `TIKTOKEN_ENCODINGS_BASE` names a folder with `o200k_base.tiktoken`.
#[cfg(feature = "reference")]
pub fn reference() -> &'static openai_harmony::HarmonyEncoding {
    static REFERENCE: OnceLock<openai_harmony::HarmonyEncoding> = OnceLock::new();
    REFERENCE.get_or_init(|| {
        openai_harmony::load_harmony_encoding(openai_harmony::HarmonyEncodingName::HarmonyGptOss)
            .expect("set TIKTOKEN_ENCODINGS_BASE to a folder with o200k_base.tiktoken")
    })
}

/// About a megabyte of each kind of text, made of varied sentences so that no cache sees the same piece in the same place.
pub fn texts() -> Vec<(&'static str, String)> {
    vec![
        ("english", varied(ENGLISH, " ")),
        ("code", varied(CODE, "\n")),
        ("cjk", varied(CJK, "")),
        ("mixed", varied(&[ENGLISH, CODE, CJK, MIXED].concat(), " ")),
    ]
}

/// A million and one of the same character: what breaks tokenizers that are not linear.
pub fn hostile() -> Vec<(&'static str, String)> {
    [("spaces", " "), ("newlines", "\n"), ("a", "a"), ("e_acute", "é")]
        .map(|(name, unit)| (name, unit.repeat(1_000_001)))
        .to_vec()
}

/// Sentences in an order that a small generator picks, with numbers between them.
fn varied(sentences: &[&str], gap: &str) -> String {
    let mut text = String::new();
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    while text.len() < 1 << 20 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        text.push_str(sentences[state as usize % sentences.len()]);
        text.push_str(gap);
        if state % 5 == 0 {
            text.push_str(&(state % 100_000).to_string());
            text.push_str(gap);
        }
    }
    text
}

const ENGLISH: &[&str] = &[
    "The committee met on Thursday to discuss the budget, but nobody could agree on what to cut first.",
    "She'd walked the same path for thirty years; it wasn't until that morning that she noticed the gate.",
    "Memory bandwidth, not arithmetic, decides how quickly a language model writes its next word.",
    "\"I don't think they've understood,\" he said, \"and we'll have to explain it all again tomorrow.\"",
    "Although unprecedented, the phenomenon's underlying mechanisms remain incompletely characterised.",
    "Please summarise the following article in three bullet points, keeping the tone neutral.",
    "Rain fell on the harbour, on the cranes and the containers, on the long grey ships waiting to unload.",
];
const CODE: &[&str] = &[
    "fn main() {\n    let total: u64 = values.iter().filter(|v| **v > 0).sum();\n    println!(\"{total}\");\n}\n",
    "    if (request.headers[\"content-type\"] !== \"application/json\") {\n        throw new HttpError(415);\n    }\n",
    "def load(path: str) -> dict[str, Any]:\n    with open(path, encoding=\"utf-8\") as f:\n        return json.load(f)\n",
    "#include <vector>\ntemplate <typename T>\nstatic inline T clamp_value(T x, T lo, T hi) { return x < lo ? lo : x > hi ? hi : x; }\n",
    "SELECT user_id, COUNT(*) AS n FROM orders WHERE created_at >= '2026-01-01' GROUP BY user_id HAVING n > 10;\n",
    "\tfor i := 0; i < len(items); i++ {\n\t\tif items[i].IsExpired(now) {\n\t\t\tcontinue\n\t\t}\n\t}\n",
];
const CJK: &[&str] = &[
    "委员会在星期四开会讨论预算,但没有人能就先削减什么达成一致。",
    "彼女は三十年間同じ道を歩いてきたが、その朝まで門に気づかなかった。",
    "메모리 대역폭이 언어 모델의 다음 단어를 쓰는 속도를 결정한다.",
    "内存带宽而不是算术决定了语言模型写出下一个词的速度。",
    "雨が港に降り、クレーンとコンテナと、荷下ろしを待つ長い灰色の船に降った。",
];
const MIXED: &[&str] = &[
    "Комитет собрался в четверг, чтобы обсудить бюджет. 🙂🙂 naïve café — 3.14159 × 10⁻⁷",
    "اجتمعت اللجنة يوم الخميس لمناقشة الميزانية. https://example.org/path?q=1&r=%20#frag",
    "| a | b |\n|---|---|\n| 1 | 2 |\n\n- [x] done 👩‍🚀❤️‍🔥\n- [ ] 未完成\n",
];

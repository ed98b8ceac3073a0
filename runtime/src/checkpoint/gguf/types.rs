//! The element types of GGUF tensors, as ggml numbers them (`ggml.h`, `enum ggml_type`), and the bytes of their blocks.

/// An element type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlockType {
    /// ggml's number.
    pub(super) id: u32,
    /// ggml's name, in lower case as llama.cpp prints it.
    pub(super) name: &'static str,
    /// Elements of a block.
    pub(super) elements: usize,
    /// Bytes of a block.
    pub(super) bytes: usize,
    /// How a block is decoded; `None` for a type that is only known by its size.
    pub(super) coding: Option<Coding>,
}

/// The types that are decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    F32,
    F16,
    Bf16,
    Mxfp4,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Iq4Nl,
    Iq4Xs,
}

const fn decoded(
    id: u32,
    name: &'static str,
    elements: usize,
    bytes: usize,
    coding: Coding,
) -> BlockType {
    BlockType { id, name, elements, bytes, coding: Some(coding) }
}

const fn sized(id: u32, name: &'static str, elements: usize, bytes: usize) -> BlockType {
    BlockType { id, name, elements, bytes, coding: None }
}

/// Every type that ggml has or had in files of version 2 and later.
const ALL: [BlockType; 34] = [
    decoded(0, "f32", 1, 4, Coding::F32),
    decoded(1, "f16", 1, 2, Coding::F16),
    decoded(2, "q4_0", 32, 18, Coding::Q4_0),
    decoded(3, "q4_1", 32, 20, Coding::Q4_1),
    decoded(6, "q5_0", 32, 22, Coding::Q5_0),
    decoded(7, "q5_1", 32, 24, Coding::Q5_1),
    decoded(8, "q8_0", 32, 34, Coding::Q8_0),
    sized(9, "q8_1", 32, 40),
    decoded(10, "q2_K", 256, 84, Coding::Q2K),
    decoded(11, "q3_K", 256, 110, Coding::Q3K),
    decoded(12, "q4_K", 256, 144, Coding::Q4K),
    decoded(13, "q5_K", 256, 176, Coding::Q5K),
    decoded(14, "q6_K", 256, 210, Coding::Q6K),
    sized(15, "q8_K", 256, 292),
    sized(16, "iq2_xxs", 256, 66),
    sized(17, "iq2_xs", 256, 74),
    sized(18, "iq3_xxs", 256, 98),
    sized(19, "iq1_s", 256, 50),
    decoded(20, "iq4_nl", 32, 18, Coding::Iq4Nl),
    sized(21, "iq3_s", 256, 110),
    sized(22, "iq2_s", 256, 82),
    decoded(23, "iq4_xs", 256, 136, Coding::Iq4Xs),
    sized(24, "i8", 1, 1),
    sized(25, "i16", 1, 2),
    sized(26, "i32", 1, 4),
    sized(27, "i64", 1, 8),
    sized(28, "f64", 1, 8),
    sized(29, "iq1_m", 256, 56),
    decoded(30, "bf16", 1, 2, Coding::Bf16),
    sized(34, "tq1_0", 256, 54),
    sized(35, "tq2_0", 256, 66),
    decoded(39, "mxfp4", 32, 17, Coding::Mxfp4),
    sized(40, "nvfp4", 64, 36),
    sized(41, "q1_0", 128, 18),
];

/// The type of a number.
pub(super) fn find(id: u32) -> Option<BlockType> {
    ALL.into_iter().find(|known| known.id == id)
}

/// The names of the types that are decoded, for messages.
pub(super) fn decoded_names() -> String {
    let names: Vec<&str> =
        ALL.iter().filter(|known| known.coding.is_some()).map(|known| known.name).collect();
    names.join(", ")
}

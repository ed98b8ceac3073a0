//! Kernel parameters: each struct is declared once and exists twice, as `#[repr(C)]` Rust and as CUDA text with
//! `static_assert`s of its size and every offset, so host and device cannot drift apart.

/// A device address.
pub type Ptr = u64;

/// A kernel parameter struct with its CUDA twin.
pub trait Params: Copy + 'static {
    /// Struct name in CUDA.
    const NAME: &'static str;
    /// CUDA text of the twin.
    const CUDA: &'static str;
}

macro_rules! params {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident : $kind:tt = $cuda:literal),* $(,)? })*) => {
        $(
            $(#[$doc])*
            #[repr(C)]
            #[derive(Clone, Copy, Debug, Default, PartialEq)]
            pub struct $name { $($(#[$field_doc])* pub $field: params!(@rust $kind)),* }

            impl Params for $name {
                const NAME: &'static str = stringify!($name);
                const CUDA: &'static str = concat!(
                    "struct ", stringify!($name), " {\n",
                    $("  ", $cuda, " ", stringify!($field), ";\n",)*
                    "};\n",
                );
            }
        )*

        /// Every parameter struct's name, CUDA text, size and fields with their offsets: what the twins are checked against.
        pub const ALL: &[Twin] = &[$(Twin {
            name: stringify!($name),
            cuda: $name::CUDA,
            bytes: size_of::<$name>(),
            fields: &[$((stringify!($field), std::mem::offset_of!($name, $field))),*],
        }),*];
    };
    (@rust ptr) => { Ptr };
    (@rust u32) => { u32 };
    (@rust f32) => { f32 };
}

/// A parameter struct as the generator sees it.
#[derive(Clone, Copy, Debug)]
pub struct Twin {
    /// Struct name.
    pub name: &'static str,
    /// CUDA definition.
    pub cuda: &'static str,
    /// Size in bytes.
    pub bytes: usize,
    /// Field names and byte offsets.
    pub fields: &'static [(&'static str, usize)],
}

params! {
    /// Embedding rows into the residual.
    Embed { tokens: ptr = "const u32*" }
    /// A norm.
    RmsNorm { tokens: ptr = "const u32*" }
    /// A.
    Qkv { tokens: ptr = "const u32*" }
    /// B.
    Attention { tokens: ptr = "const u32*" }
    /// C.
    AttnOut { tokens: ptr = "const u32*" }
    /// D.
    Router { tokens: ptr = "const u32*" }
    /// Group.
    Group { tokens: ptr = "const u32*" }
    /// E.
    ExpertUp { tokens: ptr = "const u32*" }
    /// F.
    ExpertDown { tokens: ptr = "const u32*" }
    /// Sum.
    Combine { tokens: ptr = "const u32*" }
    /// Head.
    Unembed { tokens: ptr = "const u32*" }
    /// Sample.
    Sample { tokens: ptr = "const u32*" }
}

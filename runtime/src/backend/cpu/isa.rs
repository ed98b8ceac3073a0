//! The instruction set that the backend uses. It is chosen once, when the backend is created.

use crate::{Error, Result};

/// Environment variable that overrides the choice: `scalar`, `avx2` or `avx512`.
pub const OVERRIDE: &str = "OSSMITH_CPU";

/// An instruction set that this machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Isa {
    /// Plain scalar code: the readable oracle of all other instruction sets.
    pub const SCALAR: Isa = Isa(Kind::Scalar);

    /// The best instruction set of this machine, or the one that [`OVERRIDE`] names.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] if the override is unknown or this machine lacks it.
    pub fn detect() -> Result<Isa> {
        let Some(wanted) = std::env::var_os(OVERRIDE) else {
            return Ok(Isa::available().last().copied().unwrap_or(Isa::SCALAR));
        };
        Isa::named(&wanted.to_string_lossy())
    }

    /// The instruction set of this name.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] if the name is unknown or this machine lacks it.
    pub fn named(name: &str) -> Result<Isa> {
        let available = Isa::available();
        available.iter().find(|isa| isa.name() == name).copied().ok_or_else(|| {
            let names: Vec<&str> = available.iter().map(|isa| isa.name()).collect();
            Error::invalid_option(
                OVERRIDE,
                format!(
                    "{OVERRIDE}={name}: this machine runs {}; unset it or choose one of them",
                    names.join(", ")
                ),
            )
        })
    }

    /// All instruction sets of this machine, the fastest last.
    #[must_use]
    pub fn available() -> Vec<Isa> {
        #[allow(unused_mut)]
        let mut found = vec![Isa::SCALAR];
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            if avx2 {
                found.push(Isa(Kind::Avx2));
            }
            if avx2 && is_x86_feature_detected!("avx512f") {
                found.push(Isa(Kind::Avx512));
            }
        }
        found
    }

    /// Its name, as [`OVERRIDE`] spells it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self.0 {
            Kind::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => "avx512",
        }
    }

    pub(super) fn kind(self) -> Kind {
        self.0
    }
}

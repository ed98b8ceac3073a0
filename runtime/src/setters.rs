//! `with_…` methods for structs of options. Those are `#[non_exhaustive]`, so that a new option breaks nobody, and a
//! caller in another crate cannot write them as a literal.

/// Writes a method for each field, which sets it and returns the whole.
macro_rules! setters {
    ($type:ident { $($method:ident($field:ident: $value:ty)),+ $(,)? }) => {
        impl $type {
            $(
                #[doc = concat!("Sets [`", stringify!($type), "::", stringify!($field), "`].")]
                #[must_use]
                pub fn $method(mut self, $field: $value) -> $type {
                    self.$field = $field.into();
                    self
                }
            )+
        }
    };
}

pub(crate) use setters;

//! What converting weights costs in precision.

/// How far a conversion moved values.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct AddedError {
    /// Sum of the squared differences.
    pub(crate) squared_error: f64,
    /// Sum of the squared stored values.
    pub(crate) squared_values: f64,
}

impl AddedError {
    /// The root mean square of the differences over that of the values; 0 for a tensor of zeros.
    pub(crate) fn relative(&self) -> f64 {
        if self.squared_values > 0.0 {
            (self.squared_error / self.squared_values).sqrt()
        } else {
            0.0
        }
    }

    /// Both together.
    pub(crate) fn and(self, other: AddedError) -> AddedError {
        AddedError {
            squared_error: self.squared_error + other.squared_error,
            squared_values: self.squared_values + other.squared_values,
        }
    }
}

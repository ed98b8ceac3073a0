//! Logits of a prompt, which NumPy views without a copy.

use pyo3::prelude::*;
use pyo3::types::PyDict;

/// Rows of logits, `[tokens, vocab]` of float32 in the byte order of this machine. It keeps the memory that an array over
/// it shows.
#[pyclass(frozen, module = "ossmith._ossmith")]
pub(crate) struct Logits {
    values: Vec<f32>,
    vocab: usize,
}

impl Logits {
    pub(crate) fn new(values: Vec<f32>, vocab: usize) -> Logits {
        Logits { values, vocab }
    }
}

#[pymethods]
impl Logits {
    /// `(tokens, vocab)`.
    #[getter]
    fn shape(&self) -> (usize, usize) {
        (self.values.len() / self.vocab, self.vocab)
    }

    /// NumPy's array interface, version 3: read-only, rows one after the other.
    #[getter]
    fn __array_interface__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let interface = PyDict::new(py);
        interface.set_item("version", 3)?;
        interface.set_item("shape", self.shape())?;
        interface.set_item("typestr", if cfg!(target_endian = "big") { ">f4" } else { "<f4" })?;
        interface.set_item("data", (self.values.as_ptr().addr(), true))?;
        Ok(interface)
    }
}

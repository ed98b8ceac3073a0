//! The buffers of a step: one for each graph value, with one row per token.

use ossmith_plan::{DType, Model, Value};

use super::gemm::Scratch;
use crate::{Error, Result};

/// One buffer for each value of the graph, `[rows, row elements]`, made when first written.
#[derive(Debug)]
pub struct Values {
    model: &'static Model,
    rows: usize,
    /// The layer whose values these are, which decides their widths.
    layer: usize,
    floats: Vec<Vec<f32>>,
    ids: Vec<Vec<u32>>,
    written: Vec<bool>,
    /// Working memory of GEMMs, kept between nodes.
    pub(super) scratch: Scratch,
}

impl Values {
    /// No values yet, for `rows` tokens.
    #[must_use]
    pub fn new(model: &'static Model, rows: usize) -> Values {
        let count = Value::Logits as usize + 1;
        Values {
            model,
            rows,
            layer: 0,
            floats: vec![Vec::new(); count],
            ids: vec![Vec::new(); count],
            written: vec![false; count],
            scratch: Scratch::default(),
        }
    }

    /// Forgets all values and sets the number of rows; memory is kept.
    pub fn reset(&mut self, rows: usize) {
        self.rows = rows;
        self.written.fill(false);
    }

    /// Selects the layer whose values follow. Values of other layers remain where they have the same width.
    pub fn set_layer(&mut self, layer: usize) {
        self.layer = layer;
    }

    /// Elements of one token's row of a value.
    pub(super) fn row_elements(&self, value: Value) -> usize {
        self.model.graph.row_elements(value, self.layer)
    }

    /// Tokens in each value.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// An f32 value, `[rows, row elements]`.
    ///
    /// # Errors
    /// [`Error::Internal`] if it was not written or holds ids.
    pub fn f32(&self, value: Value) -> Result<&[f32]> {
        self.expect(value, DType::F32)?;
        Ok(&self.floats[value as usize])
    }

    /// A value of token or expert ids, `[rows, row elements]`.
    ///
    /// # Errors
    /// [`Error::Internal`] if it was not written or holds f32.
    pub fn u32(&self, value: Value) -> Result<&[u32]> {
        self.expect(value, DType::U32)?;
        Ok(&self.ids[value as usize])
    }

    /// Sets an f32 value.
    ///
    /// # Errors
    /// [`Error::Internal`] if the value holds ids or `data` is not `[rows, row elements]`.
    pub fn set_f32(&mut self, value: Value, data: &[f32]) -> Result<()> {
        self.check(value, DType::F32, data.len())?;
        let mut buffer = self.take_f32(value);
        buffer.copy_from_slice(data);
        self.put_f32(value, buffer);
        Ok(())
    }

    /// Sets a value of ids.
    ///
    /// # Errors
    /// [`Error::Internal`] if the value holds f32 or `data` is not `[rows, row elements]`.
    pub fn set_u32(&mut self, value: Value, data: &[u32]) -> Result<()> {
        self.check(value, DType::U32, data.len())?;
        self.ids[value as usize].clear();
        self.ids[value as usize].extend_from_slice(data);
        self.written[value as usize] = true;
        Ok(())
    }

    /// Takes a buffer out to be written, at its full size and with its previous contents; [`Values::put_f32`] puts it back.
    pub(super) fn take_f32(&mut self, value: Value) -> Vec<f32> {
        let mut buffer = std::mem::take(&mut self.floats[value as usize]);
        buffer.resize(self.rows * self.row_elements(value), 0.0);
        buffer
    }

    /// Takes a buffer out to be updated in place.
    pub(super) fn take_written_f32(&mut self, value: Value) -> Result<Vec<f32>> {
        self.expect(value, DType::F32)?;
        Ok(self.take_f32(value))
    }

    pub(super) fn put_f32(&mut self, value: Value, buffer: Vec<f32>) {
        self.floats[value as usize] = buffer;
        self.written[value as usize] = true;
    }

    fn expect(&self, value: Value, dtype: DType) -> Result<()> {
        if !self.written[value as usize] {
            return Err(Error::Internal(format!("value {value:?} is read before it is written")));
        }
        let held = if self.dtype(value) == DType::U32 {
            self.ids[value as usize].len()
        } else {
            self.floats[value as usize].len()
        };
        self.check(value, dtype, held)
    }

    fn check(&self, value: Value, dtype: DType, len: usize) -> Result<()> {
        let (held, wanted) = (self.dtype(value), self.rows * self.row_elements(value));
        if held == dtype && len == wanted {
            return Ok(());
        }
        Err(Error::Internal(format!(
            "value {value:?} is {wanted} elements of {held:?}, not {len} of {dtype:?}"
        )))
    }

    fn dtype(&self, value: Value) -> DType {
        self.model.graph.value(value, self.layer).dtype
    }
}

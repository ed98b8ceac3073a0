//! The device's own clock: marks around the kernels of each step, and from them how long the device computed and how long
//! it waited between steps.

use std::sync::Arc;

use cudarc::driver::sys::CUevent_flags::CU_EVENT_DEFAULT;
use cudarc::driver::{CudaContext, CudaEvent, CudaStream};

use super::memory::device_error;
use crate::Result;
use crate::backend::StepTime;

/// Before a step's first kernel, after its words have come, and after its last kernel; and around what lies between its
/// layers and its sampling, if that was submitted later.
#[derive(Debug)]
pub(super) struct Marks {
    begin: CudaEvent,
    layers_end: CudaEvent,
    sampling: CudaEvent,
    end: CudaEvent,
    sampled_later: bool,
}

impl Marks {
    pub(super) fn new(context: &Arc<CudaContext>) -> Result<Marks> {
        let event =
            || context.new_event(Some(CU_EVENT_DEFAULT)).map_err(device_error("make an event"));
        Ok(Marks {
            begin: event()?,
            layers_end: event()?,
            sampling: event()?,
            end: event()?,
            sampled_later: false,
        })
    }

    /// Marks the beginning in stream order.
    pub(super) fn begin(&mut self, stream: &CudaStream) -> Result<()> {
        self.sampled_later = false;
        self.begin.record(stream).map_err(device_error("mark the start of a step"))
    }

    /// Marks the end of the layers in stream order, where sampling is submitted later.
    pub(super) fn layers_end(&mut self, stream: &CudaStream) -> Result<()> {
        self.sampled_later = true;
        self.layers_end.record(stream).map_err(device_error("mark the end of a step's layers"))
    }

    /// Marks the beginning of a sampling that was submitted later.
    pub(super) fn sampling(&self, stream: &CudaStream) -> Result<()> {
        self.sampling.record(stream).map_err(device_error("mark the start of a step's sampling"))
    }

    /// Marks the end in stream order.
    pub(super) fn end(&self, stream: &CudaStream) -> Result<()> {
        self.end.record(stream).map_err(device_error("mark the end of a step's kernels"))
    }
}

/// The step that was collected last.
#[derive(Debug)]
pub(super) struct Clock {
    last: Option<Marks>,
    time: Option<StepTime>,
}

impl Clock {
    pub(super) fn new() -> Clock {
        Clock { last: None, time: None }
    }

    /// Its times.
    pub(super) fn time(&self) -> Option<StepTime> {
        self.time
    }

    /// Reads the marks of a step that is done, and gives others for a later step: the next one's idle time begins at
    /// these, so they must not be set again before.
    pub(super) fn read(&mut self, marks: Marks, context: &Arc<CudaContext>) -> Result<Marks> {
        let seconds = |from: &CudaEvent, to: &CudaEvent| -> Result<f64> {
            let milliseconds = from.elapsed_ms(to).map_err(device_error("read its clock"))?;
            Ok(f64::from(milliseconds) / 1e3)
        };
        let (whole, before) = (
            seconds(&marks.begin, &marks.end)?,
            self.last.as_ref().map_or(Ok(0.0), |last| seconds(&last.end, &marks.begin))?,
        );
        let between =
            if marks.sampled_later { seconds(&marks.layers_end, &marks.sampling)? } else { 0.0 };
        self.time = Some(StepTime { busy: whole - between, idle: before + between });
        self.last.replace(marks).map_or_else(|| Marks::new(context), Ok)
    }
}

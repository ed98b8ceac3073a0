//! The runtime's errors as Python's exceptions. The classes are Python's own, in `ossmith/errors.py`, since some of them
//! have two bases; the text is the runtime's.

use ossmith::Error;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyType;

/// The exception of a runtime's error.
pub(crate) fn of_runtime(py: Python<'_>, error: &Error) -> PyErr {
    let class = match error {
        Error::Prompt { source, .. } => class(source),
        error => class(error),
    };
    of_class(py, class, error.to_string())
}

fn class(error: &Error) -> &'static str {
    match error {
        Error::PromptTooLong { .. } => "PromptTooLongError",
        Error::InvalidRequest { .. }
        | Error::InvalidOption { .. }
        | Error::CacheTooSmall { .. } => "InvalidRequestError",
        Error::QueueFull { .. } => "QueueFullError",
        Error::NotIdle { .. } => "EngineBusyError",
        Error::ShutDown | Error::Stopped { .. } => "EngineStoppedError",
        Error::File { .. } | Error::Checkpoint { .. } | Error::Weight { .. } => "CheckpointError",
        Error::DeviceUnavailable { .. } | Error::Device { .. } => "DeviceError",
        Error::OutOfMemory { .. } => "OutOfDeviceMemoryError",
        Error::Rank { problem, .. } => class(problem),
        _ => "OssmithError",
    }
}

/// An exception of a class of `ossmith.errors`.
pub(crate) fn of_class(py: Python<'_>, class: &str, text: String) -> PyErr {
    let find = || -> PyResult<PyErr> {
        let class = py.import("ossmith.errors")?.getattr(class)?.cast_into::<PyType>()?;
        Ok(PyErr::from_type(class, (text.clone(),)))
    };
    find().unwrap_or_else(|_| PyRuntimeError::new_err(text.clone()))
}

/// An exception of harmony.
pub(crate) fn of_harmony(py: Python<'_>, error: impl std::fmt::Display) -> PyErr {
    of_class(py, "HarmonyError", error.to_string())
}

/// Arguments that are not what they should be.
pub(crate) fn invalid(py: Python<'_>, text: impl Into<String>) -> PyErr {
    of_class(py, "InvalidRequestError", text.into())
}

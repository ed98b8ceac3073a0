//! Device memory and page-locked host memory, freed when dropped.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaStream, DriverError, result, sys};
use ossmith_plan::params::Ptr;

use crate::{Error, Result};

/// What failed on the device, in words.
pub(super) fn device_error(action: &str) -> impl FnOnce(DriverError) -> Error + '_ {
    move |error| Error::device(action, format_args!("the CUDA driver reports {error}"))
}

/// Rows of bytes to copy from one buffer to another: offsets, distances between rows, and the bytes of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RowCopy {
    pub source: usize,
    pub source_pitch: usize,
    pub target: usize,
    pub target_pitch: usize,
    pub bytes: usize,
    pub rows: usize,
}

/// Bytes of device memory.
#[derive(Debug)]
pub(super) struct Buffer {
    pointer: Ptr,
    bytes: usize,
    context: Arc<CudaContext>,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.context.bind_to_thread().is_ok() {
            // SAFETY: `pointer` came from `malloc_sync` and is freed once; the driver waits for work that uses it.
            let _ = unsafe { result::free_sync(self.pointer) };
        }
    }
}

impl Buffer {
    /// Zeroed memory; `what` names it in errors.
    pub(super) fn zeroed(context: &Arc<CudaContext>, bytes: usize, what: &str) -> Result<Buffer> {
        let bytes = bytes.max(16);
        context.bind_to_thread().map_err(device_error("select the device"))?;
        // SAFETY: a plain allocation on the current context.
        let pointer = unsafe { result::malloc_sync(bytes) }.map_err(|error| {
            let free = result::mem_get_info().map_or(0, |(free, _)| free);
            Error::OutOfMemory {
                needed_bytes: bytes as u64,
                available_bytes: Some(free as u64),
                problem: format!(
                    "no room on the device for {what}: {:.2} GB needed, {:.2} GB free ({error}); \
                     lower the limits (sequences, pages, step tokens) or use a smaller model",
                    bytes as f64 / 1e9,
                    free as f64 / 1e9
                ),
            }
        })?;
        let buffer = Buffer { pointer, bytes, context: context.clone() };
        // SAFETY: the allocation has `bytes` bytes.
        unsafe { result::memset_d8_sync(pointer, 0, bytes) }
            .and_then(|()| wait_for_default_stream())
            .map_err(device_error("clear memory"))?;
        Ok(buffer)
    }

    /// The device address.
    pub(super) fn ptr(&self) -> Ptr {
        self.pointer
    }

    /// The device address `bytes` into the buffer.
    pub(super) fn at(&self, bytes: usize) -> Ptr {
        debug_assert!(bytes <= self.bytes, "{bytes} bytes into a buffer of {}", self.bytes);
        self.pointer + bytes as Ptr
    }

    /// Size in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Copies host data to `offset` bytes into the buffer and waits.
    pub(super) fn write<T: bytemuck::NoUninit>(&self, offset: usize, data: &[T]) -> Result<()> {
        self.check(offset, size_of_val(data))?;
        // SAFETY: the range lies in this allocation, and `data` is no longer read when the copy returns.
        unsafe { result::memcpy_htod_sync(self.at(offset), data) }
            .and_then(|()| wait_for_default_stream())
            .map_err(device_error("copy to the device"))
    }

    /// Copies from `offset` bytes into the buffer to host data and waits for the copy, not for earlier kernels of
    /// other streams.
    pub(super) fn read<T: bytemuck::AnyBitPattern>(
        &self,
        offset: usize,
        data: &mut [T],
    ) -> Result<()> {
        self.check(offset, size_of_val(data))?;
        // SAFETY: the range lies in this allocation, and the copy is synchronous.
        unsafe { result::memcpy_dtoh_sync(data, self.at(offset)) }
            .map_err(device_error("copy from the device"))
    }

    /// Copies bytes of another buffer to `offset` bytes into this one, in stream order.
    pub(super) fn copy_from(
        &self,
        stream: &CudaStream,
        offset: usize,
        source: &Buffer,
        source_offset: usize,
        bytes: usize,
    ) -> Result<()> {
        self.check(offset, bytes)?;
        source.check(source_offset, bytes)?;
        let (to, from) = (self.at(offset), source.at(source_offset));
        // SAFETY: both ranges lie in live allocations, which outlive the stream's work: the backend waits for it when dropped.
        unsafe { result::memcpy_dtod_async(to, from, bytes, stream.cu_stream()) }
            .map_err(device_error("copy on the device"))
    }

    /// Copies rows of bytes of another buffer into this one, in stream order.
    pub(super) fn copy_rows_from(
        &self,
        stream: &CudaStream,
        source: &Buffer,
        copy: &RowCopy,
    ) -> Result<()> {
        let &RowCopy { source: from, source_pitch, target, target_pitch, bytes, rows } = copy;
        let last = rows.saturating_sub(1);
        source.check(from, last * source_pitch + bytes)?;
        self.check(target, last * target_pitch + bytes)?;
        let device = sys::CUmemorytype::CU_MEMORYTYPE_DEVICE;
        let described = sys::CUDA_MEMCPY2D {
            srcXInBytes: 0,
            srcY: 0,
            srcMemoryType: device,
            srcHost: std::ptr::null(),
            srcDevice: source.at(from),
            srcArray: std::ptr::null_mut(),
            srcPitch: source_pitch,
            dstXInBytes: 0,
            dstY: 0,
            dstMemoryType: device,
            dstHost: std::ptr::null_mut(),
            dstDevice: self.at(target),
            dstArray: std::ptr::null_mut(),
            dstPitch: target_pitch,
            WidthInBytes: bytes,
            Height: rows,
        };
        // SAFETY: both ranges lie in live allocations (checked above), and the caller waits for the stream before either goes.
        unsafe { sys::cuMemcpy2DAsync_v2(&raw const described, stream.cu_stream()) }
            .result()
            .map_err(device_error("copy on the device"))
    }

    fn check(&self, offset: usize, length: usize) -> Result<()> {
        let fits = offset.checked_add(length).is_some_and(|end| end <= self.bytes);
        let problem = || {
            Error::Internal(format!(
                "{length} bytes at {offset} of a device buffer of {}",
                self.bytes
            ))
        };
        if fits { Ok(()) } else { Err(problem()) }
    }
}

/// Waits for what was done on the default stream. Clearing memory is asynchronous there, a copy from pageable memory
/// returns when the driver has staged it (CUDA driver API, "API synchronization behavior"), and the backend's own stream
/// waits for neither.
fn wait_for_default_stream() -> std::result::Result<(), DriverError> {
    // SAFETY: null is the default stream, which always exists.
    unsafe { result::stream::synchronize(std::ptr::null_mut()) }
}

/// Page-locked host memory of 32-bit words, from and to which the device copies while the host goes on.
#[derive(Debug)]
pub(super) struct Pinned {
    pointer: *mut u32,
    words: usize,
    context: Arc<CudaContext>,
}

// SAFETY: the memory is plain words that this value alone owns.
unsafe impl Send for Pinned {}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.context.bind_to_thread().is_ok() {
            // SAFETY: the pointer came from `malloc_host` and is freed once; whoever owns this value has waited for the copies.
            let _ = unsafe { result::free_host(self.pointer.cast::<c_void>()) };
        }
    }
}

impl Pinned {
    pub(super) fn zeroed(context: &Arc<CudaContext>, words: usize) -> Result<Pinned> {
        let words = words.max(1);
        context.bind_to_thread().map_err(device_error("select the device"))?;
        // SAFETY: a plain page-locked allocation; it is filled before anything reads it.
        let pointer = unsafe { result::malloc_host(words * 4, 0) }
            .map_err(device_error("lock host memory"))?
            .cast::<u32>();
        // SAFETY: the allocation has `words` words and is aligned to a page.
        unsafe { pointer.write_bytes(0, words) };
        Ok(Pinned { pointer, words, context: context.clone() })
    }

    pub(super) fn words(&self) -> &[u32] {
        // SAFETY: the allocation lives as long as `self`, has `words` initialised words, and the device writes to it
        // only in steps that were waited for before.
        unsafe { std::slice::from_raw_parts(self.pointer, self.words) }
    }

    pub(super) fn words_mut(&mut self) -> &mut [u32] {
        // SAFETY: as above, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.pointer, self.words) }
    }

    /// The device address: page-locked memory has the same one for host and device.
    pub(super) fn ptr(&self) -> Ptr {
        self.pointer as Ptr
    }

    /// A word that a kernel may write at any time.
    pub(super) fn volatile(&self, index: usize) -> u32 {
        assert!(index < self.words, "word {index} of {}", self.words);
        // SAFETY: the word lies in this allocation (checked above).
        unsafe { self.pointer.add(index).read_volatile() }
    }

    /// Copies `range` of these words to `destination`, in stream order. The words must stay as they are until the
    /// stream has passed this point.
    pub(super) fn copy_to(
        &self,
        stream: &CudaStream,
        range: std::ops::Range<usize>,
        destination: Ptr,
    ) -> Result<()> {
        let words = &self.words()[range];
        // SAFETY: the source is page-locked and outlives the step (it is kept with it); the destination was sized for it.
        unsafe { result::memcpy_htod_async(destination, words, stream.cu_stream()) }
            .map_err(device_error("copy to the device"))
    }

    /// Copies device words to `range` of these, in stream order. They are valid once the stream has passed this point.
    pub(super) fn copy_from(
        &mut self,
        stream: &CudaStream,
        source: Ptr,
        range: std::ops::Range<usize>,
    ) -> Result<()> {
        let target = &mut self.words_mut()[range];
        // SAFETY: the target is page-locked and outlives the step; the source holds at least as many words.
        unsafe { result::memcpy_dtoh_async(target, source, stream.cu_stream()) }
            .map_err(device_error("copy from the device"))
    }
}

impl AsRef<[u32]> for Pinned {
    fn as_ref(&self) -> &[u32] {
        self.words()
    }
}

impl AsMut<[u32]> for Pinned {
    fn as_mut(&mut self) -> &mut [u32] {
        self.words_mut()
    }
}

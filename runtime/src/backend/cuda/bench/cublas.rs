//! The vendor's GEMMs beside ours: cuBLASLt in bf16, on the shapes of a phase. The library is looked for when a kernel is
//! timed, beside NVRTC in the folder that `OSSMITH_NVRTC` names, or as a system library; nothing else needs it.

use std::path::PathBuf;
use std::sync::OnceLock;

use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys;
use cudarc::driver::CudaStream;
use libloading::Library;
use ossmith_plan::Gemm;

use super::super::memory::Buffer;
use crate::{Error, Result};

const LIBRARY: &str = "libcublasLt.so.13";

/// What NVIDIA recommends for Hopper.
const WORKSPACE_BYTES: usize = 32 << 20;

/// Makes sure that cuBLASLt is there, since cudarc panics where it is not; otherwise says why it is not.
pub(super) fn load() -> std::result::Result<(), &'static str> {
    static LOADED: OnceLock<std::result::Result<Option<Library>, String>> = OnceLock::new();
    let open = || {
        let folder = std::env::var_os("OSSMITH_NVRTC").map(PathBuf::from);
        // SAFETY: loading cuBLASLt runs its initialisers, which have no preconditions. One that is loaded by its path is
        // found by its name from then on.
        let beside = folder.map(|folder| unsafe { Library::new(folder.join(LIBRARY)) });
        match beside {
            Some(Ok(library)) => Ok(Some(library)),
            // SAFETY: as above.
            _ if unsafe { sys::is_culib_present() } => Ok(None),
            Some(Err(error)) => Err(format!("{LIBRARY} is not installed ({error})")),
            None => Err(format!("{LIBRARY} is not installed")),
        }
    };
    LOADED.get_or_init(open).as_ref().map(|_| ()).map_err(String::as_str)
}

/// A GEMM that is ready to launch: `[m, k]` by `[n, k]` transposed, all of them bf16, summed in f32.
#[derive(Debug)]
pub(super) struct CublasGemm {
    handle: sys::cublasLtHandle_t,
    operation: sys::cublasLtMatmulDesc_t,
    weights: Operand,
    activations: Operand,
    output: Operand,
    algorithm: sys::cublasLtMatmulAlgo_t,
    workspace: Buffer,
}

/// A matrix in row-major order, which to cuBLAS is its transpose.
#[derive(Debug)]
struct Operand {
    layout: sys::cublasLtMatrixLayout_t,
    data: Buffer,
}

impl Operand {
    fn new(rows: usize, columns: usize, data: Buffer) -> Result<Operand> {
        let bf16 = sys::cudaDataType_t::CUDA_R_16BF;
        let layout =
            result::create_matrix_layout(bf16, columns as u64, rows as u64, columns as i64)
                .map_err(cublas_error("describe a matrix"))?;
        Ok(Operand { layout, data })
    }
}

impl Drop for Operand {
    fn drop(&mut self) {
        // SAFETY: the layout was created by `new` and is destroyed once.
        let _ = unsafe { result::destroy_matrix_layout(self.layout) };
    }
}

impl Drop for CublasGemm {
    fn drop(&mut self) {
        // SAFETY: both were created by `new` and are destroyed once.
        let _ = unsafe { result::destroy_matmul_desc(self.operation) };
        // SAFETY: as above.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

impl CublasGemm {
    /// A GEMM with the algorithm that the library's heuristic puts first. `matrix` makes a buffer of random bf16 values.
    /// [`load`] must have found the library.
    pub(super) fn new(gemm: Gemm, matrix: &dyn Fn(usize) -> Result<Buffer>) -> Result<CublasGemm> {
        let Gemm { m, n, k } = gemm;
        let operand = |rows: usize, columns: usize| {
            Operand::new(rows, columns, matrix(rows * columns * size_of::<u16>())?)
        };
        let (weights, activations, output) = (operand(n, k)?, operand(m, k)?, operand(m, n)?);
        let workspace = matrix(WORKSPACE_BYTES)?;
        let handle = result::create_handle().map_err(cublas_error("start"))?;
        let operation = result::create_matmul_desc(
            sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            sys::cudaDataType_t::CUDA_R_32F,
        );
        let operation = match operation {
            Ok(operation) => operation,
            Err(error) => {
                // SAFETY: the handle was created above and nothing uses it.
                let _ = unsafe { result::destroy_handle(handle) };
                return Err(cublas_error("describe a GEMM")(error));
            }
        };
        let algorithm = sys::cublasLtMatmulAlgo_t { data: [0; 8] };
        let mut it =
            CublasGemm { handle, operation, weights, activations, output, algorithm, workspace };
        it.algorithm = it.choose().map_err(cublas_error("choose an algorithm"))?;
        Ok(it)
    }

    fn choose(&self) -> std::result::Result<sys::cublasLtMatmulAlgo_t, CublasError> {
        let (transposed, workspace_bytes) = (1_i32, WORKSPACE_BYTES);
        let output = self.output.layout;
        let preference = result::create_matmul_pref()?;
        // SAFETY: every object is live, and each attribute is of the type and size that the library documents for it.
        let chosen = unsafe {
            result::set_matmul_desc_attribute(
                self.operation,
                sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA,
                (&raw const transposed).cast(),
                size_of::<i32>(),
            )
            .and_then(|()| {
                result::set_matmul_pref_attribute(
                    preference,
                    sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                    (&raw const workspace_bytes).cast(),
                    size_of::<usize>(),
                )
            })
            .and_then(|()| {
                result::get_matmul_algo_heuristic(
                    self.handle,
                    self.operation,
                    self.weights.layout,
                    self.activations.layout,
                    output,
                    output,
                    preference,
                )
            })
        };
        // SAFETY: the preference was created above and is destroyed once.
        unsafe { result::destroy_matmul_pref(preference) }?;
        Ok(chosen?.algo)
    }

    /// Launches it.
    pub(super) fn launch(&self, stream: &CudaStream) -> Result<()> {
        let (one, zero) = (1.0_f32, 0.0_f32);
        let output = self.output.data.ptr();
        // SAFETY: the layouts describe the buffers, which live as long as the GEMM; both factors are live f32.
        unsafe {
            result::matmul(
                self.handle,
                self.operation,
                (&raw const one).cast(),
                (&raw const zero).cast(),
                self.weights.data.ptr() as *const _,
                self.weights.layout,
                self.activations.data.ptr() as *const _,
                self.activations.layout,
                output as *const _,
                self.output.layout,
                output as *mut _,
                self.output.layout,
                &self.algorithm,
                self.workspace.ptr() as *mut _,
                WORKSPACE_BYTES,
                stream.cu_stream().cast(),
            )
        }
        .map_err(cublas_error("launch a GEMM"))
    }
}

fn cublas_error(action: &str) -> impl FnOnce(CublasError) -> Error + '_ {
    move |error| Error::device(action, format_args!("cuBLASLt reports {error}"))
}

//! Launches on a CUDA device.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use candle_core::backend::BackendDevice;
use candle_core::cuda_backend::cudarc::driver::sys::CUdeviceptr;
use candle_core::cuda_backend::cudarc::driver::{
    CudaSlice, CudaStream, DevicePtr, DevicePtrMut, LaunchConfig, PushKernelArg, SyncOnDrop,
};
use candle_core::cuda_backend::cudarc::nvrtc::{CompileOptions, compile_ptx_with_opts, sys::nvrtcVersion};
use candle_core::cuda_backend::{CudaDevice, CudaStorage, CudaStorageSlice, DeviceId, WrapErr};
use candle_core::{DType, Error, Result, Shape, Storage, bail};

use super::program::{Cache, source};
use super::{Arg, Launch};

/// Programs that this process has compiled or read, for each device and type.
type Programs = HashMap<(DeviceId, DType), Arc<Program>>;
static PROGRAMS: LazyLock<Mutex<Programs>> = LazyLock::new(Mutex::default);

struct Program {
    /// The name under which the device knows it.
    module: String,
    ptx: String,
}

/// The kernels for tensors of type `scalar`, compiled for the device.
fn program(device: &CudaDevice, scalar: DType) -> Result<Arc<Program>> {
    // A panic leaves whole entries only.
    let mut programs = PROGRAMS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(program) = programs.get(&(device.id(), scalar)) {
        return Ok(Arc::clone(program));
    }
    let (major, minor) = device.cuda_stream().context().compute_capability().w()?;
    let text = source(scalar)?;
    let (mut compiler, mut detail) = (0, 0);
    // SAFETY: it writes two integers.
    let asked = unsafe { nvrtcVersion(&mut compiler, &mut detail) };
    asked.result().map_err(|e| Error::Msg(format!("ask NVRTC for its version: {e}")))?;
    let arch = format!("compute_{major}{minor}");
    let key = format!("{arch} nvrtc {compiler}.{detail}\n{text}");
    let ptx = Cache::of_user().get(&key, || compile(&text, &arch))?;
    let program = Arc::new(Program { module: format!("sana-{}", scalar.as_str()), ptx });
    programs.insert((device.id(), scalar), Arc::clone(&program));
    Ok(program)
}

/// The program for an architecture such as `compute_90`, in the driver's assembly.
fn compile(text: &str, arch: &str) -> Result<String> {
    let options = CompileOptions {
        options: vec![format!("--gpu-architecture={arch}"), "--std=c++17".to_owned()],
        ..CompileOptions::default()
    };
    let compiled = compile_ptx_with_opts(text, options);
    Ok(compiled.map_err(|e| Error::Msg(format!("compile the CUDA kernels for {arch}: {e}")))?.to_src())
}

/// Runs a launch whose target is new.
pub(super) fn make(
    launch: &Launch<'_>,
    device: &CudaDevice,
    shape: &Shape,
    dtype: DType,
) -> Result<CudaStorage> {
    // SAFETY: the kernel writes every value; the tests on the host see to that.
    let mut target = unsafe { device.alloc_uninit(shape, dtype)? };
    run(launch, device, &mut target, 0)?;
    Ok(target)
}

/// Runs a launch that changes the values of `target` from `start` on.
pub(super) fn change(launch: &Launch<'_>, target: &mut CudaStorage, start: usize) -> Result<()> {
    let device = target.device.clone();
    run(launch, &device, target, start)
}

/// An argument as the driver wants it pointed to.
enum Value {
    Pointer(CUdeviceptr),
    Int(i32),
    Float(f32),
}

fn run(launch: &Launch<'_>, device: &CudaDevice, target: &mut CudaStorage, start: usize) -> Result<()> {
    let name = launch.kernel.name;
    let stream = device.cuda_stream();
    let program = program(device, launch.scalar)?;
    let function = device.get_or_load_custom_func(name, &program.module, &program.ptx).map_err(|e| {
        Error::Msg(format!(
            "load the CUDA kernel {name}: {e}; a driver older than NVRTC refuses its programs"
        ))
    })?;
    let storages: Vec<_> = launch
        .args
        .iter()
        .map(|arg| match arg {
            Arg::Tensor(tensor) => Some(tensor.storage_and_layout()),
            Arg::Nothing | Arg::Target | Arg::Int(_) | Arg::Float(_) => None,
        })
        .collect();
    let (place, target_use) = pointer_mut(&mut target.slice, start, &stream)?;
    // What is recorded when these go: that the tensors were in use until after the launch.
    let mut uses = vec![target_use];
    let mut values = Vec::with_capacity(launch.args.len());
    for (arg, storage) in launch.args.iter().zip(&storages) {
        values.push(match (arg, storage) {
            (Arg::Tensor(_), Some((storage, layout))) => {
                let Storage::Cuda(storage) = &**storage else {
                    bail!("{name}: a tensor is not on the CUDA device")
                };
                if storage.device.id() != device.id() {
                    bail!("{name}: a tensor is on another CUDA device");
                }
                let (place, tensor_use) = pointer(&storage.slice, layout.start_offset(), &stream)?;
                uses.push(tensor_use);
                Value::Pointer(place)
            }
            (Arg::Target, _) => Value::Pointer(place),
            // Fits: checked before every run.
            (Arg::Int(value), _) => Value::Int(*value as i32),
            (Arg::Float(value), _) => Value::Float(*value),
            (Arg::Nothing | Arg::Tensor(_), _) => Value::Pointer(0),
        });
    }
    let mut builder = function.builder();
    for value in &values {
        match value {
            Value::Pointer(value) => builder.arg(value),
            Value::Int(value) => builder.arg(value),
            Value::Float(value) => builder.arg(value),
        };
    }
    let ([x, y, z], [width, height, depth]) = (launch.grid(), launch.block());
    let config = LaunchConfig { grid_dim: (x, y, z), block_dim: (width, height, depth), shared_mem_bytes: 0 };
    // SAFETY: the arguments were compared with the kernel's row of the table, which a test compares with the source; the
    // layers check that the tensors are as long as the kernel reads and writes. All work of a device is on one stream.
    unsafe { builder.launch(config) }.w()?;
    drop(uses);
    Ok(())
}

/// Where the values from `start` on are, and a mark of their use.
fn pointer<'a>(
    slice: &'a CudaStorageSlice,
    start: usize,
    stream: &'a CudaStream,
) -> Result<(CUdeviceptr, SyncOnDrop<'a>)> {
    fn of<'a, T>(
        slice: &'a CudaSlice<T>,
        start: usize,
        stream: &'a CudaStream,
    ) -> (CUdeviceptr, SyncOnDrop<'a>) {
        let (first, mark) = slice.device_ptr(stream);
        (first + (start * size_of::<T>()) as CUdeviceptr, mark)
    }
    Ok(match slice {
        CudaStorageSlice::F32(slice) => of(slice, start, stream),
        CudaStorageSlice::BF16(slice) => of(slice, start, stream),
        CudaStorageSlice::F16(slice) => of(slice, start, stream),
        CudaStorageSlice::F64(slice) => of(slice, start, stream),
        CudaStorageSlice::U32(slice) => of(slice, start, stream),
        CudaStorageSlice::U8(slice) => of(slice, start, stream),
        _ => bail!("no CUDA kernel reads tensors of this type"),
    })
}

fn pointer_mut<'a>(
    slice: &'a mut CudaStorageSlice,
    start: usize,
    stream: &'a CudaStream,
) -> Result<(CUdeviceptr, SyncOnDrop<'a>)> {
    fn of<'a, T>(
        slice: &'a mut CudaSlice<T>,
        start: usize,
        stream: &'a CudaStream,
    ) -> (CUdeviceptr, SyncOnDrop<'a>) {
        let (first, mark) = slice.device_ptr_mut(stream);
        (first + (start * size_of::<T>()) as CUdeviceptr, mark)
    }
    Ok(match slice {
        CudaStorageSlice::F32(slice) => of(slice, start, stream),
        CudaStorageSlice::BF16(slice) => of(slice, start, stream),
        CudaStorageSlice::F16(slice) => of(slice, start, stream),
        CudaStorageSlice::F64(slice) => of(slice, start, stream),
        CudaStorageSlice::U32(slice) => of(slice, start, stream),
        CudaStorageSlice::U8(slice) => of(slice, start, stream),
        _ => bail!("no CUDA kernel writes tensors of this type"),
    })
}

#[cfg(test)]
mod tests {
    use super::super::table::ALL;
    use super::*;

    #[test]
    fn nvrtc_compiles_every_kernel_for_every_architecture() {
        for arch in ["compute_80", "compute_89", "compute_90"] {
            for scalar in [DType::F32, DType::BF16, DType::F16] {
                let ptx = compile(&source(scalar).unwrap(), arch).unwrap();
                for kernel in ALL {
                    assert!(
                        ptx.contains(&format!(".entry {}(", kernel.name)),
                        "{kernel:?} {arch} {scalar:?}"
                    );
                }
            }
        }
        assert!(compile("no program", "compute_90").unwrap_err().to_string().contains("compute_90"));
    }
}

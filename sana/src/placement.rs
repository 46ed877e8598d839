//! Where a model computes.

use candle_core::{DType, Device, Result, Tensor};

use crate::Error;

/// The type in which a CUDA device holds weights and what is computed from them. Sums, norms, attention's totals, the
/// latents, guidance and the solver are f32 in any case (reference section 13).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// 16 bits with the exponent of f32: half the memory and the fast way of every GPU that is supported.
    #[default]
    Bf16,
    /// 32 bits, to compare with the CPU.
    F32,
}

/// The device of a model, and the precision there. The CPU computes in f32.
#[derive(Clone, Debug)]
pub struct Placement {
    device: Device,
    dtype: DType,
    name: String,
}

impl Default for Placement {
    fn default() -> Self {
        Self::cpu()
    }
}

impl Placement {
    /// The CPU, in f32.
    pub fn cpu() -> Self {
        Self { device: Device::Cpu, dtype: DType::F32, name: "cpu".to_owned() }
    }

    /// A CUDA device by its number. See `cuda` in the source.
    ///
    /// An error without the feature `cuda` or the device. All work of a device is on one stream.
    pub fn cuda(ordinal: usize, precision: Precision) -> std::result::Result<Self, Error> {
        let name = format!("cuda:{ordinal}");
        let failed = |error: candle_core::Error| match error {
            candle_core::Error::NotCompiledWithCudaSupport => Error::Setting(format!(
                "{name}: this program was built without CUDA; build it with `--features cuda`, or take cpu"
            )),
            error => Error::Setting(format!("open {name}: {error}; `nvidia-smi -L` lists the devices")),
        };
        let device = Device::new_cuda_with_stream(ordinal).map_err(failed)?;
        let dtype = match precision {
            Precision::Bf16 => DType::BF16,
            Precision::F32 => DType::F32,
        };
        Ok(Self { device, dtype, name })
    }

    /// `cpu`, or `cuda` and `cuda:N` in the given precision.
    pub fn parse(name: &str, precision: Precision) -> std::result::Result<Self, Error> {
        let unknown = || Error::Setting(format!("device {name}: take cpu, cuda or cuda:N"));
        match name.split_once(':') {
            None if name == "cpu" => Ok(Self::cpu()),
            None if name == "cuda" => Self::cuda(0, precision),
            Some(("cuda", ordinal)) => Self::cuda(ordinal.parse().map_err(|_| unknown())?, precision),
            Some(_) | None => Err(unknown()),
        }
    }

    /// Its name: `cpu` or `cuda:N`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The type of weights and of what is computed from them.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Bytes that are free on a device, and all that it has; of the CPU the system knows. Waits for work under way, whose
    /// memory is given back.
    pub fn device_memory(&self) -> std::result::Result<Option<(u64, u64)>, Error> {
        #[cfg(feature = "cuda")]
        if let Device::Cuda(device) = &self.device {
            use candle_core::cuda_backend::WrapErr;
            self.device.synchronize()?;
            let (free, all) = device.cuda_stream().context().mem_get_info().w()?;
            return Ok(Some((free as u64, all as u64)));
        }
        Ok(None)
    }

    /// Takes a little memory on the device and computes there. The error says that it is not to be used any more.
    pub fn probe(&self) -> std::result::Result<(), Error> {
        const SIDE: usize = 64;
        let ones = Tensor::ones((SIDE, SIDE), DType::F32, &self.device)?;
        let sum = ones.matmul(&ones)?.sum_all()?.to_scalar::<f32>()?;
        let wanted = (SIDE * SIDE * SIDE) as f32;
        if sum == wanted {
            Ok(())
        } else {
            Err(Error::Device(format!("{} computes {sum} where it should be {wanted}", self.name)))
        }
    }

    /// Whether layers run the kernels of a device instead of those of the CPU.
    pub(crate) fn by_kernels(&self) -> bool {
        by_kernels(&self.device, self.dtype)
    }

    /// The tensor there, in the model's type.
    pub(crate) fn put(&self, tensor: &Tensor) -> Result<Tensor> {
        // Converted first: half the bytes to move.
        tensor.to_dtype(self.dtype)?.to_device(&self.device)
    }

    /// The kernels in a precision, run on the host by the emulation of `cuda/emulated.rs`.
    #[cfg(test)]
    pub(crate) fn emulated(dtype: DType) -> Self {
        Self { device: Device::Cpu, dtype, name: "emulated".to_owned() }
    }
}

/// Whether a tensor is one for the kernels of a device. The CPU's layers know f32 alone, so any other type means the tests'
/// emulation; for f32 it has to be forced.
pub(crate) fn by_kernels(device: &Device, dtype: DType) -> bool {
    #[cfg(test)]
    if emulation::FORCED.get() {
        return true;
    }
    !device.is_cpu() || dtype != DType::F32
}

#[cfg(test)]
pub(crate) mod emulation {
    use std::cell::Cell;

    thread_local!(pub(super) static FORCED: Cell<bool> = const { Cell::new(false) });

    /// Runs `work` with all layers on emulated kernels; it must stay on this thread.
    pub(crate) fn forced<T>(work: impl FnOnce() -> T) -> T {
        FORCED.set(true);
        let result = work();
        FORCED.set(false);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_well_device_is_found_well() {
        let cpu = Placement::cpu();
        cpu.probe().unwrap();
        assert_eq!(cpu.device_memory().unwrap(), None);
    }

    #[test]
    fn devices_are_named_and_refused_clearly() {
        assert_eq!(Placement::parse("cpu", Precision::Bf16).unwrap().name(), "cpu");
        for name in ["gpu", "cuda:x", "cuda:", "CPU", ""] {
            let error = Placement::parse(name, Precision::Bf16).unwrap_err().to_string();
            assert!(error.contains("cuda:N"), "{error}");
        }
        if !cfg!(feature = "cuda") {
            let error = Placement::parse("cuda:1", Precision::F32).unwrap_err().to_string();
            assert!(error.contains("cuda:1") && error.contains("--features cuda"), "{error}");
        }
    }
}

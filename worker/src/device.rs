//! What this machine can render on.

use cudarc::driver::result::device;
use cudarc::driver::sys::CUdevice_attribute::{
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
};
use cudarc::driver::sys::cudaError_enum::CUDA_ERROR_NO_DEVICE;
use cudarc::driver::{DriverError, result};
use sana::{Placement, Precision};
use sanafarm_proto::v1::Device;

/// Id of the CPU.
const CPU: &str = "cpu";
/// Whether this build renders on CUDA devices.
const CUDA: bool = cfg!(feature = "cuda");

/// The device to render on, and the placement of models there: the one of that name, or else the first CUDA device of a
/// build that has them, or else the CPU. All that are found are told about in the log.
///
/// Blocks while a CUDA driver wakes its devices.
pub(crate) fn choose(wanted: Option<&str>) -> Result<(Device, Placement), String> {
    let mut devices = vec![cpu()];
    match cuda() {
        Ok(found) => devices.extend(found),
        Err(error) => tracing::warn!(%error, "CUDA driver is there and does not answer"),
    }
    for found in &devices {
        tracing::info!(
            device = %found.id, name = %found.name, memory_bytes = found.memory_bytes,
            compute_capability = %found.compute_capability, "found device"
        );
    }
    if !CUDA && devices.len() > 1 {
        tracing::warn!(
            "this build renders on the CPU and leaves CUDA devices idle: build with the feature cuda"
        );
    }
    let id = match wanted {
        Some("cuda") => "cuda:0",
        Some(id) => id,
        None => devices.get(1).filter(|_| CUDA).map_or(CPU, |first| first.id.as_str()),
    };
    let there: Vec<_> = devices.iter().map(|device| device.id.as_str()).collect();
    let Some(at) = there.iter().position(|device| *device == id) else {
        return Err(format!("there is no device {id}: this machine has {}", there.join(", ")));
    };
    let placement = Placement::parse(id, Precision::default()).map_err(|error| error.to_string())?;
    let device = devices.swap_remove(at);
    tracing::info!(device = %device.id, "rendering");
    Ok((device, placement))
}

/// The CPU.
pub(crate) fn cpu() -> Device {
    let name = proc_field("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.into());
    Device {
        id: CPU.into(),
        name,
        memory_bytes: memory("MemTotal"),
        memory_free_bytes: memory("MemAvailable"),
        compute_capability: String::new(),
    }
}

/// Bytes; 0 where the system does not say.
fn memory(field: &str) -> u64 {
    let kib = proc_field("/proc/meminfo", field)
        .and_then(|value| value.strip_suffix("kB").and_then(|number| number.trim().parse::<u64>().ok()));
    kib.map_or(0, |kib| kib * 1024)
}

/// The first `field : value` line of a file of Linux's /proc.
fn proc_field(file: &str, field: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.trim() == field)
        .map(|(_, value)| value.trim().to_owned())
}

fn cuda() -> Result<Vec<Device>, DriverError> {
    // A build with CUDA is linked with the driver's library and does not start without it. Any other loads it now.
    #[cfg(not(feature = "cuda"))]
    // SAFETY: it only tries to load the library; without one any other driver call would panic.
    if !unsafe { cudarc::driver::sys::is_culib_present() } {
        return Ok(Vec::new());
    }
    match result::init() {
        // A driver on a machine whose devices are gone or hidden.
        Err(DriverError(CUDA_ERROR_NO_DEVICE)) => return Ok(Vec::new()),
        initialised => initialised?,
    }
    (0..device::get_count()?).map(cuda_device).collect()
}

fn cuda_device(ordinal: i32) -> Result<Device, DriverError> {
    let handle = device::get(ordinal)?;
    // SAFETY: the handle comes from `device::get`.
    let (memory, major, minor) = unsafe {
        (
            device::total_mem(handle)?,
            device::get_attribute(handle, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            device::get_attribute(handle, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        )
    };
    Ok(Device {
        id: format!("cuda:{ordinal}"),
        name: device::get_name(handle)?,
        memory_bytes: memory as u64,
        // Asking for it would take a context, which costs hundreds of megabytes on the device.
        memory_free_bytes: 0,
        compute_capability: format!("{major}.{minor}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_always_a_cpu() {
        let (device, placement) = choose(Some("cpu")).unwrap();
        assert_eq!((device.id.as_str(), placement.name()), (CPU, CPU));
        assert!(!device.name.is_empty());
        if cfg!(target_os = "linux") {
            assert!(device.memory_bytes >= device.memory_free_bytes);
            assert!(device.memory_free_bytes > 0);
        }
        if !CUDA {
            assert_eq!(choose(None).unwrap().0.id, CPU);
        }
    }

    #[test]
    fn a_device_that_is_not_there_is_told_with_those_that_are() {
        let error = choose(Some("cuda:99")).unwrap_err();
        assert!(error.contains("cuda:99") && error.contains("has cpu"), "{error}");
    }
}

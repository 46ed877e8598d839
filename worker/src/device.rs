//! What this machine can render on.

use cudarc::driver::result::device;
use cudarc::driver::sys::CUdevice_attribute::{
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
};
use cudarc::driver::{DriverError, result, sys};
use sanafarm_proto::v1::Device;

/// Id of the device that this build renders on.
pub(crate) const CPU: &str = "cpu";

/// The devices that this build renders on: the CPU. CUDA devices are looked for and told about in the log.
///
/// Blocks while a CUDA driver wakes its devices.
pub(crate) fn probe() -> Vec<Device> {
    let cpu = cpu();
    tracing::info!(device = %cpu.id, name = %cpu.name, memory_bytes = cpu.memory_bytes, "found device");
    match cuda() {
        Ok(devices) => {
            for found in devices {
                tracing::warn!(
                    device = %found.id, name = %found.name, memory_bytes = found.memory_bytes,
                    compute_capability = %found.compute_capability,
                    "found CUDA device: this build renders on the CPU and leaves it idle"
                );
            }
        }
        Err(error) => tracing::warn!(%error, "CUDA driver is there and does not answer"),
    }
    vec![cpu]
}

fn cpu() -> Device {
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
    // SAFETY: it only tries to load the driver library; without one any other driver call would panic.
    if !unsafe { sys::is_culib_present() } {
        return Ok(Vec::new());
    }
    result::init()?;
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
        let devices = probe();
        assert_eq!(devices.len(), 1);
        assert_eq!(devices[0].id, CPU);
        assert!(!devices[0].name.is_empty());
        if cfg!(target_os = "linux") {
            assert!(devices[0].memory_bytes >= devices[0].memory_free_bytes);
            assert!(devices[0].memory_free_bytes > 0);
        }
    }
}

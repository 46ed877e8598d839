//! What this machine can render on.

use std::path::Path;
use std::str::FromStr;

use cudarc::driver::result::device;
use cudarc::driver::sys::CUdevice_attribute::{
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
};
use cudarc::driver::sys::cuDriverGetVersion;
use cudarc::driver::sys::cudaError_enum::CUDA_ERROR_NO_DEVICE;
use cudarc::driver::{DriverError, result};
use sana::{Placement, Precision};
use sanafarm_proto::v1::Device;

/// Id of the CPU.
const CPU: &str = "cpu";
/// Whether this build renders on CUDA devices.
const CUDA: bool = cfg!(feature = "cuda");

/// What a worker renders on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Devices {
    /// All CUDA devices of a build that has them, or else the CPU.
    #[default]
    Auto,
    /// Every device that the build can use, the CPU among them.
    All,
    /// These, by their ids: `cpu`, `cuda:0`.
    Named(Vec<String>),
}

impl FromStr for Devices {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => return Ok(Self::Auto),
            "all" => return Ok(Self::All),
            _ => {}
        }
        let mut ids: Vec<String> = Vec::new();
        for name in text.split(',').map(str::trim) {
            let number = name.strip_prefix("cuda:").map(str::parse::<u16>);
            let id = match (name, number) {
                (CPU, _) => CPU.to_owned(),
                ("cuda", _) => "cuda:0".to_owned(),
                (_, Some(Ok(number))) => format!("cuda:{number}"),
                _ => {
                    return Err(format!(
                        "device {name}: take auto, all, or a list such as cuda:0,cuda:2 or cpu"
                    ));
                }
            };
            if ids.contains(&id) {
                return Err(format!("device {id} is named twice"));
            }
            ids.push(id);
        }
        Ok(Self::Named(ids))
    }
}

/// The devices to render on, with the placement of models there. All that are found are told about in the log. Where devices
/// are not named, one that cannot be opened is left out.
///
/// Blocks while a CUDA driver wakes its devices.
pub(crate) fn choose(wanted: &Devices) -> Result<Vec<(Device, Placement)>, String> {
    let found = Found { cpu: cpu(), cuda: cuda() };
    for device in found.all() {
        tracing::info!(
            device = %device.id, name = %device.name, memory_bytes = device.memory_bytes,
            compute_capability = %device.compute_capability, driver = %device.driver, "found device"
        );
    }
    for (id, error) in &found.cuda.broken {
        tracing::error!(device = %id, error, "device does not answer and is left out");
    }
    if let Some(error) = &found.cuda.trouble {
        tracing::warn!(error, "CUDA driver is there and does not answer");
    }
    if !CUDA && !found.cuda.devices.is_empty() {
        tracing::warn!(
            "this build renders on the CPU and leaves CUDA devices idle: build with the feature cuda"
        );
    }
    let mut opened = Vec::new();
    let mut refused = Vec::new();
    for mut device in found.choose(wanted, CUDA)? {
        match open(&mut device) {
            Ok(placement) => {
                tracing::info!(device = %device.id, memory_free_bytes = device.memory_free_bytes, "rendering");
                opened.push((device, placement));
            }
            Err(error) if matches!(wanted, Devices::Named(_)) => return Err(error),
            Err(error) => {
                tracing::error!(device = %device.id, error, "device cannot be opened");
                refused.push(error);
            }
        }
    }
    if opened.is_empty() {
        return Err(format!("no device can be opened: {}", refused.join("; ")));
    }
    Ok(opened)
}

/// What this machine has.
#[derive(Debug)]
struct Found {
    cpu: Device,
    cuda: Cuda,
}

/// What the CUDA driver tells.
#[derive(Debug, Default)]
struct Cuda {
    devices: Vec<Device>,
    /// Ids of devices that do not answer, and why.
    broken: Vec<(String, String)>,
    /// Why the driver does not answer.
    trouble: Option<String>,
}

impl Found {
    fn all(&self) -> impl Iterator<Item = &Device> {
        std::iter::once(&self.cpu).chain(&self.cuda.devices)
    }

    /// Those that are wanted, of a build that uses CUDA devices or not. A machine whose CUDA devices are all broken is no
    /// CPU worker: it would hold shards for hours that others render in minutes.
    fn choose(&self, wanted: &Devices, uses_cuda: bool) -> Result<Vec<Device>, String> {
        let Cuda { devices, broken, trouble } = &self.cuda;
        if let Devices::Named(ids) = wanted {
            return ids.iter().map(|id| self.named(id)).collect();
        }
        if uses_cuda && devices.is_empty() {
            let broken = broken.iter().map(|(id, why)| format!("{id}: {why}"));
            let why: Vec<_> = trouble.iter().map(|why| format!("CUDA driver: {why}")).chain(broken).collect();
            if !why.is_empty() {
                let why = why.join("; ");
                return Err(format!("no CUDA device answers ({why}); --devices cpu renders without them"));
            }
        }
        Ok(match wanted {
            Devices::Auto if uses_cuda && !devices.is_empty() => devices.clone(),
            Devices::All if uses_cuda => self.all().cloned().collect(),
            _ => vec![self.cpu.clone()],
        })
    }

    fn named(&self, id: &str) -> Result<Device, String> {
        if let Some(device) = self.all().find(|device| device.id == id) {
            return Ok(device.clone());
        }
        let broken = self.cuda.broken.iter().find(|(broken, _)| broken == id).map(|(_, why)| why);
        if let Some(why) = broken.or(self.cuda.trouble.as_ref()) {
            return Err(format!("device {id} does not answer: {why}"));
        }
        let there: Vec<_> = self.all().map(|device| device.id.as_str()).collect();
        Err(format!("there is no device {id}: this machine has {}", there.join(", ")))
    }
}

/// Opens a device. Only then its free memory can be asked for: that takes a context, hundreds of megabytes on the device.
fn open(device: &mut Device) -> Result<Placement, String> {
    let placement = Placement::parse(&device.id, Precision::default()).map_err(|error| error.to_string())?;
    let memory =
        placement.device_memory().map_err(|error| format!("ask {} for its memory: {error}", device.id))?;
    if let Some((free, _)) = memory {
        device.memory_free_bytes = free;
    }
    Ok(placement)
}

/// The CPU.
pub(crate) fn cpu() -> Device {
    let name = proc_field("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.into());
    Device {
        id: CPU.into(),
        name,
        memory_bytes: memory("MemTotal").unwrap_or_default(),
        memory_free_bytes: cpu_memory_free().unwrap_or_default(),
        compute_capability: String::new(),
        driver: String::new(),
    }
}

/// Bytes that can still be taken: what the system has, or what is left to this container; none where the system does not
/// say.
pub(crate) fn cpu_memory_free() -> Option<u64> {
    let free = memory("MemAvailable");
    match container_room(Path::new("/sys/fs/cgroup")) {
        Some(room) => Some(free.map_or(room, |free| free.min(room))),
        None => free,
    }
}

/// What a control group (version 2) may still take, if it has a limit. Files that are only cached do not count as taken.
fn container_room(group: &Path) -> Option<u64> {
    let read = |file: &str| std::fs::read_to_string(group.join(file)).ok();
    let number = |text: String| text.trim().parse::<u64>().ok();
    let limit = read("memory.max").and_then(number)?;
    let taken = read("memory.current").and_then(number)?;
    let stat = read("memory.stat").unwrap_or_default();
    let cached = stat.lines().find_map(|line| line.strip_prefix("inactive_file "));
    let cached = cached.and_then(|bytes| bytes.trim().parse().ok()).unwrap_or(0);
    Some(limit.saturating_sub(taken.saturating_sub(cached)))
}

/// Bytes; none where the system does not say.
fn memory(field: &str) -> Option<u64> {
    let kib = proc_field("/proc/meminfo", field)
        .and_then(|value| value.strip_suffix("kB").and_then(|number| number.trim().parse::<u64>().ok()));
    kib.map(|kib| kib * 1024)
}

/// The first `field : value` line of a file of Linux's /proc.
fn proc_field(file: &str, field: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.trim() == field)
        .map(|(_, value)| value.trim().to_owned())
}

fn cuda() -> Cuda {
    // A build with CUDA is linked with the driver's library and does not start without it. Any other loads it now.
    #[cfg(not(feature = "cuda"))]
    // SAFETY: it only tries to load the library; without one any other driver call would panic.
    if !unsafe { cudarc::driver::sys::is_culib_present() } {
        return Cuda::default();
    }
    let (driver, count) = match wake() {
        Ok(there) => there,
        // A driver on a machine whose devices are gone or hidden.
        Err(DriverError(CUDA_ERROR_NO_DEVICE)) => return Cuda::default(),
        Err(error) => return Cuda { trouble: Some(error.to_string()), ..Cuda::default() },
    };
    let mut found = Cuda::default();
    for ordinal in 0..count {
        match cuda_device(ordinal, &driver) {
            Ok(device) => found.devices.push(device),
            Err(error) => found.broken.push((cuda_id(ordinal), error.to_string())),
        }
    }
    found
}

/// The version of the driver, and how many devices it has.
fn wake() -> Result<(String, i32), DriverError> {
    result::init()?;
    Ok((driver()?, device::get_count()?))
}

fn cuda_id(ordinal: i32) -> String {
    format!("cuda:{ordinal}")
}

/// The version of CUDA that the driver knows.
fn driver() -> Result<String, DriverError> {
    let mut version = 0;
    // SAFETY: it writes one integer.
    unsafe { cuDriverGetVersion(&raw mut version) }.result()?;
    Ok(format!("{}.{}", version / 1000, version % 1000 / 10))
}

fn cuda_device(ordinal: i32, driver: &str) -> Result<Device, DriverError> {
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
        id: cuda_id(ordinal),
        name: device::get_name(handle)?,
        memory_bytes: memory as u64,
        memory_free_bytes: 0,
        compute_capability: format!("{major}.{minor}"),
        driver: driver.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_always_a_cpu() {
        let chosen = choose(&Devices::Named(vec![CPU.into()])).unwrap();
        let [(device, placement)] = chosen.as_slice() else { panic!("{chosen:?}") };
        assert_eq!((device.id.as_str(), placement.name()), (CPU, CPU));
        assert!(!device.name.is_empty());
        if cfg!(target_os = "linux") {
            assert!(device.memory_bytes >= device.memory_free_bytes);
            assert!(device.memory_free_bytes > 0);
        }
        if !CUDA {
            assert_eq!(choose(&Devices::Auto).unwrap()[0].0.id, CPU);
            assert_eq!(choose(&Devices::All).unwrap().len(), 1);
        }
    }

    #[test]
    fn a_device_that_is_not_there_is_told_with_those_that_are() {
        let error = choose(&"cpu,cuda:99".parse().unwrap()).unwrap_err();
        assert!(error.contains("cuda:99") && error.contains("has cpu"), "{error}");
    }

    #[test]
    fn one_broken_device_leaves_the_others_and_no_machine_of_broken_ones_renders_on_its_cpu() {
        let device = |id: &str| Device { id: id.to_owned(), ..Device::default() };
        let broken = || vec![("cuda:1".to_owned(), "fell off the bus".to_owned())];
        let trouble = || Some("versions differ".to_owned());
        let found = |devices: &[&str], broken, trouble| {
            let devices = devices.iter().map(|id| device(id)).collect();
            Found { cpu: device(CPU), cuda: Cuda { devices, broken, trouble } }
        };
        let choose = |found: &Found, wanted: &str, uses_cuda| {
            let chosen = found.choose(&wanted.parse().unwrap(), uses_cuda);
            chosen.map(|devices| devices.into_iter().map(|device| device.id).collect::<Vec<_>>().join(","))
        };
        let ok = |ids: &str| Ok(ids.to_owned());

        let some = found(&["cuda:0", "cuda:2"], broken(), None);
        assert_eq!(choose(&some, "auto", true), ok("cuda:0,cuda:2"));
        assert_eq!(choose(&some, "all", true), ok("cpu,cuda:0,cuda:2"));
        assert_eq!(choose(&some, "cuda:2", true), ok("cuda:2"));
        let error = choose(&some, "cuda:0,cuda:1", true).unwrap_err();
        assert_eq!(error, "device cuda:1 does not answer: fell off the bus");

        for (all_broken, why) in [
            (found(&[], broken(), None), "cuda:1: fell off the bus"),
            (found(&[], Vec::new(), trouble()), "CUDA driver: versions differ"),
        ] {
            for wanted in ["auto", "all"] {
                let error = choose(&all_broken, wanted, true).unwrap_err();
                assert!(error.contains(why) && error.contains("--devices cpu"), "{error}");
                // What this build cannot use may be as it is.
                assert_eq!(choose(&all_broken, wanted, false), ok("cpu"));
            }
            assert_eq!(choose(&all_broken, "cpu", true), ok("cpu"));
            let error = choose(&all_broken, "cuda:1", true).unwrap_err();
            assert!(error.starts_with("device cuda:1 does not answer"), "{error}");
        }

        let none = found(&[], Vec::new(), None);
        assert_eq!((choose(&none, "auto", true), choose(&none, "all", true)), (ok("cpu"), ok("cpu")));
    }

    #[test]
    fn lists_of_devices_are_read() {
        let named = |ids: &[&str]| Ok(Devices::Named(ids.iter().map(|id| (*id).to_owned()).collect()));
        assert_eq!("auto".parse(), Ok(Devices::Auto));
        assert_eq!("all".parse(), Ok(Devices::All));
        assert_eq!("cuda:0, cuda:12".parse(), named(&["cuda:0", "cuda:12"]));
        assert_eq!("cpu,cuda".parse(), named(&["cpu", "cuda:0"]));
        for bad in ["", "gpu", "cuda:", "cuda:x", "cpu,auto", "cuda:0,,", "cuda,cuda:0", "CPU"] {
            let error = bad.parse::<Devices>().unwrap_err();
            assert!(error.contains("take auto, all") || error.contains("named twice"), "{bad}: {error}");
        }
    }

    #[test]
    fn a_container_has_what_its_limit_leaves() {
        let group = tempfile::tempdir().unwrap();
        assert_eq!(container_room(group.path()), None);
        let write = |file: &str, text: &str| std::fs::write(group.path().join(file), text).unwrap();
        write("memory.max", "max\n");
        write("memory.current", "700\n");
        assert_eq!(container_room(group.path()), None);
        write("memory.max", "1000\n");
        assert_eq!(container_room(group.path()), Some(300));
        write("memory.stat", "anon 100\ninactive_file 600\nactive_file 5\n");
        assert_eq!(container_room(group.path()), Some(900));
    }
}

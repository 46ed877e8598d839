//! Compiles the proto files without protoc.

use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "sanafarm/v1/common.proto",
        "sanafarm/v1/job.proto",
        "sanafarm/v1/worker.proto",
        "sanafarm/v1/history.proto",
        "sanafarm/v1/token.proto",
        "externalscaler/externalscaler.proto",
    ];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["."])?;
    // For whoever must know every method, such as the table of who may call which.
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}

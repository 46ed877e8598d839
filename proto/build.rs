//! Compiles `sanafarm/v1/*.proto` without protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "sanafarm/v1/common.proto",
        "sanafarm/v1/job.proto",
        "sanafarm/v1/worker.proto",
        "sanafarm/v1/history.proto",
    ];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["."])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}

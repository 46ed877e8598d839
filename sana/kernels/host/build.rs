//! Compiles the kernels with the host's own C++ compiler, once for each precision.

fn main() {
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").opt_level(2).warnings(true).extra_warnings(false);
    // Products and sums stay apart, so that results can be compared with those of the plain CPU kernels.
    build.flag_if_supported("-ffp-contract=off").flag_if_supported("-Wno-unknown-pragmas");
    build.files(["scheduler.cpp", "f32.cpp", "bf16.cpp", "f16.cpp"]).compile("sana_kernels_host");
    for place in [".", ".."] {
        println!("cargo::rerun-if-changed={place}");
    }
}

//! Compiles `proto/` with protox, a protobuf compiler in Rust, so that nobody needs protoc, and tells the program what it
//! was built from.

/// The one file that is compiled; the others are imported by it.
const SERVICE: &str = "envoy/service/ext_proc/v3/external_processor.proto";

/// The commit, given by whoever builds. It is not looked for: the same sources must give the same program, with or without
/// the repository around them, and a commit must not compile everything anew.
const COMMIT: &str = "RESPONSES_ROUTER_COMMIT";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    tell_the_build();
    let files = protox::compile([SERVICE], ["proto"])?;
    tonic_prost_build::configure()
        .build_client(false)
        // Its codec keeps too much for each call: src/extproc/grpc.rs carries the messages.
        .build_server(false)
        // Bodies and header values are slices of the received message, not copies of it.
        .bytes(".envoy")
        // Imported messages without payload come from envoy-types.
        .extern_path(
            ".envoy.extensions.filters.http.ext_proc.v3",
            "::envoy_types::pb::envoy::extensions::filters::http::ext_proc::v3",
        )
        // A path through `r#type` would be mangled to `r_type`, hence the re-export.
        .extern_path(".envoy.type.v3", "crate::extproc::pb::envoy_type_v3")
        .include_file("ext_proc.rs")
        .compile_fds(files)?;
    Ok(())
}

fn tell_the_build() {
    println!("cargo:rerun-if-env-changed={COMMIT}");
    let commit = std::env::var(COMMIT).ok().filter(|commit| !commit.trim().is_empty());
    let commit = commit.unwrap_or_else(|| "unknown".to_owned());
    let version = std::process::Command::new(std::env::var("RUSTC").unwrap_or_default()).arg("--version").output();
    let rustc = version.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    let mut features: Vec<String> = std::env::vars()
        .filter_map(|(name, _)| Some(name.strip_prefix("CARGO_FEATURE_")?.to_lowercase().replace('_', "-")))
        .filter(|feature| feature != "default")
        .collect();
    features.sort_unstable();
    for (name, value) in [("COMMIT", commit.trim()), ("RUSTC", &*rustc), ("FEATURES", &*features.join(","))] {
        println!("cargo:rustc-env=BUILT_WITH_{name}={value}");
    }
}

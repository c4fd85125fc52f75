//! Compiles `proto/` with protox, a protobuf compiler in Rust, so that nobody needs protoc.

/// The one file that is compiled; the others are imported by it.
const SERVICE: &str = "envoy/service/ext_proc/v3/external_processor.proto";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile([SERVICE], ["proto"])?;
    tonic_prost_build::configure()
        .build_client(false)
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

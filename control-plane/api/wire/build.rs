//! Generates the gRPC code. `protoc` is found by PROTOC or on the path (`./run` installs protobuf-compiler).

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let protos = [
        "proto/edge_control.proto",
        "proto/operators.proto",
        "proto/replicas.proto",
    ];
    tonic_prost_build::configure().compile_protos(&protos, &["proto"])?;
    Ok(())
}

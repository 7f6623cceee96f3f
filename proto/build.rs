//! Compiles the .proto files with protox: no protoc is needed on the machine.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(["proto/runtime/v1/api.proto", "proto/orlop/v1/admin.proto"], ["proto"])?;
    tonic_prost_build::configure()
        // Arguments travel as given: maps stay in key order, so that records and tests are stable.
        .btree_map(".")
        .compile_fds(files)?;
    Ok(())
}

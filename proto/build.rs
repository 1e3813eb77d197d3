//! Compiles the `.proto` files with protox, so that nobody needs `protoc`.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    let files = ["rootward/v1/value.proto", "rootward/v1/rootward.proto", "rootward/v1/worker.proto"];
    let descriptors = protox::compile(files, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("rootward.bin"), descriptors.encode_to_vec())?;
    // Chains are rare and large: boxed, they don't make every other answer as large as themselves.
    tonic_prost_build::configure()
        .boxed(".rootward.v1.Reply.result.chain")
        .boxed(".rootward.v1.CallReply.result.started")
        .boxed(".rootward.v1.CallEnvelope.request.start_chain")
        .compile_fds(descriptors)?;
    println!("cargo:rerun-if-changed=proto");
    Ok(())
}

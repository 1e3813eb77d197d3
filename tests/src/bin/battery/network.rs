//! A worker that is cut off from each of the others, in each way.

use std::path::Path;

use anyhow::{Context as _, Result};
use tests::{
    cuts::{Cuts, From},
    network::Way,
};

pub async fn run(exe: &Path, seed: u64) -> Result<()> {
    eprintln!("every cut of the network with --seed {seed}");
    let Some(mut cuts) = Cuts::start(exe).await? else { return Ok(()) };
    for (at, (from, way)) in (0..).zip(From::ALL.into_iter().flat_map(|from| Way::ALL.map(|way| (from, way)))) {
        let begun = std::time::Instant::now();
        let requests = cuts.run(from, way, seed.wrapping_add(at)).await.with_context(|| format!("{way:?} of {from:?}"))?;
        eprintln!("{from:?} {way:?}: {requests} requests, {:.1} s", begun.elapsed().as_secs_f64());
    }
    Ok(())
}

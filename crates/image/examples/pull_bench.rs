//! Pulls an image into an empty store and prints how long that took: `pull_bench IMAGE [DIR]`.

use std::{error::Error, path::PathBuf, time::Instant};

use costrel_image::{ImageStore, NoProgress, Platform, PullPolicy, RegistryConfig, StoreSettings};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().ok_or("usage: pull_bench IMAGE [DIRECTORY]")?;
    let parent = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let directory = tempfile::tempdir_in(parent)?;
    let start = Instant::now();
    let registry = RegistryConfig::from_variables(|name| std::env::var_os(name));
    let store = ImageStore::open(directory.path(), StoreSettings { registry })?;
    let reference = name.parse()?;
    let image = store.pull(&reference, &Platform::host(), PullPolicy::Always, &NoProgress).await?;
    let elapsed = start.elapsed();
    let bytes: u64 = image.layers.iter().map(|layer| layer.size).sum();
    #[expect(clippy::print_stdout, reason = "the result")]
    {
        println!("{:.3} s, {} layers, {bytes} bytes", elapsed.as_secs_f64(), image.layers.len());
    }
    Ok(())
}

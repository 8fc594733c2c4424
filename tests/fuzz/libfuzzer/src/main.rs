//! libFuzzer around one target, named by `MERIDIAN_FUZZ_TARGET`; `./run fuzz TARGET` builds and starts it.
//! With `MERIDIAN_FUZZ_SEEDS=FOLDER` it writes the target's seeds there before it begins.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<meridian_fuzz::Target> = LazyLock::new(|| {
    let name = std::env::var("MERIDIAN_FUZZ_TARGET").unwrap_or_default();
    let Some(target) = meridian_fuzz::target(&name) else {
        let names: Vec<_> = meridian_fuzz::TARGETS.iter().map(|target| target.name).collect();
        eprintln!("MERIDIAN_FUZZ_TARGET must name one of: {}", names.join(" "));
        std::process::exit(2);
    };
    *target
});

fuzz_target!(
    init: {
        if let Ok(folder) = std::env::var("MERIDIAN_FUZZ_SEEDS") {
            for (index, seed) in (TARGET.seeds)().iter().enumerate() {
                let path = std::path::Path::new(&folder).join(format!("seed-{index}"));
                std::fs::write(&path, seed).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            }
        }
    },
    |data: &[u8]| (TARGET.run)(data)
);

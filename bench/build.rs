//! Embeds the kernel objects that `cargo xtask build` names: the relay's program, the tool's own
//! programs, and the C yardstick. A binary without one of them is complete but for it, and says so
//! when it is asked for something that needs it.

use std::path::{Path, PathBuf};
use std::{env, fs};

/// Environment variable, and the constant of `objects.rs` that it becomes.
const OBJECTS: [(&str, &str); 3] = [
    ("TURNPIKE_XDP_OBJECT", "RELAY"),
    ("RELAY_BENCH_XDP_OBJECT", "TOOL"),
    ("RELAY_BENCH_YARDSTICK_OBJECT", "YARDSTICK"),
];

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let constants: String =
        OBJECTS.iter().map(|(variable, constant)| embed(variable, constant, &out)).collect();
    fs::write(out.join("objects.rs"), constants).expect("OUT_DIR takes files");
    println!("cargo::rerun-if-env-changed=TURNPIKE_COMMIT");
    let commit = env::var("TURNPIKE_COMMIT").unwrap_or_else(|_| "unknown".into());
    println!("cargo::rustc-env=TURNPIKE_COMMIT={commit}");
}

fn embed(variable: &str, constant: &str, out: &Path) -> String {
    println!("cargo::rerun-if-env-changed={variable}");
    let kind = format!("pub(crate) const {constant}: Option<&[u8]> =");
    let Some(object) = env::var_os(variable).map(PathBuf::from) else {
        return format!("{kind} None;\n");
    };
    println!("cargo::rerun-if-changed={}", object.display());
    let name = format!("{constant}.o");
    fs::copy(&object, out.join(&name))
        .unwrap_or_else(|e| panic!("{variable}={}: {e}", object.display()));
    format!("{kind} Some(include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{name}\")));\n")
}

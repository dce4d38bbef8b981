//! Embeds the kernel object that `cargo xtask build` names in `TURNPIKE_XDP_OBJECT`.
//! Without it the binary is complete but for the object, and says so when asked to attach.

use std::{env, fs, path::PathBuf};

fn main() {
    println!("cargo::rerun-if-env-changed=TURNPIKE_XDP_OBJECT");
    println!("cargo::rerun-if-env-changed=TURNPIKE_COMMIT");
    println!("cargo::rustc-check-cfg=cfg(xdp_object_embedded)");
    if let Some(object) = env::var_os("TURNPIKE_XDP_OBJECT").map(PathBuf::from) {
        println!("cargo::rerun-if-changed={}", object.display());
        let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
        fs::copy(&object, out.join("turnpike-xdp.o"))
            .unwrap_or_else(|e| panic!("TURNPIKE_XDP_OBJECT={}: {e}", object.display()));
        println!("cargo::rustc-cfg=xdp_object_embedded");
    }
    let commit = env::var("TURNPIKE_COMMIT").unwrap_or_else(|_| "unknown".into());
    println!("cargo::rustc-env=TURNPIKE_COMMIT={commit}");
}

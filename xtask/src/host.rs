//! This machine as the verbs see it: where the checkout and its outputs are, who is running,
//! and how a child process is started. Installs nothing.

use std::{
    env,
    ffi::{OsStr, OsString},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

/// What the outer `cargo run` sets for xtask alone: a nested build that saw it would rebuild
/// needlessly, and another toolchain would load the wrong libraries.
const OUTER_CARGOS: &[&str] =
    &["CARGO_MANIFEST_", "CARGO_PKG_", "CARGO_PRIMARY_PACKAGE", "LD_LIBRARY_PATH", "OUT_DIR"];

/// The top of the checkout.
pub(crate) fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().expect("xtask lives one level below the workspace root").to_path_buf()
}

/// Where host binaries are built: `CARGO_TARGET_DIR`, or `target/` in the checkout.
pub(crate) fn target_dir() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// Tools that xtask builds for itself. Not under `CARGO_TARGET_DIR`: one copy serves them all.
pub(crate) fn tools_dir() -> PathBuf {
    root().join("target/tools")
}

/// Whether this process may load BPF programs and install packages without help.
pub(crate) fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|proc_self| proc_self.uid() == 0)
}

/// The first executable called `name` on `PATH`; the sbin directories are searched as well,
/// because Debian leaves them out of an ordinary user's `PATH`.
pub(crate) fn which(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|candidate| is_executable(candidate))
}

/// Whether `path` is a file that someone may execute.
pub(crate) fn is_executable(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.mode() & 0o111 != 0)
}

/// A command in the checkout's root, free of what the outer cargo set for xtask itself.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    for (name, _) in env::vars_os() {
        if is_outer_cargos(&name) {
            command.env_remove(name);
        }
    }
    command
}

/// The cargo that builds the workspace: the one that started xtask.
pub(crate) fn cargo() -> Command {
    command(env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")))
}

/// What the compiler of this machine builds for, as it names it.
///
/// # Errors
/// There is no compiler.
pub(crate) fn triple() -> Result<String> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| OsString::from("rustc"));
    let text = output(command(rustc).arg("-vV"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("host: "));
    line.map(str::to_owned).context("rustc -vV names no host")
}

fn is_outer_cargos(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| OUTER_CARGOS.iter().any(|prefix| name.starts_with(prefix)))
}

/// Runs to the end with the terminal attached; an error names the whole command.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    if !status.success() {
        bail!("{status}: {}", words(command));
    }
    Ok(())
}

/// Standard output of a command that must succeed, without the trailing newline.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", words(command)))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{}: {}\n{}", output.status, words(command), stderr.trim_end());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}

/// The command as a person would type it, without its environment.
fn words(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nested_cargo_does_not_see_what_the_outer_one_set_for_xtask() {
        for (name, removed) in [
            ("CARGO_MANIFEST_DIR", true),
            ("CARGO_PKG_NAME", true),
            ("LD_LIBRARY_PATH", true),
            ("CARGO_HOME", false),
            ("CARGO_TARGET_DIR", false),
            ("CARGO_REGISTRIES_CRATES_IO_PROTOCOL", false),
            ("PATH", false),
        ] {
            assert_eq!(is_outer_cargos(OsStr::new(name)), removed, "{name}");
        }
    }

    #[test]
    fn output_of_a_failing_command_names_the_command() {
        let error = output(Command::new("sh").args(["-c", "echo why >&2; exit 3"])).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("sh -c") && text.contains("why"), "{text}");
    }

    #[test]
    fn which_finds_a_program_and_not_a_directory() {
        assert!(which("sh").is_some());
        assert!(which("no-such-program-anywhere").is_none());
        assert!(!is_executable(Path::new("/usr/bin")));
    }
}

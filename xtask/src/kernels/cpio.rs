//! An archive that the kernel unpacks as its first root: cpio in the "newc" format
//! (Documentation/driver-api/early-userspace/buffer-format.rst). Owns the bytes; reads no files.

use std::collections::BTreeSet;

const MAGIC: &str = "070701";
const TRAILER: &str = "TRAILER!!!";

/// File types and permissions: everything is the guest's root's, and may be executed.
const DIRECTORY: u32 = 0o040_755;
const FILE: u32 = 0o100_755;

/// Names and contents begin at multiples of this, bytes.
const ALIGN: usize = 4;

/// An archive in the making.
#[derive(Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    directories: BTreeSet<String>,
    entries: u32,
}

impl Archive {
    /// Adds a file, and the directories above it that are not there yet. The path begins without
    /// `/`.
    pub(super) fn file(&mut self, path: &str, contents: &[u8]) {
        for (end, _) in path.match_indices('/') {
            let directory = &path[..end];
            if self.directories.insert(directory.to_owned()) {
                self.entry(directory, DIRECTORY, &[]);
            }
        }
        self.entry(path, FILE, contents);
    }

    /// The whole archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry(TRAILER, 0, &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, contents: &[u8]) {
        self.entries += 1;
        let size = |bytes: usize| u32::try_from(bytes).expect("an initramfs is below 4 GiB");
        // Inode, mode, owner, group, links, time, size, four device numbers, size of the name with
        // its NUL, and a checksum that this format does not have.
        let fields = [
            self.entries,
            mode,
            0,
            0,
            1,
            0,
            size(contents.len()),
            0,
            0,
            0,
            0,
            size(name.len() + 1),
            0,
        ];
        self.bytes.extend_from_slice(MAGIC.as_bytes());
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(contents);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGN), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_its_directories_once_and_ends_with_a_trailer() {
        let mut archive = Archive::default();
        archive.file("a/b/one", b"12345");
        archive.file("a/two", b"");
        let bytes = archive.finish();
        let text = String::from_utf8(bytes).unwrap();
        let names: Vec<&str> = text
            .split(MAGIC)
            .skip(1)
            .map(|entry| entry[104..].split('\0').next().unwrap())
            .collect();
        assert_eq!(names, ["a", "a/b", "a/b/one", "a/two", TRAILER]);
    }

    #[test]
    fn an_entry_is_laid_out_as_the_kernel_reads_it() {
        let mut archive = Archive::default();
        archive.file("f", b"12345");
        let expected = "07070100000001000081ed000000000000000000000001000000000000000500000000\
                        00000000000000000000000000000002000000\
                        00f\0\x31\x32\x33\x34\x35\0\0\0";
        let bytes = archive.finish();
        assert_eq!(String::from_utf8_lossy(&bytes[..expected.len()]), expected);
        assert_eq!(bytes.len() % ALIGN, 0);
    }
}

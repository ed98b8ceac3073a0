//! Fetches NVIDIA's run-time compiler and disassembler, so that every kernel can be compiled and its instructions
//! counted on a machine with neither GPU nor CUDA. What is needed of the PyPI wheels is kept in
//! `target/nvrtc/<version>/`; tests find it through `OSSMITH_NVRTC`.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::python;
use crate::shell::{Result, at, capture, target};

const VERSION: &str = "13.0.88";
const LIBRARIES: [&str; 2] = ["libnvrtc.so.13", "libnvrtc-builtins.so.13.0"];
const DISASSEMBLER: &str = "nvdisasm";
/// The oldest of it on PyPI; it reads what older compilers made.
const DISASSEMBLER_VERSION: &str = "13.2.78";
/// Written last: one line per file, with its size and checksum. A folder without it, or that differs, is fetched again.
const MARKER: &str = "complete";

/// Takes a wheel's libraries, program and licence out, under their own names. Arguments: wheel, folder.
const UNPACK: &str = "\
import os, shutil, sys, zipfile
wheel, folder = sys.argv[1:]
with zipfile.ZipFile(wheel) as archive:
    for name in archive.namelist():
        base = name.rsplit('/', 1)[-1]
        library = base.startswith('libnvrtc') and '.alt.' not in base
        if library or base in ('License.txt', 'nvdisasm'):
            with archive.open(name) as source, open(f'{folder}/{base}', 'wb') as out:
                shutil.copyfileobj(source, out, 1 << 20)
            os.chmod(f'{folder}/{base}', 0o755)
";

/// The folder with the files; downloads them (95 MB) unless a whole copy is there.
pub(crate) fn fetch() -> Result<PathBuf> {
    let folder = target("nvrtc").join(VERSION);
    if is_whole(&folder) {
        return Ok(folder);
    }
    println!(
        "fetching nvidia-cuda-nvrtc {VERSION} and nvidia-cuda-nvdisasm from PyPI into {}",
        folder.display()
    );
    let scratch = target("nvrtc").join(format!("fetch-{}", std::process::id()));
    at(&scratch, fs::create_dir_all(&scratch))?;
    let fetched = download(&scratch).and_then(|()| {
        if folder.exists() {
            at(&folder, fs::remove_dir_all(&folder))?;
        }
        at(&folder, fs::rename(&scratch, &folder))
    });
    if fetched.is_err() {
        let _ = fs::remove_dir_all(&scratch); // the download's own error is the one to report
    }
    fetched.map(|()| folder)
}

fn download(scratch: &Path) -> Result<()> {
    let python = python::with_pip()?;
    let wheels = scratch.join("wheel");
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]);
    pip.args(["--retries", "2", "--dest"]).arg(&wheels);
    for libc in ["manylinux2014", "manylinux_2_12", "manylinux_2_17", "manylinux_2_27"] {
        pip.arg(format!("--platform={libc}_{}", std::env::consts::ARCH));
    }
    pip.arg(format!("nvidia-cuda-nvrtc=={VERSION}"));
    pip.arg(format!("nvidia-cuda-nvdisasm=={DISASSEMBLER_VERSION}"));
    capture(&mut pip).map_err(|why| {
        format!(
            "cannot fetch nvidia-cuda-nvrtc=={VERSION} and its disassembler from PyPI (is there a network?).\n{why}\n\
             Connect and run `cargo xtask nvrtc`; or set OSSMITH_NVRTC to a folder that holds {} \
             and {};\nor run `cargo xtask test --without-nvrtc`, which checks everything else.",
            LIBRARIES[0], LIBRARIES[1]
        )
    })?;
    for wheel in at(&wheels, fs::read_dir(&wheels))? {
        let wheel = at(&wheels, wheel)?.path();
        capture(Command::new(&python).args(["-c", UNPACK]).arg(wheel).arg(scratch))?;
    }
    at(&wheels, fs::remove_dir_all(&wheels))?;
    let marker = contents(scratch)?;
    at(scratch, fs::write(scratch.join(MARKER), marker))
}

fn is_whole(folder: &Path) -> bool {
    let noted = fs::read_to_string(folder.join(MARKER));
    noted.is_ok_and(|noted| contents(folder).is_ok_and(|found| found == noted))
}

/// The marker's text for what the folder holds now.
fn contents(folder: &Path) -> Result<String> {
    let mut text = String::new();
    for file in LIBRARIES.into_iter().chain([DISASSEMBLER]) {
        let (bytes, sum) = checksum(&folder.join(file))?;
        text += &format!("{file} {bytes} {sum:016x}\n");
    }
    Ok(text)
}

/// Size and FNV-1a of a file, eight bytes at a time: finds damage, not malice (pip has checked the wheel's hash).
fn checksum(path: &Path) -> Result<(u64, u64)> {
    let mut file = at(path, fs::File::open(path))?;
    let (mut bytes, mut sum) = (0, 0xcbf2_9ce4_8422_2325_u64);
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = at(path, file.read(&mut buffer))?;
        if read == 0 {
            return Ok((bytes, sum));
        }
        bytes += read as u64;
        for chunk in buffer[..read].chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            sum = (sum ^ u64::from_le_bytes(word)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_folder_is_detected() {
        let folder = std::env::temp_dir().join(format!("xtask-nvrtc-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("temporary folder");
        let write = |name: &str, text: &str| fs::write(folder.join(name), text).expect("write");
        assert!(!is_whole(&folder), "an empty folder");
        for file in LIBRARIES.into_iter().chain([DISASSEMBLER]) {
            write(file, "library bytes");
        }
        assert!(!is_whole(&folder), "no marker: the fetch was cut off");
        write(MARKER, &contents(&folder).expect("all files"));
        assert!(is_whole(&folder));
        write(LIBRARIES[1], "library bytez");
        assert!(!is_whole(&folder), "a changed byte");
        write(LIBRARIES[1], "library byte");
        assert!(!is_whole(&folder), "a lost byte");
        fs::remove_dir_all(&folder).expect("cleanup");
    }
}

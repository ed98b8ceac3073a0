//! Downloads one file from the hub: in parts, resumed where it broke off, and checked when it is complete.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};

use super::remote::{self, Busy, Hub, RemoteFile, TRIES, check_status};
use super::verify;
use crate::failure::fail;
use crate::output::note;

/// Bytes per request: a connection on which too little comes is given up within one part's time limit.
const PART: u64 = 64 << 20;

/// Downloads a file into the blobs of a model's folder and returns its path; `show` gets the number of bytes that are there.
pub(super) fn file(
    hub: &Hub,
    url: &str,
    file: &RemoteFile,
    folder: &Path,
    show: &mut dyn FnMut(u64),
) -> anyhow::Result<PathBuf> {
    let blobs = &folder.join("blobs");
    let place = blobs.join(&file.blob);
    if place.metadata().is_ok_and(|found| found.len() == file.bytes) {
        if !verify::is_known(folder, &place) {
            check(&place, file)?;
            verify::remember(folder, &place);
        }
        show(file.bytes);
        return Ok(place);
    }
    std::fs::create_dir_all(blobs).with_context(|| format!("cannot make {}", blobs.display()))?;
    let unfinished = blobs.join(format!("{}.incomplete", file.blob));
    let doing = || format!("cannot write {}", unfinished.display());
    let mut tries = 0;
    loop {
        let have = unfinished.metadata().map_or(0, |found| found.len());
        if have >= file.bytes {
            break;
        }
        show(have);
        let outcome = part(hub, url, file, &unfinished, have, show);
        let now = unfinished.metadata().map_or(0, |found| found.len());
        let why = match outcome {
            Ok(()) if now > have => {
                tries = 0;
                continue;
            }
            Ok(()) => anyhow!("{url} ends after {now} of {} bytes", file.bytes),
            Err(why) if is_worth_a_try(&why) => {
                why.context(format!("{url} broke off after {now} bytes"))
            }
            Err(why) => return Err(why),
        };
        tries = if now > have { 0 } else { tries + 1 };
        if tries == TRIES {
            return Err(why);
        }
        if why.downcast_ref::<Busy>().is_none() {
            note!("{why:#}; trying again");
        }
        remote::pause(tries, why.downcast_ref::<Busy>().and_then(|busy| busy.retry_after));
    }
    if file.bytes == 0 {
        File::create(&unfinished).with_context(doing)?;
    }
    check(&unfinished, file)?;
    std::fs::rename(&unfinished, &place).with_context(doing)?;
    verify::remember(folder, &place);
    show(file.bytes);
    Ok(place)
}

/// Whether the same request may do better.
fn is_worth_a_try(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some() || error.downcast_ref::<Busy>().is_some()
}

/// Appends the next part; an I/O error and a busy hub are worth another try.
fn part(
    hub: &Hub,
    url: &str,
    file: &RemoteFile,
    unfinished: &Path,
    have: u64,
    show: &mut dyn FnMut(u64),
) -> anyhow::Result<()> {
    let last = file.bytes.min(have + PART).saturating_sub(1);
    let response = hub.get(url, Some(&format!("bytes={have}-{last}")))?;
    let status = response.status().as_u16();
    check_status(status, &file.name)?;
    // A server that knows no ranges sends everything: what was there is dropped.
    let begins = if status == 206 { have } else { 0 };
    let mut out = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(status != 206)
        .open(unfinished)
        .with_context(|| format!("cannot write {}", unfinished.display()))?;
    std::io::Seek::seek(&mut out, std::io::SeekFrom::Start(begins))?;
    let mut body = response.into_body().into_reader();
    let (mut buffer, mut done) = (vec![0; 1 << 20], begins);
    loop {
        let count = body.read(&mut buffer).map_err(remote::read_failure)?;
        if count == 0 {
            return Ok(());
        }
        if done + count as u64 > file.bytes {
            drop(out);
            discard(unfinished);
            return Err(fail(
                format!("{url} is longer than its {} bytes", file.bytes),
                "run it again",
            ));
        }
        out.write_all(&buffer[..count]).map_err(|why| {
            // Not as an I/O error, which would be worth another try.
            fail(
                format!("cannot write {}: {why}", unfinished.display()),
                "make room, and run it again: what was downloaded is kept",
            )
        })?;
        done += count as u64;
        show(done);
    }
}

/// Compares the checksum, which covers the size; a file that differs is removed.
fn check(path: &Path, file: &RemoteFile) -> anyhow::Result<()> {
    let found = verify::checksum(path, file.checksum)?;
    if found.eq_ignore_ascii_case(&file.blob) {
        return Ok(());
    }
    discard(path);
    let kind = file.checksum.name();
    Err(fail(
        format!("{} is damaged: its {kind} is {found}, not {}", file.name, file.blob),
        "the file was removed; run it again",
    ))
}

fn discard(path: &Path) {
    // If it cannot be removed, the next try fails on it and reports that.
    let _ = std::fs::remove_file(path);
}

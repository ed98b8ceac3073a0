//! Export to the published layout: what is written, what is kept of an interrupted run, and what is never replaced.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use safetensors::SafeTensors;

use super::super::export::{Export, ExportOptions, RECORD};
use super::shapes::{GRAPH, SPEC};
use super::*;

/// Two or more weights in each of several files.
const SHARD_BYTES: u64 = 40_000;

fn config() -> Vec<(String, Vec<u8>)> {
    vec![("config.json".to_owned(), b"{}".to_vec())]
}

fn source(entries: &[Entry]) -> Checkpoint {
    Checkpoint::from_bytes_shapes("source", file(entries), &SPEC, &GRAPH)
        .unwrap_or_else(|error| panic!("{error}"))
}

/// Exports until `weights` weights are written, or all.
fn export(checkpoint: &Checkpoint, folder: &Path, weights: Option<usize>) -> Result<Export> {
    let files = config();
    let options = ExportOptions { folder, files: &files, shard_bytes: SHARD_BYTES };
    let mut written = 0;
    checkpoint.export(&SPEC, &options, &mut |_| {
        written += 1;
        if Some(written) == weights { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
}

/// Every tensor of a folder's files of weights: type, shape and bytes.
fn tensors(folder: &Path) -> BTreeMap<String, (String, Vec<usize>, Vec<u8>)> {
    let mut all = BTreeMap::new();
    for name in shards(folder) {
        let bytes = fs::read(folder.join(name)).expect("a file");
        let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
        for (name, view) in file.tensors() {
            let dtype = format!("{:?}", view.dtype());
            all.insert(name, (dtype, view.shape().to_vec(), view.data().to_vec()));
        }
    }
    all
}

fn shards(folder: &Path) -> Vec<String> {
    names(folder).into_iter().filter(|name| name.ends_with(".safetensors")).collect()
}

fn names(folder: &Path) -> Vec<String> {
    let name = |entry: std::io::Result<fs::DirEntry>| {
        entry.expect("an entry").file_name().to_string_lossy().into_owned()
    };
    let mut names: Vec<String> = fs::read_dir(folder).expect("a folder").map(name).collect();
    names.sort();
    names
}

#[test]
fn both_layouts_become_the_published_tensors() {
    let expected: BTreeMap<_, _> = hugging_face()
        .into_iter()
        .map(|entry| (entry.name, (entry.dtype.to_owned(), entry.shape, entry.bytes)))
        .collect();
    for entries in [hugging_face(), openai()] {
        let folder = temporary();
        let export = export(&source(&entries), folder.path(), None).expect("an export");
        assert!(export.complete && export.kept == 0 && export.shards > 2, "{export:?}");
        assert_eq!(export.tensors.len(), expected.len());
        assert!(export.tensors.iter().all(|tensor| tensor.relative_error == 0.0), "{export:?}");
        assert!(tensors(folder.path()) == expected, "tensors differ");
        // The loader takes the folder through its index.
        open(folder.path()).unwrap_or_else(|error| panic!("{error}"));
        assert!(names(folder.path()).iter().all(|name| !name.ends_with(".partial")));
    }
}

#[test]
fn an_interrupted_export_goes_on_where_it_stopped() {
    let (whole, folder) = (temporary(), temporary());
    let source = source(&hugging_face());
    export(&source, whole.path(), None).expect("an export");
    let first = export(&source, folder.path(), Some(9)).expect("a part");
    assert!(!first.complete, "{first:?}");
    let (done, kept) = (first.tensors.len(), shards(folder.path()));
    assert!(done > 0 && !kept.is_empty() && kept.len() < first.shards, "{first:?}");
    assert!(open(folder.path()).is_err(), "a part is no checkpoint");
    // What a killed process leaves behind.
    let (next, all) = (kept.len() + 1, first.shards);
    let left = format!(".model-{next:05}-of-{all:05}.safetensors.partial");
    write(folder.path(), &left, b"half");
    let inodes = || -> Vec<u64> {
        kept.iter()
            .map(|name| fs::metadata(folder.path().join(name)).expect("a file").ino())
            .collect()
    };
    let before = inodes();
    let second = export(&source, folder.path(), None).expect("the rest");
    assert!(second.complete && second.kept == kept.len(), "{second:?}");
    assert!(!names(folder.path()).contains(&left), "{left} is still there");
    assert_eq!(inodes(), before, "finished files are kept");
    assert!(tensors(folder.path()) == tensors(whole.path()), "tensors differ");
    // A third call finds all of it, and the reports are the same.
    let third = export(&source, folder.path(), None).expect("nothing to do");
    assert_eq!((third.complete, third.kept), (true, third.shards));
    assert_eq!(third.tensors, second.tensors);
    let report = |folder: &Path| -> Value {
        serde_json::from_slice(&fs::read(folder.join(RECORD)).expect("a record")).expect("JSON")
    };
    assert_eq!(report(folder.path()), report(whole.path()));
}

/// What is wrong with an export to a folder that `prepare` changed after an export of so many weights.
fn refusal(weights: usize, prepare: impl FnOnce(&Path)) -> String {
    let folder = temporary();
    let source = source(&hugging_face());
    if weights > 0 {
        export(&source, folder.path(), Some(weights)).expect("a part");
    }
    prepare(folder.path());
    let before: Vec<(String, Option<Vec<u8>>)> = names(folder.path())
        .into_iter()
        .map(|name| (name.clone(), fs::read(folder.path().join(name)).ok()))
        .collect();
    let error = export(&source, folder.path(), None).expect_err("refused").to_string();
    let after = before.iter().all(|(name, content)| {
        name == RECORD || fs::read(folder.path().join(name)).ok() == *content
    });
    assert!(after, "files changed although the export was refused: {error}");
    error
}

#[test]
fn nothing_of_others_is_replaced() {
    let shard = |folder: &Path, which: usize| -> PathBuf { folder.join(&shards(folder)[which]) };
    for (weights, prepare, expected) in [
        (
            0,
            Box::new(|at: &Path| write(at, "notes.txt", b"mine")) as Box<dyn FnOnce(&Path)>,
            "notes.txt",
        ),
        (
            9,
            Box::new(move |at| fs::write(shard(at, 0), b"other").expect("a file")),
            "was changed after it was written",
        ),
        (
            9,
            Box::new(|at| {
                let name = shards(at)[0].replace("00001-of", "00002-of");
                write(at, &name, b"other");
            }),
            "was not written by this conversion",
        ),
        (9, Box::new(|at| write(at, "config.json", b"[]")), "config.json: holds something else"),
        (9, Box::new(|at| write(at, RECORD, b"{}")), "is no record of a conversion"),
        (
            9,
            Box::new(|at| {
                let other = temporary();
                let bytes = file(&hugging_face());
                let renamed = Checkpoint::from_bytes_shapes("another", bytes, &SPEC, &GRAPH);
                export(&renamed.expect("weights"), other.path(), Some(9)).expect("a part");
                fs::copy(other.path().join(RECORD), at.join(RECORD)).expect("a record");
            }),
            "another were being converted",
        ),
    ] {
        let error = refusal(weights, prepare);
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn one_export_at_a_time_and_only_to_a_folder() {
    let folder = temporary();
    let source = source(&hugging_face());
    let lock = fs::File::open(folder.path()).expect("a folder");
    lock.lock().expect("a lock");
    let error = export(&source, folder.path(), None).expect_err("locked").to_string();
    assert!(error.contains("another process is writing it"), "{error}");
    drop(lock);
    write(folder.path(), "file", b"");
    let error = export(&source, &folder.path().join("file"), None).expect_err("a file");
    assert!(error.to_string().contains("is a file"), "{error}");
    let error = export(&source, &folder.path().join("file/below"), None).expect_err("no folder");
    assert!(error.to_string().contains("cannot make the folder"), "{error}");
    // The folders between are made.
    export(&source, &folder.path().join("a/b"), None).expect("an export");
}

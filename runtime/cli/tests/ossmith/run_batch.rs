//! `ossmith run-batch`: what cannot be run is refused before anything is. That its answers are those of a server is in `harnesses`.

use crate::common::{Folder, refuses};

#[test]
fn a_batch_that_cannot_be_run_is_refused_before_anything_is() {
    let folder = Folder::empty();
    let wrong = folder
        .write("wrong.jsonl", "\n{\"custom_id\": \"a\", \"url\": \"/v1/models\", \"body\": {}}\n");
    let (output, missing) = (folder.path("out.jsonl"), folder.path("missing.jsonl"));
    for (input, output, want) in [
        (&wrong, &output, &["line 2", "/v1/models"][..]),
        (&missing, &output, &["missing.jsonl"]),
        (&wrong, &wrong, &["the output is the input"]),
    ] {
        let args = ["run-batch", "-i", input, "-o", output, "--backend", "cpu"].map(str::to_owned);
        refuses(&args, 1, want);
    }
    assert!(!std::path::Path::new(&output).exists());
}

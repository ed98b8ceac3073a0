//! Rewrites the committed CUDA text. The test that compares it does the writing, so both agree on every path.

use crate::shell::{Result, cargo, run};

/// Runs the golden test in its writing mode; `git diff codegen/goldens` then shows what a change does to each kernel.
pub(crate) fn rewrite() -> Result<()> {
    run(cargo(&["test", "--quiet", "--package", "ossmith-tests", "--test", "generated", "goldens"])
        .env("OSSMITH_BLESS", "1"))
}

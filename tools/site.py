"""Makes a site of the repository's documents with MkDocs: `cargo xtask site` runs it, with a Python that has MkDocs.

    python tools/site.py SOURCE SITE

Pages are copied to SOURCE under their paths, so links between them hold; links to other files lead to the repository. Headings that
links name are checked. Writes the site to SITE.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
REPOSITORY = "https://github.com/ossmith/ossmith"
PAGES = {
    "Getting started": "README.md",
    "Serving": {
        "The server": "docs/SERVER.md",
        "Clients": "docs/CLIENTS.md",
        "Tools": "docs/TOOLS.md",
        "Many replicas": "docs/SCALE.md",
        "Harnesses": "docs/HARNESSES.md",
        "Chat page": "docs/CHAT.md",
        "Installing": "packaging/README.md",
        "Operating": "docs/OPERATING.md",
        "Security": "docs/SECURITY.md",
        "Environment variables": "docs/ENVIRONMENT.md",
    },
    "Models": {
        "Checkpoints": "docs/CHECKPOINTS.md",
        "GGUF": "docs/GGUF.md",
        "Built-in models": "models/README.md",
        "nano": "tools/nano-training/README.md",
    },
    "Kernels": {
        "Map of the code": "ARCHITECTURE.md",
        "Performance": "docs/PERFORMANCE.md",
        "Tuning": "docs/TUNING.md",
        "Profiling": "docs/PROFILING.md",
        "Reports": "docs/REPORTS.md",
        "The generator": "codegen/README.md",
    },
    "Embedding": {
        "The runtime": "runtime/README.md",
        "The server's router": "runtime/server/README.md",
        "Structured output": "runtime/guide/README.md",
        "Harmony": "harmony/README.md",
        "One dependency": "runtime/embed/README.md",
        "Python": "runtime/python/README.md",
    },
    "Contributing": {
        "How to work here": "CONTRIBUTING.md",
        "Tests": "tests/README.md",
        "Testing the tests": "docs/TESTING.md",
        "Benches": "benches/README.md",
        "Dependencies": "docs/DEPENDENCIES.md",
        "Changes": "CHANGELOG.md",
        "Experiments": "docs/experiments/README.md",
    },
}
# Pages that others lead to.
FURTHER = ["docs/experiments/**/*.md", "benches/results/**/README.md", "tests/fixtures/README.md"]
PICTURES = {".png", ".svg", ".jpg"}
LINK = re.compile(r"(\]\()([^)\s]+)(\))")
FENCE = re.compile(r"^```.*?^```", re.M | re.S)


def pages():
    named = [page for part in PAGES.values() for page in ([part] if isinstance(part, str) else part.values())]
    further = [str(path.relative_to(ROOT)) for pattern in FURTHER for path in ROOT.glob(pattern)]
    return sorted({*named, *further})


def link(page, target, known):
    """Where a link of a page leads on the site."""
    file, _, heading = target.partition("#")
    if "://" in target or not file:
        return target
    path = ((ROOT / page).parent / file).resolve().relative_to(ROOT)
    if (ROOT / path).is_dir():
        path = path / "README.md" if str(path / "README.md") in known else path
    if str(path) in known or path.suffix in PICTURES:
        up = "../" * (len(Path(page).parts) - 1)
        return f"{up}{path}{'#' + heading if heading else ''}"
    return f"{REPOSITORY}/{'tree' if (ROOT / path).is_dir() else 'blob'}/main/{path}"


def write(page, known, source):
    text = (ROOT / page).read_text("utf-8")
    pictures = set()

    def follow(match):
        target = link(page, match[2], known)
        if Path(target).suffix in PICTURES and "://" not in target:
            pictures.add(((ROOT / page).parent / match[2]).resolve())
        return f"{match[1]}{target}{match[3]}"

    # What stands in a fence is no link.
    parts, last = [], 0
    for fence in FENCE.finditer(text):
        parts += [LINK.sub(follow, text[last : fence.start()]), fence[0]]
        last = fence.end()
    parts.append(LINK.sub(follow, text[last:]))
    to = source / page
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_text("".join(parts), "utf-8")
    for picture in pictures:
        at = source / picture.relative_to(ROOT)
        at.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, at)


def main() -> None:
    source, site = map(Path, sys.argv[1:])
    shutil.rmtree(source, ignore_errors=True)
    known = pages()
    for page in known:
        write(page, known, source)
    navigation = [
        {name: part if isinstance(part, str) else [{title: page} for title, page in part.items()]} for name, part in PAGES.items()
    ]
    config = {
        "site_name": "Ossmith",
        "repo_url": REPOSITORY,
        "docs_dir": str(source.resolve()),
        "site_dir": str(site.resolve()),
        "theme": {"name": "readthedocs", "highlightjs": False, "analytics": {"gtag": None}},
        "markdown_extensions": ["tables", "fenced_code", {"toc": {"permalink": True}}],
        "nav": navigation,
        "not_in_nav": "docs/experiments/*\nbenches/results/\ntests/fixtures/\n",
        "validation": {"links": {"anchors": "warn", "not_found": "warn"}},
    }
    # JSON is YAML.
    file = source.parent / "mkdocs.yml"
    file.write_text(json.dumps(config, indent=1), "utf-8")
    subprocess.run([sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--clean", "--config-file", file], check=True)
    print(f"{len(known)} pages in {site}")


if __name__ == "__main__":
    main()

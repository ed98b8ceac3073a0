"""Writes a bill of materials (CycloneDX 1.6, JSON) of what the command `ossmith` is built from on this platform: each crate with
its version, licence, checksum and what it depends on. `cargo xtask sbom` runs it; it needs nothing but cargo."""

import json
import subprocess
import sys
import tomllib
import uuid

ROOT = "ossmith-cli"


def main() -> None:
    host = next(
        line.split(" ", 1)[1]
        for line in subprocess.check_output(["rustc", "-vV"], text=True).splitlines()
        if line.startswith("host: ")
    )
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", host]
    metadata = json.loads(subprocess.check_output(command))
    with open("Cargo.lock", encoding="utf-8") as file:
        lock = file.read()
    locked = {(one["name"], one["version"]): one.get("checksum") for one in tomllib.loads(lock)["package"]}
    packages = {one["id"]: one for one in metadata["packages"]}
    # What is needed to build and run it; tests of a crate are not in its program.
    needs = {
        node["id"]: [
            dep["pkg"] for dep in node["deps"] if any(kind["kind"] != "dev" for kind in dep["dep_kinds"])
        ]
        for node in metadata["resolve"]["nodes"]
    }
    root = next(one["id"] for one in metadata["packages"] if one["name"] == ROOT)
    found, left = set(), [root]
    while left:
        one = left.pop()
        if one not in found:
            found.add(one)
            left.extend(needs[one])

    def component(one: str) -> dict:
        package = packages[one]
        name, version = package["name"], package["version"]
        described = {
            "type": "application" if one == root else "library",
            "bom-ref": f"{name}@{version}",
            "name": name,
            "version": version,
        }
        # Crates of the workspace come from no registry.
        if package["source"] is not None:
            described["purl"] = f"pkg:cargo/{name}@{version}"
        if package["description"]:
            described["description"] = " ".join(package["description"].split())
        if package["license"]:
            # Older crates write `/` for `OR`.
            described["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
        if checksum := locked.get((name, version)):
            described["hashes"] = [{"alg": "SHA-256", "content": checksum}]
        return described

    def reference(one: str) -> str:
        return f"{packages[one]['name']}@{packages[one]['version']}"

    others = sorted(found - {root}, key=reference)
    bom = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        # The same dependencies give the same file.
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, host + lock)}",
        "version": 1,
        "metadata": {"component": component(root), "properties": [{"name": "target", "value": host}]},
        "components": [component(one) for one in others],
        "dependencies": [
            {"ref": reference(one), "dependsOn": sorted({reference(dep) for dep in needs[one]})}
            for one in [root, *others]
        ],
    }
    with open(sys.argv[1], "w") as file:
        json.dump(bom, file, indent=1)
        file.write("\n")
    print(f"{len(others)} crates")


main()

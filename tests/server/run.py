"""Drives a server with the packages that its users have.

    python run.py chat|responses|agents_sdk BASE_URL MODEL [case …]

Prints a line a case; exits with 1 if one failed.
"""

import importlib
import sys
import traceback

from openai import OpenAI


def main() -> int:
    suite, url, model, *wanted = sys.argv[1:]
    client = OpenAI(base_url=url, api_key="none", max_retries=0, timeout=120)
    failed = 0
    for case in importlib.import_module(suite).CASES:
        if wanted and case.__name__ not in wanted:
            continue
        try:
            case(client, model)
            print(f"ok {suite} {case.__name__}", flush=True)
        except Exception:
            failed += 1
            print(f"FAILED {suite} {case.__name__}\n{traceback.format_exc()}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

"""What a completion must look like and when it is right; the Rust side scores by the same rules.

A completion is the text after `<|start|>assistant`, special tokens by name. Its form: a message on `analysis`, then
either a message on `final` that ends in `<|return|>`, or a call on `commentary` that ends in `<|call|>`.
"""

import json
import re
from collections import defaultdict

FORM = re.compile(
    r"<\|channel\|>analysis<\|message\|>(?P<analysis>(?:(?!<\|).)*)<\|end\|><\|start\|>assistant<\|channel\|>"
    r"(?:final<\|message\|>(?P<final>(?:(?!<\|).)*)<\|return\|>"
    r"|commentary to=(?P<name>[\w.-]+) <\|constrain\|>json<\|message\|>(?P<arguments>(?:(?!<\|).)*)<\|call\|>)", re.S)


def parse(text):
    """The parts of a well-formed completion (`analysis`, and `final` or `name` and `arguments`), else None."""
    m = FORM.fullmatch(text)
    return m and m.groupdict()


def right(rule, parts):
    """Whether a well-formed completion meets every part of the rule."""
    if "call" in rule:
        try:
            return parts["name"] == rule["call"]["name"] and json.loads(parts["arguments"]) == rule["call"]["arguments"]
        except (TypeError, ValueError):
            return False
    text = parts["final"]
    if text is None:
        return False
    text = text.strip()
    numbers = re.findall(r"-?\d+", text)
    return all([
        text in rule["equals"] if "equals" in rule else True,
        all(c in text for c in rule.get("contains", [])),
        not any(c in text for c in rule.get("excludes", [])),
        bool(numbers) and int(numbers[-1]) == rule["number"] if "number" in rule else True,
        text == text.upper() if rule.get("upper") else True,
    ])


def score(cases, completions):
    """(report a skill, failures): the report has counts, and the mean length of the analysis in words for each effort."""
    table, words, failures = defaultdict(lambda: [0, 0, 0]), defaultdict(list), []
    for case, text in zip(cases, completions, strict=True):
        parts = parse(text)
        ok = bool(parts) and right(case["expect"], parts)
        row = table[case["skill"]]
        row[0] += 1
        row[1] += ok
        row[2] += bool(parts)
        if parts:
            words[case["effort"]].append(len(parts["analysis"].split()))
        if not ok:
            failures.append((case, text))
    rows = dict(sorted(table.items()))
    rows["all"] = [sum(r[i] for r in table.values()) for i in range(3)]
    report = {k: {"cases": n, "right": r, "well_formed": w, "score": round(100 * r / n, 1)} for k, (n, r, w) in rows.items()}
    report["analysis_words"] = {k: round(sum(v) / len(v), 1) for k, v in sorted(words.items())}
    return report, failures


def table(report):
    lines = [f"{'skill':12} {'cases':>5} {'right':>6} {'formed':>6}"]
    for skill, r in report.items():
        if skill != "analysis_words":
            lines.append(f"{skill:12} {r['cases']:5} {r['score']:5.1f}% {100 * r['well_formed'] / r['cases']:5.1f}%")
    return "\n".join([*lines, f"words of analysis by effort: {report['analysis_words']}"])

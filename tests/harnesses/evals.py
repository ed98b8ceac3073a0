"""lm-eval and the evals of OpenAI's gpt_oss package against a server of nano.

    python evals.py OSSMITH [FOLDER]

FOLDER is a virtual environment of Python 3.12 with tests/harnesses/requirements.txt; without it, this Python's own packages are used.
The task is four sums, by log-likelihood and generated: lm-eval reads the tokenizer from the server. Prints a line per harness;
exits with 1 if a score is not 1.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from server import Server

SUMS = [(17, 25), (3, 4), (20, 13), (8, 9)]
QUESTION = "What is {{a}} + {{b}}?"
# nano reasons before it answers; a likelihood is that of an answer without.
TURN = f"<|start|>user<|message|>{QUESTION}<|end|><|start|>assistant"
FINAL = f"{TURN}<|channel|>final<|message|>"
COMMON = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
num_fewshot: 0
"""
# By the likelihood of a right and a wrong answer, and by a generated one.
CHOICE = COMMON + """
output_type: multiple_choice
doc_to_text: '{prompt}'
doc_to_choice: ['{{{{a + b}}}}', '{{{{a + b + 3}}}}']
doc_to_target: 0
target_delimiter: ''
metric_list: [{{metric: acc}}]
"""
GENERATED = COMMON + """
output_type: generate_until
doc_to_text: '{prompt}'
doc_to_target: '{{{{a + b}}}}'
generation_kwargs: {{max_gen_toks: 200, temperature: 0, until: ['<|return|>']}}
filter_list: [{{name: number, filter: [{{function: regex, regex_pattern: '(\\d+)\\D*$'}}, {{function: take_first}}]}}]
metric_list: [{{metric: exact_match}}]
"""


def run(command, environment, cwd):
    done = subprocess.run(command, env=environment, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise RuntimeError(f"{command} exits with {done.returncode}: {done.stdout[-2000:]}")
    return done.stdout


def lm_eval(python, server, folder, environment, task, model, url, *more):
    output = folder / f"out {task}"
    args = f"model=nano,base_url={server.url}{url},num_concurrent=2,max_retries=1,timeout=600,tokenizer_backend=remote"
    if "chat" in model:
        args = args.replace("remote", "none")
    run([python, "-m", "lm_eval", "run", "--model", model, "--model_args", args, "--tasks", task, "--include_path", folder / "tasks",
         "--output_path", output, *more], environment, folder)
    (found,) = output.rglob("results_*.json")
    results = json.loads(found.read_text("utf-8"))["results"][task]
    return next(value for name, value in results.items() if name.startswith(("acc,", "exact_match,")))


def gpt_oss(python, server, folder, environment, sampler):
    output = run([python, "-m", "gpt_oss.evals", "--base-url", f"{server.url}/v1", "--model", "nano", "--eval", "basic", "--sampler", sampler,
                  "--reasoning-effort", "low", "--n-threads", "2"], environment, folder)
    # It writes its reports to a folder of its own choice.
    for written in re.findall(r"Writing .* to (\S+)", output):
        Path(written).unlink()
    return float(re.search(r"'metric': ([\d.]+)", output)[1])


def main() -> int:
    ossmith, *given = sys.argv[1:]
    python = Path(given[0]) / "bin/python" if given else sys.executable
    failed = False
    with tempfile.TemporaryDirectory() as name, Server(ossmith) as server:
        folder = Path(name)
        (folder / "tasks").mkdir()
        data = folder / "sums.jsonl"
        data.write_text("".join(json.dumps({"a": a, "b": b}) + "\n" for a, b in SUMS), "utf-8")
        for task, text, prompt in [("sums_choice", CHOICE, FINAL), ("sums_generated", GENERATED, TURN), ("sums_chat", GENERATED, QUESTION)]:
            (folder / f"tasks/{task}.yaml").write_text(text.format(name=task, data=data, prompt=prompt), "utf-8")
        environment = {**os.environ, "OPENAI_API_KEY": "none", "HF_HOME": f"{name}/hf", "HF_HUB_OFFLINE": "1",
                       "HF_DATASETS_OFFLINE": "1"}
        checks = {
            "lm-eval, local-completions, log-likelihood": lambda: lm_eval(
                python, server, folder, environment, "sums_choice", "local-completions", "/v1/completions"),
            "lm-eval, local-completions, generated": lambda: lm_eval(
                python, server, folder, environment, "sums_generated", "local-completions", "/v1/completions"),
            "lm-eval, local-chat-completions": lambda: lm_eval(
                python, server, folder, environment, "sums_chat", "local-chat-completions", "/v1/chat/completions", "--apply_chat_template"),
            "gpt_oss.evals, responses": lambda: gpt_oss(python, server, folder, environment, "responses"),
            "gpt_oss.evals, chat_completions": lambda: gpt_oss(python, server, folder, environment, "chat_completions"),
        }
        for check, score in checks.items():
            try:
                found = score()
            except (RuntimeError, AssertionError) as why:
                found = why
            failed |= found != 1
            print(f"{'ok' if found == 1 else 'FAILED'} {check}: score {found}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

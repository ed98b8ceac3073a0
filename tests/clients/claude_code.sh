#!/bin/bash
# Claude Code without a terminal: it runs a command, whose output the model repeats.
#   claude_code.sh PROGRAM BASE_URL
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
mkdir "$folder/home" "$folder/work"; cd "$folder/work"
echo "the blue book" > note.txt
export HOME=$folder/home ANTHROPIC_BASE_URL=$2 ANTHROPIC_API_KEY=none
export CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1 DISABLE_AUTOUPDATER=1 DISABLE_TELEMETRY=1 DISABLE_ERROR_REPORTING=1
version=$("$1" --version | cut -d' ' -f1)
answer=$(timeout 400 "$1" -p "What is in note.txt?" --allowedTools Bash --output-format json < /dev/null) || true
case $answer in
  *"The tool returned: the blue book"*) echo "ok Claude Code | $version | \`claude -p\` runs a command and answers with its output" ;;
  *) echo "FAILED: $answer"; exit 1 ;;
esac

#!/bin/bash
# Codex without a terminal, with a provider and nothing else in its configuration: it runs a command, applies a patch, reads the
# file again and answers with what it read.
#   codex.sh PROGRAM BASE_URL
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
mkdir "$folder/home" "$folder/work"
echo "the blue book" > "$folder/work/note.txt"
export HOME=$folder/home CODEX_HOME=$folder/home
cat > "$CODEX_HOME/config.toml" <<EOF
model = "gpt-oss-20b"
model_provider = "ossmith"
[model_providers.ossmith]
name = "Ossmith"
base_url = "$2/v1"
wire_api = "responses"
EOF
version=$("$1" --version | cut -d' ' -f2)
# Its sandbox needs namespaces that containers often forbid, and is not what is tested here.
log=$folder/log
timeout 400 "$1" exec --dangerously-bypass-approvals-and-sandbox --skip-git-repo-check -C "$folder/work" \
  --output-last-message "$folder/answer" "Which book is in note.txt? Make it red." < /dev/null > "$log" 2>&1 || { cat "$log"; exit 1; }
answer=$(cat "$folder/answer"); note=$(cat "$folder/work/note.txt")
case "$note $answer" in
  "the red book The tool returned:"*"the red book"*)
    echo "ok Codex CLI | $version | \`codex exec\` runs a command, applies a patch and answers with what it reads then" ;;
  *) cat "$log"; echo "FAILED: $note: $answer"; exit 1 ;;
esac
